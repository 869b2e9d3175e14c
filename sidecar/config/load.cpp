#include "sidecar/config/load.hpp"

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <regex>
#include <set>
#include <utility>

#include <resilience/detail/yaml/file.hpp>
#include <resilience/detail/yaml/parse.hpp>

#include "sidecar/config/sections.hpp"

namespace sidecar {

namespace yaml = resilience::detail::yaml;
using yaml::child;
using yaml::entry;
using yaml::kind_of;
using yaml::node;
using yaml::place;
using yaml::ticked;

namespace {

/// Every kind of policy of a file.
struct policy_sections {
  yaml::policy_section<resilience::circuit_breaker_config> circuit_breaker;
  yaml::policy_section<resilience::rate_limiter_config> rate_limiter;
  yaml::policy_section<resilience::adaptive_rate_limiter_config> adaptive_rate_limiter;
  yaml::policy_section<resilience::bulkhead_config> bulkhead;
  yaml::policy_section<retry_section> retry;
  yaml::policy_section<resilience::time_limiter_config> time_limiter;
  yaml::policy_section<resilience::retry_budget_config> retry_budget;

  /// Calls `f` with each kind that a route can use.
  template <class F>
  void each_usable(F f) {
    f(circuit_breaker);
    f(rate_limiter);
    f(adaptive_rate_limiter);
    f(bulkhead);
    f(retry);
  }
  template <class F>
  void each(F f) {
    each_usable(f);
    f(time_limiter);
    f(retry_budget);
  }
};

/// "/a/b/" → "a-b", "/" → "root".
std::string name_of_path(std::string_view path) {
  while (path.starts_with('/')) path.remove_prefix(1);
  while (path.ends_with('/')) path.remove_suffix(1);
  std::string name(path);
  std::ranges::replace(name, '/', '-');
  return name.empty() ? "root" : name;
}

retry_rules rules_of(const retry_section& s) {
  retry_rules rules{false,          false, {}, s.methods, s.retry_after == retry_section::retry_after_type::honour,
                    s.replay_buffer};
  for (const retry_cause& c : s.on) {
    switch (c.kind) {
      case retry_cause::kind_type::connect_failure:
        rules.on_connect_failure = true;
        break;
      case retry_cause::kind_type::reset:
        rules.on_reset = true;
        break;
      case retry_cause::kind_type::status:
        rules.on_status.insert(c.status);
        break;
    }
  }
  return rules;
}

/// FNV-1a.
std::string hash_of(const std::vector<effective_setting>& all) {
  std::uint64_t hash = 0xcbf29ce484222325;
  const auto add = [&](std::string_view text) {
    for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
    hash = (hash ^ 0xff) * 0x100000001b3;
  };
  for (const effective_setting& s : all) {
    for (const std::string& part : s.path) add(part);
    add(s.json);
  }
  char digits[17];
  std::snprintf(digits, sizeof digits, "%016llx", static_cast<unsigned long long>(hash));
  return digits;
}

/// Reads one file from top to bottom.
class file_reader {
 public:
  file_reader(const node& root, yaml::report& problems, load_options options)
      : root_(root), problems_(problems), r_{problems, {}}, options_(options) {}

  void read() {
    if (!yaml::readable_root(root_, problems_)) return;
    const bool serves = find("listen") || find("admin") || find("upstreams") || find("routes") || !find("policies");
    complete_ = serves || !options_.policies_alone;
    if (complete_) {
      for (const std::string_view key : {"version", "listen", "upstreams", "routes"}) {
        if (!find(key) && !yaml::meant(root_, key, yaml::top_keys))
          problems_.error({1, 1}, ticked(key) + " is missing");
      }
    }
    read_version();
    read_plain("listen", s_.listen);
    admin_section admin;
    read_plain("admin", admin);
    s_.admin = admin.address;
    read_upstreams();
    read_plain("drain", s_.drain);
    read_trusted_proxies();
    read_plain("access_log", s_.access_log);
    tracing_section tracing;
    read_plain("tracing", tracing);
    s_.tracing = {tracing.otlp.value_or(""), tracing.zipkin.value_or(""), tracing.sample};
    read_policies();
    read_routes();
    check_listeners();
    if (complete_) warn_unused();
    warn_windows();
  }

  settings take_settings() { return std::move(s_); }
  std::vector<effective_setting> take_effective() {
    std::vector<effective_setting> all;
    for (std::vector<yaml::setting>* part : {&flat_, &flat_routes_}) {
      for (yaml::setting& f : *part) {
        effective_setting e{{}, std::move(f.value), std::move(f.json), f.line};
        for (std::size_t from = 0; from <= f.path.size();) {
          const std::size_t to = std::min(f.path.find(yaml::separator, from), f.path.size());
          e.path.push_back(f.path.substr(from, to - from));
          from = to + 1;
        }
        all.push_back(std::move(e));
      }
    }
    return all;
  }

 private:
  const node* find(std::string_view key) const {
    const entry* e = root_.find(key);
    return e == nullptr ? nullptr : &e->value;
  }

  template <class S>
  void read_plain(const std::string& key, S& out) {
    if (const node* n = find(key)) yaml::read_section(*n, key, r_, out);
    yaml::flatten(out, key, r_.written, flat_);
  }

  void read_version() {
    const node* n = find("version");
    int version = 1;
    if (n == nullptr || !yaml::read_scalar(*n, "version", problems_, version)) return;
    if (version != 1) problems_.error(n->at, "`version` must be 1, not " + ticked(n->text));
  }

  void read_upstreams() {
    const node* n = find("upstreams");
    if (n == nullptr) return;
    if (!yaml::is_map(*n, "upstreams", problems_)) {
      upstreams_known_ = false;
      return;
    }
    for (const entry& e : n->entries) {
      if (!yaml::good_name(e.key)) problems_.error(e.key_at, "the name of an upstream " + std::string(yaml::name_rule));
      upstream_settings u;
      const std::string path = child("upstreams", e.key);
      yaml::read_section(e.value, path, r_, u);
      yaml::flatten(u, path, r_.written, flat_);
      s_.upstreams.emplace(e.key, std::move(u));
    }
  }

  void read_trusted_proxies() {
    std::vector<address_block> blocks;
    if (const node* n = find("trusted_proxies")) yaml::read_value(*n, "trusted_proxies", r_, blocks);
    yaml::flatten(blocks, "trusted_proxies", r_.written, flat_);
    for (address_block& b : blocks) s_.trusted_proxies.push_back(std::move(b.text));
  }

  void read_policies() {
    const node* n = find("policies");
    if (n == nullptr || !yaml::is_map(*n, "policies", problems_)) {
      policies_known_ = n == nullptr;
      return;
    }
    policies_known_ = yaml::read_kinds(*n, r_, [&](auto f) { sections_.each(f); });
    sections_.each([&](const auto& section) {
      for (const auto& [name, one] : section.instances()) {
        const std::string path = child(child(child("policies", kind_of(section)), "instances"), name);
        yaml::flatten(one.config, path, r_.written, flat_);
      }
    });
    copy(sections_.circuit_breaker, s_.policies.circuit_breaker);
    copy(sections_.rate_limiter, s_.policies.rate_limiter);
    copy(sections_.adaptive_rate_limiter, s_.policies.adaptive_rate_limiter);
    copy(sections_.bulkhead, s_.policies.bulkhead);
    for (const auto& [name, one] : sections_.retry.instances()) add(name, one.config);
  }

  template <class Config>
  static void copy(const yaml::policy_section<Config>& from, std::map<std::string, Config>& to) {
    for (const auto& [name, one] : from.instances()) to.emplace(name, one.config);
  }
  void add(const std::string& name, const resilience::circuit_breaker_config& c) {
    s_.policies.circuit_breaker[name] = c;
  }
  void add(const std::string& name, const resilience::rate_limiter_config& c) { s_.policies.rate_limiter[name] = c; }
  void add(const std::string& name, const resilience::adaptive_rate_limiter_config& c) {
    s_.policies.adaptive_rate_limiter[name] = c;
  }
  void add(const std::string& name, const resilience::bulkhead_config& c) { s_.policies.bulkhead[name] = c; }
  void add(const std::string& name, const retry_section& c) {
    s_.policies.retry[name] = c.policy;
    s_.policies.retry_rules_of[name] = rules_of(c);
  }

  void read_routes() {
    const node* n = find("routes");
    if (n == nullptr) return;
    if (!n->is_list()) {
      if (!n->refused()) problems_.error(n->at, "`routes` must be a list, not " + std::string(yaml::kind_name(*n)));
      routes_known_ = false;
      return;
    }
    if (n->items.empty()) problems_.error(n->at, "`routes` must hold at least one route");
    for (const node& item : n->items) {
      const std::size_t errors = problems_.errors();
      if (!yaml::is_map(item, "route", problems_) || !read_route(item)) routes_known_ = false;
      if (problems_.errors() != errors) routes_known_ = false;
    }
  }

  /// The name a route is called by, and the place it comes from.
  std::pair<std::string, place> name_of(const node& route) {
    if (const entry* e = route.find("name"); e != nullptr && e->value.is_scalar()) return {e->value.text, e->value.at};
    const entry* match = route.find("match");
    if (match == nullptr || match->value.entries.empty()) return {"root", route.at};
    for (const std::string_view key : {"path", "path_prefix"}) {
      const entry* e = match->value.find(key);
      if (e != nullptr && e->value.is_scalar()) return {name_of_path(e->value.text), e->value.at};
    }
    if (const entry* e = match->value.find("path_regex")) {
      problems_.error(e->value.at, "a route with `path_regex` needs a `name`");
      return {"", route.at};
    }
    return {"root", route.at};
  }

  bool read_route(const node& n) {
    const auto [name, name_at] = name_of(n);
    const std::string path = child("routes", name.empty() ? std::to_string(s_.routes.size()) : name);
    if (!name.empty()) {
      if (!yaml::good_name(name)) {
        problems_.error(name_at, "the name of a route " + std::string(yaml::name_rule));
      } else if (const auto [first, added] = route_names_.emplace(name, name_at.line); !added) {
        problems_.error(
            name_at, "two routes are called " + ticked(name) + "; the first on line " + std::to_string(first->second));
        return false;
      }
    }

    static constexpr std::string_view others[] = {
        "use", "circuit_breaker", "rate_limiter", "adaptive_rate_limiter", "bulkhead", "retry"};
    route_section s;
    s.limits = s_.listen.limits;
    const node* const layers[] = {&n};
    yaml::read_layers<route_section>(layers, path, r_, s, others);
    // What a route leaves to the listener comes from there.
    for (const auto& f : yaml::table<request_limits>::fields) {
      const auto from = r_.written.find(child("listen", f.key));
      if (from != r_.written.end()) r_.written.emplace(child(path, f.key), from->second);
    }

    route_settings route;
    s.name = route.name = name;
    route.upstream = s.upstream;
    route.timeout = s.timeout;
    route.per_try_timeout = s.per_try_timeout;
    route.limits = s.limits;
    route.chaos = s.chaos;
    read_match(n, s.match, route);
    check_upstream(n.find("upstream"));
    read_fallback(n.find("fallback"), s.fallback, route);
    if (const entry* e = n.find("chaos"); e != nullptr && !options_.enable_chaos) {
      problems_.error(e->value.at, "`chaos` is refused: the sidecar runs without --enable-chaos");
    }

    std::vector<yaml::setting> flat;
    yaml::flatten(s, path, r_.written, flat);
    read_route_policies(n, path, route, flat);
    std::string pipeline;
    const auto stage = [&](bool there, std::string_view key) {
      if (there) pipeline += (pipeline.empty() ? "" : " → ") + std::string(key);
    };
    stage(route.fallback.has_value(), "fallback");
    stage(route.rate_limiter.has_value(), "rate_limiter");
    stage(route.adaptive_rate_limiter.has_value(), "adaptive_rate_limiter");
    stage(route.bulkhead.has_value(), "bulkhead");
    stage(true, "timeout");
    stage(route.retry.has_value(), "retry");
    stage(route.circuit_breaker.has_value(), "circuit_breaker");
    stage(route.per_try_timeout.has_value(), "per_try_timeout");
    stage(route.chaos.has_value(), "chaos");
    flat_routes_.push_back({child(path, "pipeline"), pipeline, yaml::json_string(pipeline), n.at.line});
    std::ranges::move(flat, std::back_inserter(flat_routes_));

    warn_times(n, route);
    warn_shadowed(name_at, route);
    s_.routes.push_back(std::move(route));
    return true;
  }

  void read_match(const node& route_node, const match_section& m, route_settings& route) {
    const entry* match = route_node.find("match");
    const node none;
    const node& n = match == nullptr ? none : match->value;
    const entry* first = nullptr;
    for (const entry& e : n.entries) {
      if (!e.key.starts_with("path") || (e.key != "path" && e.key != "path_prefix" && e.key != "path_regex")) continue;
      if (first != nullptr) {
        problems_.error(e.value.at, ticked(e.key) + " and " + ticked(first->key) + " exclude each other");
      } else {
        first = &e;
      }
    }
    if (m.path) route.match.path = {path_match::kind_type::exact, *m.path};
    if (m.path_prefix) route.match.path = {path_match::kind_type::prefix, *m.path_prefix};
    if (m.path_regex) {
      route.match.path = {path_match::kind_type::regex, *m.path_regex};
      const entry* e = n.find("path_regex");
      if (m.path_regex->size() > 1000) {
        problems_.error(e->value.at, "`path_regex` must be at most 1000 characters long");
      } else {
        try {
          const std::regex expression(*m.path_regex);
        } catch (const std::regex_error& wrong) {
          problems_.error(e->value.at, "`path_regex` is not an expression: " + std::string(wrong.what()));
        }
      }
    }
    route.match.methods = m.methods;
    route.match.headers = m.headers;
    if (m.host) {
      route.match.host = lower(*m.host);
      if (m.host->empty() || m.host->find_first_of("/: \t") != std::string::npos) {
        problems_.error(n.find("host")->value.at, "`host` must be a host name without a port, not " + ticked(*m.host));
      }
    }
  }

  void check_upstream(const entry* e) {
    if (e == nullptr || !e->value.is_scalar()) return;
    used_.insert({"upstream", e->value.text});
    if (!upstreams_known_ || !find("upstreams") || s_.upstreams.contains(e->value.text)) return;
    std::vector<std::string_view> known;
    for (const auto& [name, u] : s_.upstreams) known.push_back(name);
    problems_.error(e->value.at,
                    "there is no upstream " + ticked(e->value.text) + yaml::did_you_mean(e->value.text, known));
  }

  void read_fallback(const entry* e, const std::optional<fallback_section>& s, route_settings& route) {
    if (e == nullptr || !s || !e->value.is_map()) return;
    const entry* first = nullptr;
    for (const entry& part : e->value.entries) {
      if (part.key != "respond" && part.key != "upstream" && part.key != "stale") continue;
      if (first != nullptr) {
        problems_.error(part.value.at, ticked(part.key) + " and " + ticked(first->key) + " exclude each other");
      } else {
        first = &part;
      }
    }
    if (first == nullptr) problems_.error(e->value.at, "a fallback needs one of `respond`, `upstream` and `stale`");
    check_upstream(e->value.find("upstream"));
    fallback_settings f;
    const auto reasons = yaml::codec<std::optional<std::set<reason>>>::effective(s->when);
    f.when = {reasons.begin(), reasons.end()};
    if (s->respond) f.action = *s->respond;
    if (s->upstream) f.action = fallback_settings::alternate{*s->upstream};
    if (s->stale) {
      f.action = fallback_settings::stale{*s->stale};
      problems_.warn(e->value.find("stale")->value.at,
                     "answers are not stored yet: these requests get the reason's own answer");
    }
    route.fallback = std::move(f);
  }

  /// What a route uses by name and what it has in place.
  void read_route_policies(const node& n, const std::string& path, route_settings& route,
                           std::vector<yaml::setting>& flat) {
    use_section use;
    const entry* use_entry = n.find("use");
    if (use_entry != nullptr) yaml::read_section(use_entry->value, child(path, "use"), r_, use);
    retry_of_route_.reset();

    const auto one = [&](auto& section, const std::optional<std::string>& used, std::optional<std::string>& out) {
      using config_type = std::remove_cvref_t<decltype(section.instances().begin()->second.config)>;
      const std::string_view kind = kind_of(section);
      const std::string here = child(path, kind);
      const entry* in_place = n.find(kind);
      const entry* by_name = use_entry != nullptr && use_entry->value.is_map() ? use_entry->value.find(kind) : nullptr;
      if (in_place != nullptr && by_name != nullptr) {
        problems_.error(std::max(in_place->value.at, by_name->value.at),
                        ticked(kind) + " is there twice: under `use` and in the route itself");
        return;
      }
      if (in_place != nullptr) {
        const auto own = section.read_inline(in_place->value, here, r_);
        if (section.instances().contains(route.name)) {
          problems_.error(in_place->value.at, ticked(kind) + " of this route would be called " + ticked(route.name) +
                                                  ", which is already there under `policies`");
        }
        out = route.name;
        if (!own) return;
        add(route.name, own->config);
        looked_at(*own);
        if constexpr (std::is_same_v<config_type, retry_section>) retry_of_route_ = own->config;
        yaml::flatten(own->config, here, r_.written, flat);
        return;
      }
      if (!used) {
        flat.push_back({here, "none", "null", 0});
        return;
      }
      used_.insert({std::string(kind), *used});
      const auto found = section.instances().find(*used);
      if (found == section.instances().end()) {
        if ((!policies_known_ && !has_kind(kind)) || !section.readable()) return;
        std::vector<std::string_view> known;
        for (const auto& [name, i] : section.instances()) known.push_back(name);
        problems_.error(by_name->value.at,
                        "there is no " + std::string(kind) + " " + ticked(*used) + yaml::did_you_mean(*used, known));
        return;
      }
      out = *used;
      if constexpr (std::is_same_v<config_type, retry_section>) retry_of_route_ = found->second.config;
      // The same values as under `policies`, with the lines they come from there.
      const std::string there = child(child(child("policies", kind), "instances"), *used);
      std::vector<yaml::setting> values;
      yaml::flatten(found->second.config, there, r_.written, values);
      for (yaml::setting& v : values) {
        v.path = here + v.path.substr(there.size());
        flat.push_back(std::move(v));
      }
    };
    one(sections_.rate_limiter, use.rate_limiter, route.rate_limiter);
    one(sections_.adaptive_rate_limiter, use.adaptive_rate_limiter, route.adaptive_rate_limiter);
    one(sections_.bulkhead, use.bulkhead, route.bulkhead);
    one(sections_.retry, use.retry, route.retry);
    one(sections_.circuit_breaker, use.circuit_breaker, route.circuit_breaker);
    check_one_limiter(n, use_entry);
  }

  /// Whether the file has instances of a kind under `policies` at all.
  bool has_kind(std::string_view kind) const {
    const node* policies = find("policies");
    return policies != nullptr && policies->find(kind) != nullptr;
  }

  /// A route has a fixed or an adaptive limiter.
  void check_one_limiter(const node& n, const entry* use_entry) {
    const entry* first = nullptr;
    for (const node* from : {&n, use_entry == nullptr ? nullptr : &use_entry->value}) {
      if (from == nullptr) continue;
      for (const std::string_view kind : {"rate_limiter", "adaptive_rate_limiter"}) {
        const entry* e = from->find(kind);
        if (e == nullptr) continue;
        if (first != nullptr && first->key != e->key) {
          problems_.error(std::max(first->value.at, e->value.at),
                          "a route takes `rate_limiter` or `adaptive_rate_limiter`, not both");
          return;
        }
        first = e;
      }
    }
  }

  void check_listeners() {
    const node* listen = find("listen");
    const node* admin = find("admin");
    if (listen == nullptr || admin == nullptr) return;
    const entry* a = listen->find("address");
    const entry* b = admin->find("address");
    if (a == nullptr || b == nullptr || s_.listen.address.port == 0 || s_.listen.address.port != s_.admin.port) return;
    const auto host = [](const endpoint& e) { return e.host == "localhost" ? std::string("127.0.0.1") : e.host; };
    const auto any = [](const std::string& h) { return h == "0.0.0.0" || h == "::"; };
    const std::string x = host(s_.listen.address), y = host(s_.admin);
    if (x != y && !any(x) && !any(y)) return;
    problems_.error(std::max(a->value.at, b->value.at),
                    "`listen` and `admin` can't share port " + std::to_string(s_.admin.port));
  }

  void warn_times(const node& n, const route_settings& route) {
    const entry* e = n.find("per_try_timeout");
    if (e == nullptr || !route.per_try_timeout) return;
    const int attempts = retry_of_route_ ? std::max(1, retry_of_route_->policy.max_attempts) : 1;
    if (*route.per_try_timeout <= route.timeout / attempts) return;
    using text = yaml::codec<nanoseconds>;
    problems_.warn(e->value.at, text::show(*route.per_try_timeout) +
                                    (attempts == 1 ? "" : " for each of " + std::to_string(attempts) + " attempts") +
                                    " is more than the `timeout` of " + text::show(route.timeout) +
                                    (attempts == 1 ? "" : ": the last ones may be cut short"));
  }

  /// Whether every request that `b` is for would meet `a` first.
  static bool covers(const route_match& a, const route_match& b) {
    if (!a.host.empty() && a.host != b.host) return false;
    if (!a.methods.empty() && (b.methods.empty() || !std::ranges::includes(a.methods, b.methods))) return false;
    for (const auto& [name, value] : a.headers) {
      const auto there = b.headers.find(name);
      if (there == b.headers.end() || there->second != value) return false;
    }
    using kind = path_match::kind_type;
    if (a.path == b.path) return true;
    if (a.path.kind != kind::prefix) return false;
    std::string_view prefix = a.path.text;
    while (prefix.ends_with('/')) prefix.remove_suffix(1);
    if (prefix.empty()) return true;
    if (b.path.kind == kind::regex) return false;
    const std::string_view path = b.path.text;
    return path.starts_with(prefix) && (path.size() == prefix.size() || path[prefix.size()] == '/');
  }

  void warn_shadowed(place at, const route_settings& route) {
    // Compared with a bounded number of routes, so that a hostile file costs little.
    constexpr std::size_t most = 1000;
    for (std::size_t i = 0; i < std::min(s_.routes.size(), most); ++i) {
      if (!covers(s_.routes[i].match, route.match)) continue;
      problems_.warn(at, "no request reaches this route: " + ticked(s_.routes[i].name) + " above it matches the same");
      return;
    }
  }

  void looked_at(const yaml::policy_section<resilience::circuit_breaker_config>::instance& i) {
    inline_breakers_.push_back(i);
  }
  template <class Other>
  void looked_at(const Other&) {}

  void warn_windows() {
    for (const auto& [name, one] : sections_.circuit_breaker.instances()) warn_window(one);
    for (const auto& one : inline_breakers_) warn_window(one);
  }
  void warn_window(const yaml::policy_section<resilience::circuit_breaker_config>::instance& one) {
    const auto& c = one.config;
    if (c.window.by_time() || c.min_calls <= c.window.size()) return;
    place at = one.at;
    for (const std::string_view key : {"window", "min_calls"}) {
      for (const node* layer : one.layers) {
        if (const entry* e = layer->find(key)) at = e->value.at;
      }
    }
    problems_.warn(at, "`min_calls` of " + std::to_string(c.min_calls) + " is more than the window holds; " +
                           std::to_string(c.window.size()) + " is used");
  }

  void warn_unused() {
    if (!routes_known_) return;
    for (const entry& e : find("upstreams") ? find("upstreams")->entries : std::vector<entry>{}) {
      if (!used_.contains({"upstream", e.key})) problems_.warn(e.key_at, "no route uses the upstream " + ticked(e.key));
    }
    sections_.each([&](const auto& section) {
      for (const auto& [name, one] : section.instances()) {
        if (!used_.contains({std::string(kind_of(section)), name}))
          problems_.warn(one.at, "no route uses the " + std::string(kind_of(section)) + " " + ticked(name));
      }
      for (const auto& [name, at] : section.unused_templates()) {
        problems_.warn(at, "nothing inherits from " + ticked(name));
      }
    });
  }

  const node& root_;
  yaml::report& problems_;
  yaml::reader r_;
  load_options options_;
  settings s_;
  policy_sections sections_;
  std::vector<yaml::policy_section<resilience::circuit_breaker_config>::instance> inline_breakers_;
  std::optional<retry_section> retry_of_route_;
  std::map<std::string, int> route_names_;
  std::set<std::pair<std::string, std::string>> used_;  ///< Kind and name.
  std::vector<yaml::setting> flat_, flat_routes_;
  bool complete_ = true;
  bool upstreams_known_ = true, policies_known_ = true, routes_known_ = true;
};

/// A part of a JSON object: a value, or more parts in the order they came.
struct json_tree {
  std::string value;
  std::string key;
  std::vector<json_tree> parts;

  json_tree& part(const std::string& name) {
    const auto found = std::ranges::find(parts, name, &json_tree::key);
    return found != parts.end() ? *found : parts.emplace_back(json_tree{{}, name, {}});
  }
  [[nodiscard]] std::string text() const {
    if (parts.empty()) return value;
    std::string out;
    for (const json_tree& p : parts) out += (out.empty() ? "{" : ",") + yaml::json_string(p.key) + ":" + p.text();
    return out + "}";
  }
};

}  // namespace

std::string effective_setting::dotted_path() const {
  std::string out;
  for (const std::string& part : path) out += (out.empty() ? "" : ".") + part;
  return out;
}

std::expected<configuration, problem_list> load_text(std::string_view text, const std::string& file,
                                                     load_options options) {
  text = yaml::without_mark(text);
  yaml::report problems;
  const node root = yaml::parse(text, problems);
  file_reader reader(root, problems, options);
  reader.read();
  problem_list found = problems.finish(file, text);
  if (problems.has_errors()) return std::unexpected(std::move(found));
  configuration c{reader.take_settings(), file, std::move(found), reader.take_effective(), {}};
  c.hash = hash_of(c.effective);
  return c;
}

std::expected<configuration, problem_list> load(const std::string& file, load_options options) {
  const auto text = yaml::read_file(file);
  if (!text) return std::unexpected(problem_list{{file, 0, 0, false, text.error(), {}, 0}});
  return load_text(*text, file, options);
}

std::string to_json(const configuration& c) {
  json_tree root;
  for (const effective_setting& s : c.effective) {
    json_tree* at = &root;
    for (const std::string& key : s.path) at = &at->part(key);
    at->value = s.json;
  }
  return root.parts.empty() ? "{}" : root.text();
}

std::vector<changed_setting> diff(const configuration& before, const configuration& after) {
  std::map<std::string, std::string> was;
  for (const effective_setting& s : before.effective) was.emplace(s.dotted_path(), s.value);
  std::vector<changed_setting> changes;
  for (const effective_setting& s : after.effective) {
    const std::string path = s.dotted_path();
    const auto old = was.find(path);
    if (old == was.end()) {
      changes.push_back({path, "none", s.value});
    } else {
      if (old->second != s.value) changes.push_back({path, old->second, s.value});
      was.erase(old);
    }
  }
  for (auto& [path, value] : was) changes.push_back({path, std::move(value), "none"});
  std::erase_if(changes, [](const changed_setting& c) { return c.before == c.after; });
  return changes;
}

template <class Config>
std::string settings_json(const Config& config) {
  std::vector<yaml::setting> values;
  yaml::flatten(config, "", {}, values);
  std::string out;
  for (const yaml::setting& v : values) out += (out.empty() ? "{" : ",") + yaml::json_string(v.path) + ":" + v.json;
  return out + "}";
}

template <class Config>
std::expected<Config, problem_list> patched(const Config& config, std::string_view text) {
  yaml::report problems;
  const node root = yaml::parse(text, problems, [](const std::string&) { return std::nullopt; });
  Config out = config;
  yaml::reader r{problems, {}};
  if (yaml::is_map(root, yaml::table<Config>::kind, problems)) {
    const node* const layers[] = {&root};
    yaml::read_layers<Config>(layers, "", r, out);
  }
  if (problems.has_errors()) return std::unexpected(problems.finish("body", text));
  return out;
}

#define RESILIENCE_SIDECAR_PATCHABLE(config)                     \
  template std::string settings_json(const resilience::config&); \
  template std::expected<resilience::config, problem_list> patched(const resilience::config&, std::string_view)
RESILIENCE_SIDECAR_PATCHABLE(circuit_breaker_config);
RESILIENCE_SIDECAR_PATCHABLE(rate_limiter_config);
RESILIENCE_SIDECAR_PATCHABLE(adaptive_rate_limiter_config);
RESILIENCE_SIDECAR_PATCHABLE(bulkhead_config);
RESILIENCE_SIDECAR_PATCHABLE(retry_config);
#undef RESILIENCE_SIDECAR_PATCHABLE

}  // namespace sidecar
