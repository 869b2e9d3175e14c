#pragma once
/// Policies from a YAML file: `auto policies = resilience::load_policies("policies.yaml");`. Needs yaml-cpp.
///
/// The file's `policies:` section is read; the other sections of a sidecar's file may stand beside it and are passed
/// over. Reading is strict: every error at once, each with its line, its column and the nearest word that is known.

#include <array>
#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <stdexcept>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include <resilience/adaptive_rate_limiter.hpp>
#include <resilience/bulkhead.hpp>
#include <resilience/circuit_breaker.hpp>
#include <resilience/clock.hpp>
#include <resilience/config_problem.hpp>
#include <resilience/detail/yaml/file.hpp>
#include <resilience/detail/yaml/parse.hpp>
#include <resilience/detail/yaml/policies.hpp>
#include <resilience/rate_limiter.hpp>
#include <resilience/retry.hpp>
#include <resilience/retry_budget.hpp>
#include <resilience/time_limiter.hpp>

namespace resilience {
namespace detail::yaml {

/// Every instance of a file by kind and name.
struct policy_configs {
  template <class Config>
  using by_name = std::map<std::string, Config, std::less<>>;

  std::tuple<by_name<circuit_breaker_config>, by_name<rate_limiter_config>, by_name<adaptive_rate_limiter_config>,
             by_name<bulkhead_config>, by_name<retry_budget_config>, by_name<retry_config>,
             by_name<time_limiter_config>>
      all;
};

/// Reads the policies of a text. Throws invalid_configuration; `file` is only the name that its problems bear.
inline policy_configs read_policies(std::string_view text, const std::string& file,
                                    const environment& variables = process_environment) {
  // What a sidecar's retry knows beyond the library's: right in the file, without a meaning in process.
  static constexpr std::array<std::string_view, 4> of_a_sidecar{"retry_on", "methods", "retry_after", "replay_buffer"};
  text = without_mark(text);
  report problems;
  const node root = parse(text, problems, variables);
  std::tuple<policy_section<circuit_breaker_config>, policy_section<rate_limiter_config>,
             policy_section<adaptive_rate_limiter_config>, policy_section<bulkhead_config>,
             policy_section<retry_budget_config>, policy_section<retry_config>, policy_section<time_limiter_config>>
      sections;
  std::get<policy_section<retry_config>>(sections) = policy_section<retry_config>(of_a_sidecar);
  if (readable_root(root, problems)) {
    reader r{problems, {}};
    if (const entry* policies = root.find("policies"); policies == nullptr) {
      problems.error({1, 1}, "`policies` is missing");
    } else if (is_map(policies->value, "policies", problems)) {
      read_kinds(policies->value, r, [&](auto f) { std::apply([&](auto&... s) { (f(s), ...); }, sections); });
    }
  }
  if (problems.has_errors()) throw invalid_configuration(problems.finish(file, text));

  policy_configs configs;
  const auto copy = [&]<class Config>(const policy_section<Config>& from) {
    auto& to = std::get<policy_configs::by_name<Config>>(configs.all);
    for (const auto& [name, one] : from.instances()) to.emplace(name, one.config);
  };
  std::apply([&](const auto&... s) { (copy(s), ...); }, sections);
  return configs;
}

}  // namespace detail::yaml

/// The policies of a file by kind and name. A retry is bound by the `retry_budget` that has its name, if there is one.
/// Threads: any; a lookup is a short shared lock, so keep what it returns. What it returns outlives a reload.
template <clock_source Clock = std::chrono::steady_clock>
class basic_policies {
 public:
  template <class Policy>
  using pointer = std::shared_ptr<Policy>;

  /// Throws invalid_configuration with every error of the file.
  static basic_policies from_file(const std::string& file, Clock clock = {}) {
    basic_policies made(std::move(clock));
    made.reload(file);
    return made;
  }
  /// The same for a text; `file` is the name that errors bear.
  static basic_policies from_text(std::string_view text, const std::string& file = "policies", Clock clock = {}) {
    basic_policies made(std::move(clock));
    made.reload_text(text, file);
    return made;
  }

  // Each throws std::out_of_range when the file has no such instance.
  [[nodiscard]] pointer<basic_circuit_breaker<Clock>> circuit_breaker(std::string_view name) const {
    return find<basic_circuit_breaker<Clock>>("circuit_breaker", name);
  }
  [[nodiscard]] pointer<basic_rate_limiter<Clock>> rate_limiter(std::string_view name) const {
    return find<basic_rate_limiter<Clock>>("rate_limiter", name);
  }
  [[nodiscard]] pointer<basic_adaptive_rate_limiter<Clock>> adaptive_rate_limiter(std::string_view name) const {
    return find<basic_adaptive_rate_limiter<Clock>>("adaptive_rate_limiter", name);
  }
  [[nodiscard]] pointer<basic_bulkhead<Clock>> bulkhead(std::string_view name) const {
    return find<basic_bulkhead<Clock>>("bulkhead", name);
  }
  [[nodiscard]] pointer<basic_retry<Clock>> retry(std::string_view name) const {
    return find<basic_retry<Clock>>("retry", name);
  }
  [[nodiscard]] pointer<basic_retry_budget<Clock>> retry_budget(std::string_view name) const {
    return find<basic_retry_budget<Clock>>("retry_budget", name);
  }
  [[nodiscard]] pointer<basic_time_limiter<Clock>> time_limiter(std::string_view name) const {
    return find<basic_time_limiter<Clock>>("time_limiter", name);
  }

  /// Calls `f` with every policy, for metrics and health: `policies.for_each([&](auto& policy) { … })`.
  template <class F>
  void for_each(F f) const {
    const maps now = snapshot();
    std::apply([&](const auto&... map) { (visit(map, f), ...); }, now);
  }

  /// Reads the file again. Instances whose name remains keep their state (windows, open timers, tokens, permits,
  /// budgets) and take their new settings; new ones are made; the others are forgotten here and live on where they are
  /// held. All or nothing: throws invalid_configuration, and then nothing has changed.
  void reload(const std::string& file) {
    const auto text = detail::yaml::read_file(file);
    if (!text) throw invalid_configuration({{file, 0, 0, false, text.error(), {}, 0}});
    reload_text(*text, file);
  }
  /// The same for a text.
  void reload_text(std::string_view text, const std::string& file = "policies") {
    const detail::yaml::policy_configs configs = detail::yaml::read_policies(text, file);
    const std::lock_guard one_at_a_time(state_->reloading);
    const maps before = snapshot();
    maps next;
    std::vector<std::function<void()>> configure;
    const auto make = [&]<class Policy, class Config>(by_name<Policy>& to, const Config&) {
      for (const auto& [name, config] : std::get<detail::yaml::policy_configs::by_name<Config>>(configs.all)) {
        auto& old = std::get<by_name<Policy>>(before);
        const auto found = old.find(name);
        if (found != old.end() && keeps(name, found->second, before, next)) {
          to.emplace(name, found->second);
          configure.push_back([policy = found->second.get(), config] { policy->configure(config); });
        } else {
          to.emplace(name, fresh<Policy>(name, config, next));
        }
      }
    };
    make(std::get<0>(next), circuit_breaker_config{});
    make(std::get<1>(next), rate_limiter_config{});
    make(std::get<2>(next), adaptive_rate_limiter_config{});
    make(std::get<3>(next), bulkhead_config{});
    make(std::get<4>(next), retry_budget_config{});  // before the retries that they bind
    make(std::get<5>(next), retry_config{});
    make(std::get<6>(next), time_limiter_config{});
    for (const auto& apply : configure) apply();
    const std::unique_lock lock(state_->mutex);
    state_->current = std::move(next);
  }

 private:
  template <class Policy>
  using by_name = std::map<std::string, pointer<Policy>, std::less<>>;
  using maps =
      std::tuple<by_name<basic_circuit_breaker<Clock>>, by_name<basic_rate_limiter<Clock>>,
                 by_name<basic_adaptive_rate_limiter<Clock>>, by_name<basic_bulkhead<Clock>>,
                 by_name<basic_retry_budget<Clock>>, by_name<basic_retry<Clock>>, by_name<basic_time_limiter<Clock>>>;

  struct state {
    std::shared_mutex mutex;
    std::mutex reloading;
    maps current;
  };

  explicit basic_policies(Clock clock) : clock_(std::move(clock)) {}

  [[nodiscard]] maps snapshot() const {
    const std::shared_lock lock(state_->mutex);
    return state_->current;
  }

  template <class Policy>
  pointer<Policy> find(std::string_view kind, std::string_view name) const {
    const std::shared_lock lock(state_->mutex);
    const auto& map = std::get<by_name<Policy>>(state_->current);
    const auto found = map.find(name);
    if (found == map.end())
      throw std::out_of_range("there is no " + std::string(kind) + " \"" + std::string(name) + "\"");
    return found->second;
  }

  /// A retry holds its budget from the start: it stays the same object as long as the budget does.
  template <class Policy>
  static bool keeps(const std::string&, const pointer<Policy>&, const maps&, const maps&) {
    return true;
  }
  static bool keeps(const std::string& name, const pointer<basic_retry<Clock>>&, const maps& before, const maps& next) {
    return budget(name, before) == budget(name, next);
  }
  static pointer<basic_retry_budget<Clock>> budget(const std::string& name, const maps& in) {
    const auto& map = std::get<by_name<basic_retry_budget<Clock>>>(in);
    const auto found = map.find(name);
    return found == map.end() ? nullptr : found->second;
  }

  template <class Policy, class Config>
  pointer<Policy> fresh(const std::string& name, const Config& config, const maps& next) const {
    if constexpr (std::is_same_v<Policy, basic_retry<Clock>>) {
      return std::make_shared<Policy>(name, config, clock_, budget(name, next));
    } else {
      return std::make_shared<Policy>(name, config, clock_);
    }
  }

  template <class Map, class F>
  static void visit(const Map& map, F& f) {
    for (const auto& [name, policy] : map) f(*policy);
  }

  [[no_unique_address]] Clock clock_;
  std::unique_ptr<state> state_ = std::make_unique<state>();
};

using policies = basic_policies<>;

/// Reads a file. Throws invalid_configuration, whose `what()` is the whole report.
template <clock_source Clock = std::chrono::steady_clock>
basic_policies<Clock> load_policies(const std::string& file, Clock clock = {}) {
  return basic_policies<Clock>::from_file(file, std::move(clock));
}

}  // namespace resilience
