#pragma once
/// The policies as tables of fields, and the inheritance of their instances: `configs.default`, then the chain of
/// `base`, then the instance itself, field by field.

#include <array>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include <resilience/adaptive_rate_limiter.hpp>
#include <resilience/bulkhead.hpp>
#include <resilience/circuit_breaker.hpp>
#include <resilience/detail/yaml/fields.hpp>
#include <resilience/rate_limiter.hpp>
#include <resilience/retry.hpp>
#include <resilience/retry_budget.hpp>
#include <resilience/time_limiter.hpp>

namespace resilience::detail::yaml {

template <>
struct words_of<breaker_state> {
  static constexpr std::string_view unit =
      "a state: `closed`, `open`, `half_open`, `disabled`, `forced_open`, `metrics_only`";
  static constexpr auto all =
      std::to_array<std::pair<std::string_view, breaker_state>>({{"closed", breaker_state::closed},
                                                                 {"open", breaker_state::open},
                                                                 {"half_open", breaker_state::half_open},
                                                                 {"disabled", breaker_state::disabled},
                                                                 {"forced_open", breaker_state::forced_open},
                                                                 {"metrics_only", breaker_state::metrics_only}});
};

template <>
struct words_of<limiter_mode> {
  static constexpr std::string_view unit = "`smooth` or `fixed_window`";
  static constexpr auto all = std::to_array<std::pair<std::string_view, limiter_mode>>(
      {{"smooth", limiter_mode::smooth}, {"fixed_window", limiter_mode::fixed_window}});
};

template <>
struct table<exponential> {
  static constexpr std::array fields{
      member<exponential, &exponential::initial>("initial", "At least 0", "The first interval."),
      member<exponential, &exponential::factor>("factor", "At least 1",
                                                "Each interval is so many times the one before."),
      member<exponential, &exponential::max>("max", "At least 0", "No interval is longer."),
      member<exponential, &exponential::jitter>("jitter", "", "`full`: a random time up to the interval."),
  };
};

template <>
struct table<randomized> {
  static constexpr std::array fields{
      member<randomized, &randomized::base>("base", "At least 0", "The middle of the spread.", true),
      member<randomized, &randomized::ratio>("ratio", "0 to 1", "The spread, as a share of the base."),
  };
};

/// An interval is a duration, or a map whose `kind` says what else.
inline constexpr std::string_view exponential_kind = "exponential", randomized_kind = "randomized";

/// "{ initial: 50ms, … }" with the kind in front.
template <section S>
std::string show_interval(std::string_view kind, const S& value) {
  std::vector<setting> parts;
  flatten(value, "", {}, parts);
  std::string out = "{ kind: " + std::string(kind);
  for (const setting& p : parts) out += ", " + p.path + ": " + p.value;
  return out + " }";
}
template <section S>
std::string interval_json(std::string_view kind, const S& value) {
  std::vector<setting> parts;
  flatten(value, "", {}, parts);
  std::string out = "{\"kind\":" + json_string(kind);
  for (const setting& p : parts) out += "," + json_string(p.path) + ":" + p.json;
  return out + "}";
}
template <section S>
std::string interval_schema(std::string_view kind) {
  return object_schema<S>("\"kind\":{\"const\":" + json_string(kind) + "}");
}

/// Reads `{ kind: …, … }` into whichever of `Kinds` it names.
template <class Interval>
bool read_interval(const node& n, std::string_view key, report& problems, Interval& out, bool may_be_random) {
  if (n.refused()) return false;
  if (n.is_scalar()) {
    std::chrono::nanoseconds d{};
    if (!read_scalar(n, key, problems, d)) return false;
    out = Interval(d);
    return true;
  }
  if (!n.is_map()) {
    problems.error(
        n.at, ticked(key) + " must be a duration such as 50ms, or a map with `kind`, not " + std::string(kind_name(n)));
    return false;
  }
  static constexpr std::array<std::string_view, 1> others{"kind"};
  std::vector<std::string_view> kinds{exponential_kind};
  if (may_be_random) kinds.push_back(randomized_kind);
  const entry* kind = n.find("kind");
  if (kind == nullptr) {
    problems.error(n.at, ticked(key) + " needs a `kind`: exponential" + (may_be_random ? " or randomized" : ""));
    return false;
  }
  std::string word;
  if (!read_scalar(kind->value, "kind", problems, word)) return false;
  reader r{problems, {}};
  if (word == exponential_kind) {
    exponential e;
    const bool good = read_section(n, std::string(key), r, e, others);
    out = e;
    return good;
  }
  if constexpr (requires(randomized x) { out = x; }) {
    if (word == randomized_kind) {
      randomized e;
      const bool good = read_section(n, std::string(key), r, e, others);
      out = e;
      return good;
    }
  }
  problems.error(kind->value.at, "`kind` must be exponential" + std::string(may_be_random ? " or randomized" : "") +
                                     ", not " + ticked(word) + did_you_mean(word, kinds));
  return false;
}

template <>
struct codec<open_interval> {
  static constexpr std::string_view unit = "duration, or `{ kind: exponential, initial, factor, max }`";
  static bool read(const node& n, std::string_view key, report& problems, open_interval& out) {
    return read_interval(n, key, problems, out, false);
  }
  static bool constant(const open_interval& v) {
    return v.growth().factor == 1 && v.growth().initial == v.growth().max;
  }
  static std::string show(const open_interval& v) {
    if (constant(v)) return codec<std::chrono::nanoseconds>::show(v.growth().initial);
    return show_interval(exponential_kind, v.growth());
  }
  static std::string json(const open_interval& v) {
    return constant(v) ? json_string(show(v)) : interval_json(exponential_kind, v.growth());
  }
  static std::string schema() {
    return "{\"oneOf\":[" + codec<std::chrono::nanoseconds>::schema() + "," +
           interval_schema<exponential>(exponential_kind) + "]}";
  }
};

template <>
struct codec<retry_interval> {
  static constexpr std::string_view unit =
      "duration, or `{ kind: exponential, initial, factor, max, jitter }`, or `{ kind: randomized, base, ratio }`";
  static bool read(const node& n, std::string_view key, report& problems, retry_interval& out) {
    return read_interval(n, key, problems, out, true);
  }
  static std::string show(const retry_interval& v) {
    if (const auto e = v.as<exponential>()) return show_interval(exponential_kind, *e);
    if (const auto r = v.as<randomized>()) return show_interval(randomized_kind, *r);
    return codec<std::chrono::nanoseconds>::show(v.as<fixed>()->interval);
  }
  static std::string json(const retry_interval& v) {
    if (const auto e = v.as<exponential>()) return interval_json(exponential_kind, *e);
    if (const auto r = v.as<randomized>()) return interval_json(randomized_kind, *r);
    return json_string(show(v));
  }
  static std::string schema() {
    return "{\"oneOf\":[" + codec<std::chrono::nanoseconds>::schema() + "," +
           interval_schema<exponential>(exponential_kind) + "," + interval_schema<randomized>(randomized_kind) + "]}";
  }
};

template <>
struct table<circuit_breaker_config> {
  using config = circuit_breaker_config;
  static constexpr std::string_view kind = "circuit_breaker";
  static constexpr std::array fields{
      member<config, &config::failure_rate>("failure_rate", "More than 0, at most 100",
                                            "Share of failed calls in the window that opens the breaker."),
      member<config, &config::slow_call_rate>("slow_call_rate", "More than 0, at most 100",
                                              "Share of slow calls in the window that opens the breaker."),
      member<config, &config::slow_call>("slow_call", "More than 0",
                                         "A call that takes longer is slow, whatever came of it."),
      member<config, &config::window>(
          "window", "1 to 131072", "What the shares are taken over: the last calls, or the calls of the last seconds."),
      member<config, &config::min_calls>(
          "min_calls", "At least 1", "Finished calls before a share is taken; a window of calls caps it to its size."),
      member<config, &config::open_for>(
          "open_for", "More than 0, factor at least 1",
          "Time spent open before the first probe; an exponential grows with each opening."),
      member<config, &config::half_open_calls>("half_open_calls", "At least 1", "Probes admitted when half-open."),
      member<config, &config::half_open_for>(
          "half_open_for", "At least 0",
          "The longest time spent half-open, after which it opens again; 0 is no limit."),
      member<config, &config::automatic_half_open>("automatic_half_open", "",
                                                   "Whether open ends by itself, or only when the next call comes."),
      member<config, &config::initial_state>("initial_state", "", "The state it starts in."),
  };
};

template <>
struct table<rate_limiter_config> {
  using config = rate_limiter_config;
  static constexpr std::string_view kind = "rate_limiter";
  static constexpr std::array fields{
      member<config, &config::limit>("limit", "At least 1 call", "Calls admitted over a time."),
      member<config, &config::burst>("burst", "At least 0",
                                     "Calls that may come at once after a pause; 0: as many as the limit has."),
      member<config, &config::max_wait>("max_wait", "At least 0", "How long a call may wait for its turn."),
      member<config, &config::mode>("mode", "", "Evenly spread, or the whole limit anew in each period."),
  };
};

template <>
struct table<adaptive_rate_limiter_config> {
  using config = adaptive_rate_limiter_config;
  static constexpr std::string_view kind = "adaptive_rate_limiter";
  static constexpr std::array fields{
      member<config, &config::min_rate>("min_rate", "At least 1 call, at most `max_rate`",
                                        "The limit never falls below."),
      member<config, &config::max_rate>("max_rate", "At least `min_rate`", "The limit never rises above."),
      member<config, &config::initial_rate>("initial_rate", "Held between `min_rate` and `max_rate`",
                                            "The limit at the start."),
  };
};

template <>
struct table<bulkhead_config> {
  using config = bulkhead_config;
  static constexpr std::string_view kind = "bulkhead";
  static constexpr std::array fields{
      member<config, &config::max_concurrent>("max_concurrent", "At least 0",
                                              "Calls that may run at a time; 0 refuses all."),
      member<config, &config::max_wait>("max_wait", "At least 0", "How long a call may wait for its turn."),
  };
};

template <>
struct table<retry_config> {
  using config = retry_config;
  static constexpr std::string_view kind = "retry";
  static constexpr std::array fields{
      member<config, &config::max_attempts>("max_attempts", "At least 1", "Calls in all, the first included."),
      member<config, &config::interval>("interval", "Durations at least 0, factor at least 1, ratio 0 to 1",
                                        "The waits between attempts."),
      member<config, &config::fail_after_max_attempts>(
          "fail_after_max_attempts", "",
          "Whether an error that is returned by the last attempt too becomes `attempts_exhausted`."),
  };
};

template <>
struct table<retry_budget_config> {
  using config = retry_budget_config;
  static constexpr std::string_view kind = "retry_budget";
  static constexpr std::array fields{
      member<config, &config::ratio>("ratio", "0 to 100", "Repetitions allowed, as a share of the first attempts."),
      member<config, &config::window>("window", "More than 0", "What both are counted over."),
      member<config, &config::min>("min", "At least 0 calls", "Repetitions allowed whatever the share."),
  };
};

template <>
struct table<time_limiter_config> {
  using config = time_limiter_config;
  static constexpr std::string_view kind = "time_limiter";
  static constexpr std::array fields{
      member<config, &config::timeout>("timeout", "More than 0", "The longest a call may take."),
      member<config, &config::cancel>("cancel", "", "Whether an asynchronous call that takes longer is cancelled."),
  };
};

/// Kinds of policy that a later version will read.
inline constexpr std::array<std::string_view, 4> later_kinds{"adaptive_bulkhead", "thread_pool_bulkhead", "hedge",
                                                             "cache"};

/// A name stands in labels, header fields and paths: visible ASCII without quote and backslash, at most 100 of them.
inline bool good_name(std::string_view name) noexcept {
  return !name.empty() && name.size() <= 100 &&
         std::ranges::all_of(name, [](char c) { return c > 0x20 && c < 0x7f && c != '"' && c != '\\'; });
}
inline constexpr std::string_view name_rule =
    "must be 1 to 100 visible ASCII characters without spaces, quotes and backslashes";

/// One kind under `policies`: `{ configs: {NAME: …}, instances: {NAME: …} }`, read and inherited.
template <section Config>
class policy_section {
 public:
  struct instance {
    Config config;
    place at;                         ///< Of its name.
    std::vector<const node*> layers;  ///< Where its values come from, the last one wins.
  };

  /// `others` are keys that may stand in an instance besides the fields.
  explicit policy_section(std::span<const std::string_view> others = {}) : others_(others.begin(), others.end()) {
    others_.push_back("base");
  }

  /// The nodes must outlive this object.
  void read(const node& section_node, const std::string& path, reader& r) {
    if (!is_map(section_node, table<Config>::kind, r.problems)) {
      readable_ = false;
      return;
    }
    static const std::vector<std::string_view> known{"configs", "instances"};
    for (const entry& e : section_node.entries) {
      if (e.key == "configs") {
        read_templates(e.value, child(path, e.key), r);
      } else if (e.key != "instances") {
        unknown_key(e, known, r.problems);
        readable_ = false;
      }
    }
    const entry* all = section_node.find("instances");
    if (all == nullptr) return;
    if (!is_map(all->value, "instances", r.problems)) {
      readable_ = false;
      return;
    }
    for (const entry& e : all->value.entries) {
      if (!good_name(e.key)) r.problems.error(e.key_at, "the name of an instance " + std::string(name_rule));
      instance one{{}, e.key_at, {}};
      read_one(e.value, child(child(path, "instances"), e.key), e.key, r, one);
      instances_.emplace(e.key, std::move(one));
    }
  }

  /// An instance written in place, which inherits as the others do. Nothing when it can't be read.
  std::optional<instance> read_inline(const node& n, const std::string& path, reader& r) {
    instance one{{}, n.at, {}};
    if (!read_one(n, path, table<Config>::kind, r, one)) return std::nullopt;
    return one;
  }

  [[nodiscard]] const std::map<std::string, instance, std::less<>>& instances() const noexcept { return instances_; }
  /// Whether it can be said which instances there are.
  [[nodiscard]] bool readable() const noexcept { return readable_; }

  /// Templates that nobody inherits from, but the default.
  [[nodiscard]] std::vector<std::pair<std::string, place>> unused_templates() const {
    std::vector<std::pair<std::string, place>> unused;
    for (const auto& [name, t] : templates_) {
      if (!t.used && name != "default") unused.emplace_back(name, t.at);
    }
    return unused;
  }

 private:
  struct template_type {
    const node* value;
    place at;
    bool bad = false;  ///< Reported: whoever inherits from it is passed over in silence.
    bool used = false;
  };
  static constexpr std::size_t longest_chain = 16;

  void read_templates(const node& n, const std::string& path, reader& r) {
    if (!is_map(n, "configs", r.problems)) {
      readable_ = false;
      return;
    }
    for (const entry& e : n.entries) {
      template_type t{&e.value, e.key_at};
      t.bad = !is_map(e.value, e.key, r.problems);
      templates_.emplace(e.key, t);
    }
    // In file order, so that of a circle the first member is told.
    for (const entry& e : n.entries) {
      template_type& t = templates_.find(e.key)->second;
      if (t.bad) continue;
      if (e.key == "default") {
        if (const entry* base = e.value.find("base")) {
          r.problems.error(base->value.at, "`default` has no base: everything inherits from it");
        }
      }
      const auto layers = chain(e.value, r, e.key);
      if (!layers) continue;
      Config config{};
      read_layers<Config>(*layers, child(path, e.key), r, config, others_, true);
    }
  }

  /// The maps that `n` is laid over, and `n` itself last. Nothing when a base is wrong, which is reported once.
  std::optional<std::vector<const node*>> chain(const node& n, reader& r, std::string_view own_name) {
    std::vector<const node*> upwards{&n};
    std::vector<std::pair<std::string, place>> named;  // each base with the place where it is asked for
    if (own_name == "default") return upwards;
    const node* at = &n;
    while (const entry* base = at->find("base")) {
      std::string name;
      if (!read_scalar(base->value, "base", r.problems, name)) return std::nullopt;
      const auto found = templates_.find(name);
      if (found == templates_.end()) {
        std::vector<std::string_view> known;
        for (const auto& [k, t] : templates_) known.push_back(k);
        r.problems.error(base->value.at,
                         "there is no " + ticked(name) + " under `configs`" + did_you_mean(name, known));
        return std::nullopt;
      }
      template_type& t = found->second;
      t.used = true;
      if (t.bad) return std::nullopt;
      named.emplace_back(name, base->value.at);
      const bool circle = t.value == &n || std::ranges::find(upwards, t.value) != upwards.end();
      if (circle) {
        report_circle(t, r);
        return std::nullopt;
      }
      if (name == "default") break;  // it is laid below everything anyway
      if (upwards.size() == longest_chain) {
        r.problems.error(base->value.at, "a chain of `base` may have at most 16 members");
        return std::nullopt;
      }
      upwards.push_back(t.value);
      at = t.value;
    }
    if (const auto found = templates_.find("default"); found != templates_.end() && !found->second.bad) {
      upwards.push_back(found->second.value);
    }
    return std::vector<const node*>(upwards.rbegin(), upwards.rend());
  }

  /// `member` stands in a circle of bases: told at the first of its members in the file.
  void report_circle(template_type& member, reader& r) {
    place first;
    std::string names;
    template_type* t = &member;
    do {
      t->bad = true;
      const entry* base = t->value->find("base");
      if (first.line == 0 || base->value.at < first) first = base->value.at;
      names += ticked(base->value.text) + " ← ";
      t = &templates_.find(base->value.text)->second;
    } while (t != &member);
    r.problems.error(first, "`base` goes round in a circle: " + names + "…");
  }

  bool read_one(const node& n, const std::string& path, std::string_view name, reader& r, instance& out) {
    if (!is_map(n, name, r.problems)) return false;
    auto layers = chain(n, r, {});
    if (!layers) {
      // The chain is wrong, but what stands here can still be read.
      const node* const own[] = {&n};
      read_layers<Config>(own, path, r, out.config, others_);
      return false;
    }
    out.layers = std::move(*layers);
    return read_layers<Config>(out.layers, path, r, out.config, others_);
  }

  std::vector<std::string_view> others_;
  std::map<std::string, template_type, std::less<>> templates_;
  std::map<std::string, instance, std::less<>> instances_;
  bool readable_ = true;
};

template <section Config>
constexpr std::string_view kind_of(const policy_section<Config>&) noexcept {
  return table<Config>::kind;
}

/// Reads every kind under `policies` into the section for it; `each` calls a function with all of them. Answers whether
/// every kind was known.
template <class Each>
bool read_kinds(const node& policies, reader& r, Each each) {
  bool all_known = true;
  for (const entry& e : policies.entries) {
    bool known = false;
    std::vector<std::string_view> kinds;
    each([&](auto& section) {
      kinds.push_back(kind_of(section));
      if (kind_of(section) != e.key) return;
      known = true;
      section.read(e.value, child("policies", e.key), r);
    });
    if (known) continue;
    all_known = false;
    if (std::ranges::find(later_kinds, e.key) != later_kinds.end()) {
      not_supported_yet(e, r.problems);
    } else {
      unknown_key(e, kinds, r.problems);
    }
  }
  return all_known;
}

/// The keys at the top of a sidecar's file. Who wants the policies alone passes over the others.
inline constexpr std::array<std::string_view, 10> top_keys{"version",         "listen",    "admin", "upstreams",
                                                           "policies",        "routes",    "drain", "tracing",
                                                           "trusted_proxies", "access_log"};

/// Whether there is a map to read at the root; says so when there is not. Reports keys that belong to nothing.
inline bool readable_root(const node& root, report& problems) {
  if (root.refused()) return false;
  if (root.kind == node::kind_type::null) {
    problems.error({1, 1}, "the file is empty");
    return false;
  }
  if (!root.is_map()) {
    problems.error(root.at, "a configuration is a map, not " + std::string(kind_name(root)));
    return false;
  }
  for (const entry& e : root.entries) {
    if (std::ranges::find(top_keys, e.key) == top_keys.end())
      unknown_key(e, {top_keys.begin(), top_keys.end()}, problems);
  }
  return true;
}

/// JSON Schema of an instance: the fields, `base`, and `more`.
template <section Config>
std::string instance_schema() {
  return object_schema<Config>(
      R"("base":{"type":"string","description":"The template under `configs` to inherit from."})");
}

/// JSON Schema of one kind under `policies`; its instances are `$defs.KIND`.
template <section Config>
std::string kind_schema() {
  const std::string named =
      R"({"type":"object","additionalProperties":{"$ref":"#/$defs/)" + std::string(table<Config>::kind) + R"("}})";
  return R"({"type":"object","additionalProperties":false,"properties":{"configs":)" + named + R"(,"instances":)" +
         named + "}}";
}

}  // namespace resilience::detail::yaml
