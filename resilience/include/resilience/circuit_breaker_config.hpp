#pragma once
/// What a circuit breaker is told (its configuration) and what it tells (its state, numbers and events).

#include <chrono>
#include <concepts>
#include <cstdint>
#include <optional>
#include <string_view>
#include <system_error>
#include <type_traits>

#include <resilience/clock.hpp>
#include <resilience/error.hpp>
#include <resilience/outcome.hpp>
#include <resilience/units.hpp>

namespace resilience {

/// Closed lets calls through and counts them; open refuses them; half-open lets a few through as probes.
/// By hand only: disabled lets all through and counts nothing, forced_open refuses all for ever, metrics_only lets all
/// through, counts, and never opens.
enum class breaker_state : std::uint8_t { closed, open, half_open, disabled, forced_open, metrics_only };

/// The word that metrics, logs and configuration files use: `half_open`.
constexpr std::string_view to_string(breaker_state s) noexcept {
  switch (s) {
    case breaker_state::closed:
      return "closed";
    case breaker_state::open:
      return "open";
    case breaker_state::half_open:
      return "half_open";
    case breaker_state::disabled:
      return "disabled";
    case breaker_state::forced_open:
      return "forced_open";
    case breaker_state::metrics_only:
      return "metrics_only";
  }
  return "unknown";
}

/// How long a breaker stays open: always the same time, or longer with every opening since it was last closed.
/// The jitter of an `exponential` is not used: each breaker opens at its own time anyway, and whoever is refused is
/// told exactly how long to wait.
class open_interval {
 public:
  template <class Rep, class Period>
    requires std::convertible_to<std::chrono::duration<Rep, Period>, std::chrono::nanoseconds>
  constexpr open_interval(std::chrono::duration<Rep, Period> d) noexcept  // NOLINT: implicit, so that `= 5s` works
      : growth_{.initial = d, .factor = 1, .max = d, .jitter = jitter::none} {}
  constexpr open_interval(const exponential& e) noexcept : growth_(e) {}  // NOLINT: implicit

  /// The wait of the k-th opening since the breaker was last closed, k from 1.
  [[nodiscard]] std::chrono::nanoseconds nth(int k) const noexcept { return detail::nth_interval(growth_, k); }
  /// A constant wait is one with factor 1.
  [[nodiscard]] constexpr const exponential& growth() const noexcept { return growth_; }

  friend constexpr bool operator==(const open_interval&, const open_interval&) = default;

 private:
  exponential growth_;
};

/// When a breaker opens, how long it stays open, and how it probes.
struct circuit_breaker_config {
  /// Share of failed calls in the window that opens the breaker (≥). (0, 100].
  percent failure_rate{50};
  /// Share of slow calls in the window that opens the breaker (≥). (0, 100].
  percent slow_call_rate{100};
  /// A call that takes longer is slow, whatever came of it. More than zero; `nanoseconds::max()` never is, and then
  /// calls are not timed.
  std::chrono::nanoseconds slow_call = std::chrono::seconds{60};
  /// What the shares are taken over: the last N finished calls, or the calls of the last N seconds. 1 to 131072.
  sliding_window window = calls{10};
  /// Finished calls before a share is taken. At least 1; a window of calls caps it to its size.
  int min_calls = 10;
  /// Time spent open before the first probe: a duration, or an `exponential` of the openings since last closed.
  /// More than zero; an exponential's factor at least 1, its max at least its initial.
  open_interval open_for = std::chrono::seconds{5};
  /// Probes admitted when half-open; the breaker decides after min(min_calls, half_open_calls) of them. At least 1.
  int half_open_calls = 3;
  /// The longest time spent half-open, after which the breaker opens again. At least 0; 0 is no limit.
  std::chrono::nanoseconds half_open_for{0};
  /// Whether open ends by itself at the end of open_for, or only when the next call comes.
  bool automatic_half_open = false;
  /// The state the breaker starts in.
  breaker_state initial_state = breaker_state::closed;

  friend constexpr bool operator==(const circuit_breaker_config&, const circuit_breaker_config&) = default;
};
static_assert(std::is_trivially_copyable_v<circuit_breaker_config>);

namespace detail {
/// The largest window: what the counts of a window leave room for in one word.
inline constexpr int max_window = 1 << 17;
}  // namespace detail

/// Returns the first broken bound, or nothing when `c` can be used.
constexpr std::optional<config_error> check(const circuit_breaker_config& c) noexcept {
  constexpr std::chrono::nanoseconds zero{0};
  constexpr auto share = [](percent p) { return p > percent{0} && p <= percent{100}; };
  if (!share(c.failure_rate))
    return config_error{"failure_rate", "be more than 0 and at most 100", c.failure_rate.value};
  if (!share(c.slow_call_rate))
    return config_error{"slow_call_rate", "be more than 0 and at most 100", c.slow_call_rate.value};
  if (c.slow_call <= zero) return config_error{"slow_call", "be more than 0", c.slow_call};
  if (c.window.size() < 1 || c.window.size() > detail::max_window)
    return config_error{"window", "be at least 1 and at most 131072", static_cast<double>(c.window.size())};
  if (c.min_calls < 1) return config_error{"min_calls", "be at least 1", static_cast<double>(c.min_calls)};
  const exponential& open = c.open_for.growth();
  if (open.initial <= zero) return config_error{"open_for", "be more than 0", open.initial};
  if (!(open.factor >= 1)) return config_error{"open_for", "have a factor of at least 1", open.factor};
  if (open.max < open.initial) return config_error{"open_for", "have a max of at least its initial", open.max};
  if (c.half_open_calls < 1)
    return config_error{"half_open_calls", "be at least 1", static_cast<double>(c.half_open_calls)};
  if (c.half_open_for < zero) return config_error{"half_open_for", "be at least 0", c.half_open_for};
  if (c.initial_state > breaker_state::metrics_only)
    return config_error{"initial_state", "be a state", static_cast<double>(c.initial_state)};
  return std::nullopt;
}
static_assert(!check(circuit_breaker_config{}), "the defaults must be usable");

/// What the window holds now.
struct breaker_metrics {
  /// Percent; −1 below min_calls.
  double failure_rate = -1;
  double slow_call_rate = -1;
  int calls = 0;
  int failed_calls = 0;
  /// Slow ones among all, failed or not.
  int slow_calls = 0;
  int slow_failed_calls = 0;
  /// Calls refused since a state other than open was last entered.
  std::int64_t not_permitted_calls = 0;
};

/// The state changed. `policy` in all events lives as long as the breaker.
struct breaker_transition {
  std::string_view policy;
  breaker_state from;
  breaker_state to;
  time_point at;
};
/// A rate reached its threshold: once per opening, in metrics_only once until it is left or reset.
struct breaker_rate_exceeded {
  std::string_view policy;
  double rate;  ///< Percent.
  time_point at;
};
/// A call was refused. Not told in forced_open.
struct breaker_not_permitted {
  std::string_view policy;
  time_point at;
};
/// The breaker was reset.
struct breaker_reset {
  std::string_view policy;
  time_point at;
};
/// A call was finished with a verdict. Not told in disabled, nor of calls abandoned.
struct breaker_call {
  std::string_view policy;
  resilience::verdict verdict;
  std::chrono::nanoseconds duration;  ///< Zero when the call was not timed.
  std::error_code error;              ///< Of the outcome, where one was given.
};

enum class breaker_event_type : std::uint8_t {
  transition,
  failure_rate_exceeded,
  slow_call_rate_exceeded,
  not_permitted,
  reset
};

/// What the ring of recent events holds. `from` and `to` belong to a transition, `rate` (percent) to a rate exceeded.
struct breaker_event {
  breaker_event_type type{};
  breaker_state from{};
  breaker_state to{};
  double rate{};
  time_point at{};

  friend bool operator==(const breaker_event&, const breaker_event&) = default;
};

}  // namespace resilience
