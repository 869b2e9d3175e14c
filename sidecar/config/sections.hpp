#pragma once
/// The sections of a sidecar's file as tables of fields. Only for the folder config.

#include <arpa/inet.h>

#include <array>
#include <charconv>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include <resilience/detail/yaml/fields.hpp>
#include <resilience/detail/yaml/policies.hpp>

#include "sidecar/config/settings.hpp"

namespace sidecar {

// ---- What a section says, where it has another shape than the settings made of it.

struct admin_section {
  endpoint address{"127.0.0.1", 0};
};

struct tracing_section {
  std::optional<std::string> otlp, zipkin;
  resilience::percent sample = tracing_settings{}.sample;
};

/// An address, or a block of them: `10.0.0.0/8`.
struct address_block {
  std::string text;
};

/// What a retry repeats on: `connect_failure`, `reset`, or a status.
struct retry_cause {
  enum class kind_type : std::uint8_t { connect_failure, reset, status } kind = kind_type::status;
  int status = 0;
};
struct retry_section {
  resilience::retry_config policy;
  std::vector<retry_cause> on{{retry_cause::kind_type::connect_failure, 0},
                              {retry_cause::kind_type::reset, 0},
                              {retry_cause::kind_type::status, 502},
                              {retry_cause::kind_type::status, 503},
                              {retry_cause::kind_type::status, 504}};
  std::set<std::string> methods = retry_rules{}.methods;
  enum class retry_after_type : std::uint8_t { honour, ignore } retry_after = retry_after_type::honour;
  std::uint64_t replay_buffer = retry_rules{}.replay_buffer;
};

struct match_section {
  std::optional<std::string> path, path_prefix, path_regex;
  std::set<std::string> methods;
  std::map<std::string, std::string> headers;
  std::optional<std::string> host;
};

struct use_section {
  std::optional<std::string> circuit_breaker, rate_limiter, adaptive_rate_limiter, bulkhead, retry;
};

struct fallback_section {
  std::optional<std::set<reason>> when;
  std::optional<fallback_settings::respond> respond;
  std::optional<std::string> upstream;
  std::optional<nanoseconds> stale;
};

struct route_section {
  std::optional<std::string> name;
  match_section match;
  std::string upstream;
  nanoseconds timeout = route_settings{}.timeout;
  std::optional<nanoseconds> per_try_timeout;
  request_limits limits;
  std::optional<fallback_section> fallback;
  std::optional<chaos_settings> chaos;
};

// ---- Bounds. Each returns the first that is broken.

using broken_bound = std::optional<resilience::config_error>;

inline bool valid_status(int s) { return s >= 200 && s <= 599; }

inline broken_bound check(const request_limits& c) {
  constexpr std::uint64_t most = 16 * 1024 * 1024;
  if (c.max_line < 16 || c.max_line > most) return {{"max_line", "be 16B to 16MiB"}};
  if (c.max_header < 16 || c.max_header > most) return {{"max_header", "be 16B to 16MiB"}};
  if (c.max_fields < 1 || c.max_fields > 100'000) return {{"max_fields", "be 1 to 100000"}};
  if (c.header_timeout <= 0ns) return {{"header_timeout", "be more than 0"}};
  if (c.body_idle_timeout <= 0ns) return {{"body_idle_timeout", "be more than 0"}};
  if (c.idle_timeout <= 0ns) return {{"idle_timeout", "be more than 0"}};
  return {};
}
inline broken_bound check(const listen_settings& c) {
  if (c.max_connections < 1) return {{"max_connections", "be at least 1"}};
  if (c.threads < 0 || c.threads > 1024) return {{"threads", "be 0 (one per CPU) to 1024"}};
  return check(c.limits);
}
inline broken_bound check(const health_check_settings& c) {
  if (c.interval <= 0ns) return {{"interval", "be more than 0"}};
  if (!c.path.starts_with('/')) return {{"path", "begin with /"}};
  return {};
}
inline broken_bound check(const upstream_settings& c) {
  if (c.connect_timeout <= 0ns) return {{"connect_timeout", "be more than 0"}};
  if (c.idle_timeout < 0ns) return {{"idle_timeout", "be at least 0"}};
  // Last, for a list that is put back to its default is still empty.
  if (c.targets.empty()) return {{"targets", "name at least one address"}};
  for (const endpoint& e : c.targets) {
    if (e.port == 0) return {{"targets", "have ports of 1 to 65535"}};
  }
  return {};
}
inline broken_bound check(const drain_settings& c) {
  if (c.delay < 0ns) return {{"delay", "be at least 0"}};
  if (c.timeout < 0ns) return {{"timeout", "be at least 0"}};
  return {};
}
inline broken_bound check(const access_log_settings& c) {
  if (c.path.empty()) return {{"path", "be stdout, none or a file"}};
  return {};
}
inline broken_bound check(const tracing_section& c) {
  const auto url = [](const std::optional<std::string>& u) {
    return !u || ((u->starts_with("http://") || u->starts_with("https://")) && u->find_first_of(" \t\n") == u->npos);
  };
  if (!url(c.otlp)) return {{"otlp", "be a URL that begins with http:// or https://"}};
  if (!url(c.zipkin)) return {{"zipkin", "be a URL that begins with http:// or https://"}};
  if (!(c.sample >= resilience::percent{0} && c.sample <= resilience::percent{100}))
    return {{"sample", "be at least 0 and at most 100"}};
  return {};
}
inline broken_bound check(const retry_section& c) {
  if (const auto broken = check(c.policy)) return broken;
  if (c.replay_buffer > 64 * 1024 * 1024) return {{"replay_buffer", "be at most 64MiB"}};
  return {};
}
inline broken_bound check(const match_section& c) {
  const auto path = [](const std::optional<std::string>& p) {
    return !p || (p->starts_with('/') && p->find_first_of("?# \t\r\n") == p->npos);
  };
  if (!path(c.path)) return {{"path", "begin with / and hold no ?, # or space"}};
  if (!path(c.path_prefix)) return {{"path_prefix", "begin with / and hold no ?, # or space"}};
  return {};
}
inline broken_bound check(const fallback_settings::respond& c) {
  if (!valid_status(c.status)) return {{"status", "be 200 to 599"}};
  return {};
}
inline broken_bound check(const fallback_section& c) {
  if (c.when && c.when->empty()) return {{"when", "name at least one reason"}};
  if (c.stale && *c.stale <= 0ns) return {{"stale", "be more than 0"}};
  return {};
}
inline broken_bound check(const chaos_settings& c) {
  if (!(c.rate > resilience::percent{0} && c.rate <= resilience::percent{100}))
    return {{"rate", "be more than 0 and at most 100"}};
  if (c.latency < 0ns) return {{"latency", "be at least 0"}};
  if (c.status && !valid_status(*c.status)) return {{"status", "be 200 to 599"}};
  return {};
}
inline broken_bound check(const route_section& c) {
  if (c.timeout <= 0ns) return {{"timeout", "be more than 0"}};
  if (c.per_try_timeout && *c.per_try_timeout <= 0ns) return {{"per_try_timeout", "be more than 0"}};
  return check(c.limits);
}

/// Whether `text` is a token of HTTP (RFC 9110, 5.6.2): a method or the name of a field.
inline bool is_token(std::string_view text) {
  return !text.empty() &&
         text.find_first_not_of("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ") ==
             std::string_view::npos;
}
inline std::string lower(std::string text) {
  for (char& c : text) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  return text;
}
inline std::string to_text(const endpoint& e) {
  const bool v6 = e.host.find(':') != std::string::npos;
  return (v6 ? "[" + e.host + "]" : e.host) + ":" + std::to_string(e.port);
}

}  // namespace sidecar

namespace resilience::detail::yaml {

// ---- How values of the sidecar are written.

template <>
struct codec<std::optional<std::uint64_t>> {
  static constexpr std::string_view unit = "size: `64KiB` `10MiB`, or `unlimited`";
  static parsed<std::optional<std::uint64_t>> parse(std::string_view text) {
    if (text == "unlimited") return std::optional<std::uint64_t>{};
    const auto bytes = codec<std::uint64_t>::parse(text);
    if (!bytes) return wrong(bytes.error());
    return std::optional(*bytes);
  }
  static std::string show(const std::optional<std::uint64_t>& v) {
    return v ? codec<std::uint64_t>::show(*v) : "unlimited";
  }
  static std::string json(const std::optional<std::uint64_t>& v) { return json_string(show(v)); }
  static std::string schema() { return R"({"type":"string","pattern":"^([0-9]+(B|KiB|MiB|GiB)|unlimited)$"})"; }
};

template <>
struct codec<sidecar::endpoint> {
  static constexpr std::string_view unit = "address: `127.0.0.1:8080`, `[::1]:8080`, `host:8080`";
  static parsed<sidecar::endpoint> parse(std::string_view text) {
    const std::size_t colon = text.rfind(':');
    const auto bad = [&] { return wrong("must be an address such as 127.0.0.1:8080, not " + ticked(text)); };
    if (colon == std::string_view::npos) return bad();
    std::string host(text.substr(0, colon));
    const std::string_view digits = text.substr(colon + 1);
    int port = 0;
    const auto [end, failed] = std::from_chars(digits.data(), digits.data() + digits.size(), port);
    if (digits.empty() || failed != std::errc{} || end != digits.data() + digits.size() || port < 0) return bad();
    if (port > 65535) return wrong("must have a port of at most 65535, not " + ticked(digits));
    if (host.starts_with('[') && host.ends_with(']')) {
      host = host.substr(1, host.size() - 2);
      in6_addr v6;
      if (inet_pton(AF_INET6, host.c_str(), &v6) != 1) return bad();
    } else if (host.find_first_not_of("0123456789.") == std::string::npos) {
      in_addr v4;
      if (inet_pton(AF_INET, host.c_str(), &v4) != 1) return bad();
    } else if (host.size() > 253 ||
               host.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_") !=
                   std::string::npos) {
      return bad();
    }
    return sidecar::endpoint{std::move(host), static_cast<std::uint16_t>(port)};
  }
  static std::string show(const sidecar::endpoint& e) { return sidecar::to_text(e); }
  static std::string json(const sidecar::endpoint& e) { return json_string(show(e)); }
  static std::string schema() { return R"({"type":"string","pattern":":[0-9]+$","examples":["127.0.0.1:8080"]})"; }
};

template <>
struct codec<sidecar::address_block> {
  static constexpr std::string_view unit = "address or block: `10.0.0.0/8`";
  static parsed<sidecar::address_block> parse(std::string_view text) {
    const std::size_t slash = text.find('/');
    const std::string address(text.substr(0, slash));
    in6_addr v6;
    in_addr v4;
    const int bits = inet_pton(AF_INET, address.c_str(), &v4) == 1    ? 32
                     : inet_pton(AF_INET6, address.c_str(), &v6) == 1 ? 128
                                                                      : -1;
    bool good = bits > 0;
    if (good && slash != std::string_view::npos) {
      const auto length = codec<int>::parse(text.substr(slash + 1));
      good = length && *length >= 0 && *length <= bits;
    }
    if (!good) return wrong("must hold addresses or blocks such as 10.0.0.0/8, not " + ticked(text));
    return sidecar::address_block{std::string(text)};
  }
  static std::string show(const sidecar::address_block& b) { return b.text; }
  static std::string json(const sidecar::address_block& b) { return json_string(b.text); }
  static std::string schema() { return R"({"type":"string"})"; }
};

/// Methods of HTTP: the one use of this type in a configuration.
template <>
struct codec<std::set<std::string>> {
  static constexpr std::string_view unit = "list of methods";
  static bool read(const node& n, std::string_view key, report& problems, std::set<std::string>& out) {
    static const std::vector<std::string_view> known{"GET",     "HEAD",  "POST",  "PUT",    "DELETE",
                                                     "OPTIONS", "TRACE", "PATCH", "CONNECT"};
    std::vector<std::string> all;
    if (!codec<std::vector<std::string>>::read(n, key, problems, all)) return false;
    bool good = true;
    for (std::size_t i = 0; i < all.size(); ++i) {
      std::string upper = all[i];
      for (char& c : upper) c = c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c;
      if (sidecar::is_token(all[i]) && upper == all[i]) continue;
      problems.error(n.items[i].at, ticked(key) + " must hold methods in capitals, not " + ticked(all[i]) +
                                        did_you_mean(upper, known));
      good = false;
    }
    if (good && all.empty()) {
      problems.error(n.at, ticked(key) + " must name at least one method");
      return false;
    }
    out = {all.begin(), all.end()};
    return good;
  }
  static std::string show(const std::set<std::string>& s) {
    return s.empty() ? "none" : codec<std::vector<std::string>>::show({s.begin(), s.end()});
  }
  static std::string json(const std::set<std::string>& s) {
    return codec<std::vector<std::string>>::json({s.begin(), s.end()});
  }
  static std::string schema() {
    return R"({"type":"array","minItems":1,"items":{"type":"string","pattern":"^[A-Z]+$"}})";
  }
};

/// Header fields: name and value.
template <>
struct codec<std::map<std::string, std::string>> {
  static constexpr std::string_view unit = "map of field names to values";
  static bool read(const node& n, std::string_view key, report& problems, std::map<std::string, std::string>& out) {
    if (!is_map(n, key, problems)) return false;
    out.clear();
    bool good = true;
    for (const entry& e : n.entries) {
      std::string value;
      if (!sidecar::is_token(e.key)) {
        problems.error(e.key_at, ticked(e.key) + " is not the name of a header field");
        good = false;
      } else if (!read_scalar(e.value, e.key, problems, value)) {
        good = false;
      } else if (std::ranges::any_of(
                     value, [](char c) { return (static_cast<unsigned char>(c) < 0x20 && c != '\t') || c == 0x7f; })) {
        problems.error(e.value.at, "the value of a header field must be one line");
        good = false;
      } else if (!out.emplace(sidecar::lower(e.key), std::move(value)).second) {
        problems.error(e.key_at, "the field " + ticked(e.key) + " is there twice");
        good = false;
      }
    }
    return good;
  }
  static std::string show(const std::map<std::string, std::string>& m) {
    std::string out;
    for (const auto& [k, v] : m) out += (out.empty() ? "{ " : ", ") + k + ": " + yaml_string(v);
    return out.empty() ? "none" : out + " }";
  }
  static std::string json(const std::map<std::string, std::string>& m) {
    std::string out;
    for (const auto& [k, v] : m) out += (out.empty() ? "" : ",") + json_string(k) + ":" + json_string(v);
    return "{" + out + "}";
  }
  static std::string schema() {
    return R"({"type":"object","additionalProperties":{"type":["string","number","boolean"]}})";
  }
};

template <>
struct codec<sidecar::retry_cause> {
  using cause = sidecar::retry_cause;
  static constexpr std::string_view unit = "`connect_failure`, `reset` or a status";
  static parsed<cause> parse(std::string_view text) {
    static const std::vector<std::string_view> known{"connect_failure", "reset"};
    if (text == "connect_failure") return cause{cause::kind_type::connect_failure, 0};
    if (text == "reset") return cause{cause::kind_type::reset, 0};
    const auto status = codec<int>::parse(text);
    if (status && *status >= 400 && *status <= 599) return cause{cause::kind_type::status, *status};
    return wrong("must hold connect_failure, reset or a status of 400 to 599, not " + ticked(text) +
                 did_you_mean(text, known));
  }
  static std::string show(const cause& c) {
    return c.kind == cause::kind_type::status  ? std::to_string(c.status)
           : c.kind == cause::kind_type::reset ? "reset"
                                               : "connect_failure";
  }
  static std::string json(const cause& c) {
    return c.kind == cause::kind_type::status ? show(c) : json_string(show(c));
  }
  static std::string schema() {
    return R"({"oneOf":[{"enum":["connect_failure","reset"]},{"type":"integer","minimum":400,"maximum":599}]})";
  }
};

template <>
struct words_of<sidecar::retry_section::retry_after_type> {
  using type = sidecar::retry_section::retry_after_type;
  static constexpr std::string_view unit = "`honour` or `ignore`";
  static constexpr auto all =
      std::to_array<std::pair<std::string_view, type>>({{"honour", type::honour}, {"ignore", type::ignore}});
};

template <>
struct words_of<sidecar::reason> {
  static constexpr std::string_view unit = "reason";
  static constexpr auto all = [] {
    std::array<std::pair<std::string_view, sidecar::reason>, sidecar::reason_texts.size()> words;
    for (std::size_t i = 0; i < words.size(); ++i)
      words[i] = {sidecar::reason_texts[i].token, static_cast<sidecar::reason>(i)};
    return words;
  }();
};

template <>
struct codec<std::optional<std::set<sidecar::reason>>> {
  using type = std::optional<std::set<sidecar::reason>>;
  using list = codec<std::vector<sidecar::reason>>;
  static constexpr std::string_view unit = "list of reasons";
  static bool read(const node& n, std::string_view key, report& problems, type& out) {
    std::vector<sidecar::reason> all;
    const bool good = list::read(n, key, problems, all);
    out.emplace(all.begin(), all.end());
    return good;
  }
  static std::vector<sidecar::reason> effective(const type& v) {
    if (v) return {v->begin(), v->end()};
    std::vector<sidecar::reason> all;
    for (const auto& [word, r] : words_of<sidecar::reason>::all) {
      if (sidecar::may_fall_back(r)) all.push_back(r);
    }
    return all;
  }
  static std::string show(const type& v) { return list::show(effective(v)); }
  static std::string json(const type& v) { return list::json(effective(v)); }
  static std::string schema() { return list::schema(); }
};

// ---- The tables.

template <>
struct table<sidecar::request_limits> {
  using s = sidecar::request_limits;
  static constexpr std::array fields{
      member<s, &s::max_line>("max_line", "16B to 16MiB", "The longest request line; a longer one is answered 414."),
      member<s, &s::max_header>("max_header", "16B to 16MiB", "All header fields together; more is answered 431."),
      member<s, &s::max_fields>("max_fields", "1 to 100000", "Header fields; more is answered 431."),
      member<s, &s::max_body>("max_body", "", "The largest body; a larger one is answered 413."),
      member<s, &s::header_timeout>("header_timeout", "More than 0",
                                    "From the first byte to the end of the fields; then 408."),
      member<s, &s::body_idle_timeout>("body_idle_timeout", "More than 0", "Between two pieces of a body; then 408."),
      member<s, &s::idle_timeout>("idle_timeout", "More than 0", "A connection without a request is closed."),
  };
};

template <>
struct table<sidecar::listen_settings> {
  using s = sidecar::listen_settings;
  static constexpr std::array fields = join(
      std::array{
          member<s, &s::address>("address", "Port 0: the system chooses", "Where clients connect.", true),
          member<s, &s::max_connections>("max_connections", "At least 1",
                                         "Connections of clients; more are answered 503."),
          member<s, &s::threads>("threads", "0 to 1024", "Event loops; 0 is one per CPU."),
      },
      fields_of_part<s, &s::limits>());
  static constexpr std::array<std::string_view, 1> later{"tls"};
};

template <>
struct table<sidecar::admin_section> {
  using s = sidecar::admin_section;
  static constexpr std::array fields{
      member<s, &s::address>("address", "Port 0: the system chooses",
                             "Health, metrics and control; keep it on loopback."),
  };
  static constexpr std::array<std::string_view, 1> later{"tls"};
};

template <>
struct table<sidecar::health_check_settings> {
  using s = sidecar::health_check_settings;
  static constexpr std::array fields{
      member<s, &s::path>("path", "Begins with /", "Asked with GET; a 2xx is good.", true),
      member<s, &s::interval>("interval", "More than 0", "Between two checks of a target."),
  };
};

template <>
struct table<sidecar::upstream_settings> {
  using s = sidecar::upstream_settings;
  static constexpr std::array fields{
      member<s, &s::targets>("targets", "At least one", "Addresses of the instances.", true),
      member<s, &s::connect_timeout>("connect_timeout", "More than 0", "For one connection to open."),
      member<s, &s::idle_timeout>("idle_timeout", "At least 0",
                                  "A pooled connection idle for longer is not used again."),
      member<s, &s::health_check>("health_check", "",
                                  "Asks the targets how they are; left out: they are taken to be up."),
      member<s, &s::retry_budget>("retry_budget", "", "How much repeating the upstream may be asked to bear."),
  };
  static constexpr std::array<std::string_view, 1> later{"tls"};
};

template <>
struct table<sidecar::drain_settings> {
  using s = sidecar::drain_settings;
  static constexpr std::array fields{
      member<s, &s::delay>("delay", "At least 0", "From the signal until no connection is accepted any more."),
      member<s, &s::timeout>("timeout", "At least 0", "From the signal until what still runs is cut off."),
  };
};

template <>
struct table<sidecar::access_log_settings> {
  using s = sidecar::access_log_settings;
  static constexpr std::array fields{
      member<s, &s::path>("path", "`stdout`, `none` or a file", "Where a line per request goes."),
  };
};

template <>
struct table<sidecar::tracing_section> {
  using s = sidecar::tracing_section;
  static constexpr std::array fields{
      member<s, &s::otlp>("otlp", "A URL", "Where spans go, in OTLP over HTTP."),
      member<s, &s::zipkin>("zipkin", "A URL", "Where spans go, in Zipkin's JSON."),
      member<s, &s::sample>("sample", "0 to 100", "Share of the requests that are traced."),
  };
};

template <>
struct table<sidecar::retry_section> {
  using s = sidecar::retry_section;
  static constexpr std::string_view kind = "retry";
  static constexpr std::array own{
      member<s, &s::on>("retry_on", "Statuses 400 to 599", "What is repeated."),
      member<s, &s::methods>("methods", "At least one",
                             "Methods that may be repeated; an `Idempotency-Key` allows any."),
      member<s, &s::retry_after>("retry_after", "", "Whether an upstream's `Retry-After` is obeyed."),
      member<s, &s::replay_buffer>("replay_buffer", "At most 64MiB",
                                   "Body kept for a repetition; a larger one is not repeated."),
  };
  static constexpr std::array fields = join(fields_of_part<s, &s::policy>(), own);
};

template <>
struct table<sidecar::match_section> {
  using s = sidecar::match_section;
  static constexpr std::array fields{
      member<s, &s::path>("path", "Begins with /", "The whole path."),
      member<s, &s::path_prefix>("path_prefix", "Begins with /",
                                 "The path, or its first segments: /a matches /a and /a/b, not /ab."),
      member<s, &s::path_regex>("path_regex", "At most 1000 characters",
                                "An expression (ECMAScript) for the whole path."),
      member<s, &s::methods>("methods", "At least one", "Methods; left out: all."),
      member<s, &s::headers>("headers", "", "Header fields that must be there with these values."),
      member<s, &s::host>("host", "", "The host asked for, without its port."),
  };
};

template <>
struct table<sidecar::use_section> {
  using s = sidecar::use_section;
  static constexpr std::array fields{
      member<s, &s::circuit_breaker>("circuit_breaker", "", "Name of an instance."),
      member<s, &s::rate_limiter>("rate_limiter", "Or `adaptive_rate_limiter`", "Name of an instance."),
      member<s, &s::adaptive_rate_limiter>("adaptive_rate_limiter", "Or `rate_limiter`", "Name of an instance."),
      member<s, &s::bulkhead>("bulkhead", "", "Name of an instance."),
      member<s, &s::retry>("retry", "", "Name of an instance."),
  };
  static constexpr std::array<std::string_view, 1> later{"adaptive_bulkhead"};
};

template <>
struct table<sidecar::fallback_settings::respond> {
  using s = sidecar::fallback_settings::respond;
  static constexpr std::array fields{
      member<s, &s::status>("status", "200 to 599", "Status of the answer."),
      member<s, &s::headers>("headers", "", "Its header fields."),
      member<s, &s::body>("body", "", "Its body."),
  };
};

template <>
struct table<sidecar::fallback_section> {
  using s = sidecar::fallback_section;
  static constexpr std::array fields{
      member<s, &s::when>("when", "At least one", "Reasons it answers for."),
      member<s, &s::respond>("respond", "One of the three", "A fixed answer."),
      member<s, &s::upstream>("upstream", "One of the three", "Another upstream, asked once."),
      member<s, &s::stale>("stale", "One of the three. More than 0", "A stored answer that is at most so old."),
  };
};

template <>
struct table<sidecar::chaos_settings> {
  using s = sidecar::chaos_settings;
  static constexpr std::array fields{
      member<s, &s::rate>("rate", "More than 0, at most 100", "Share of the requests that are disturbed.", true),
      member<s, &s::latency>("latency", "At least 0", "Delay before the call."),
      member<s, &s::status>("status", "200 to 599", "Answer instead of the call."),
  };
};

template <>
struct table<sidecar::route_section> {
  using s = sidecar::route_section;
  static constexpr std::array fields = join(
      std::array{
          member<s, &s::name>("name", "Unique", "In metrics and logs; left out: the path without outer slashes."),
          member<s, &s::match>("match", "", "Requests it is for; left out: all."),
          member<s, &s::upstream>("upstream", "One of `upstreams`", "Where requests go.", true),
          member<s, &s::timeout>("timeout", "More than 0", "The whole request, waiting and repeating included."),
          member<s, &s::per_try_timeout>("per_try_timeout", "More than 0", "One attempt."),
          member<s, &s::fallback>("fallback", "", "Answers when the call can't."),
          member<s, &s::chaos>("chaos", "Only with --enable-chaos", "Faults made on purpose."),
      },
      fields_of_part<s, &s::limits>());
  static constexpr std::array<std::string_view, 5> later{"tls", "adaptive_bulkhead", "thread_pool_bulkhead", "hedge",
                                                         "cache"};
};

}  // namespace resilience::detail::yaml
