#pragma once
/// The small unit types that configurations are written in.

#include <algorithm>
#include <chrono>
#include <cmath>
#include <compare>
#include <concepts>
#include <cstdint>
#include <type_traits>

namespace resilience {

template <class T>
concept arithmetic = std::is_arithmetic_v<T>;

/// A share of a hundred: `percent{50}` is one half.
struct percent {
  double value = 0;

  constexpr percent() = default;
  constexpr explicit percent(arithmetic auto v) noexcept : value(static_cast<double>(v)) {}
  /// As a fraction: 0.5 for 50 %.
  [[nodiscard]] constexpr double ratio() const noexcept { return value / 100; }

  friend constexpr auto operator<=>(percent, percent) = default;
};

/// A number of calls, as a window or a count.
struct calls {
  int value = 0;
  friend constexpr auto operator<=>(calls, calls) = default;
};

/// A window of whole seconds.
struct seconds_window {
  int seconds = 0;
  friend constexpr auto operator<=>(seconds_window, seconds_window) = default;
};

/// What a breaker's rates are taken over: the last N finished calls, or the calls of the last N seconds.
class sliding_window {
 public:
  constexpr sliding_window(calls n) noexcept : size_(n.value) {}                             // NOLINT: implicit
  constexpr sliding_window(seconds_window n) noexcept : size_(n.seconds), by_time_(true) {}  // NOLINT: implicit

  /// Calls, or seconds.
  [[nodiscard]] constexpr int size() const noexcept { return size_; }
  [[nodiscard]] constexpr bool by_time() const noexcept { return by_time_; }

  friend constexpr bool operator==(sliding_window, sliding_window) = default;

 private:
  int size_;
  bool by_time_ = false;
};

/// So many calls in each period.
struct rate {
  int calls = 0;
  std::chrono::nanoseconds period = std::chrono::seconds{1};

  [[nodiscard]] constexpr double per_second() const noexcept {
    return calls * 1e9 / static_cast<double>(period.count());
  }

  friend constexpr bool operator==(const rate&, const rate&) = default;
};

constexpr rate per_second(int calls) noexcept { return {calls, std::chrono::seconds{1}}; }
constexpr rate per_minute(int calls) noexcept { return {calls, std::chrono::minutes{1}}; }

/// How a computed interval is spread, so that clients that failed together do not return together.
/// full: anywhere between nothing and the interval (Brooker, "Exponential Backoff and Jitter", 2015).
enum class jitter : std::uint8_t { full, none };

/// The k-th interval is initial × factor^(k−1), then jitter, then at most max.
struct exponential {
  std::chrono::nanoseconds initial = std::chrono::milliseconds{50};
  double factor = 2;
  std::chrono::nanoseconds max = std::chrono::seconds{1};
  resilience::jitter jitter = resilience::jitter::full;

  friend constexpr bool operator==(const exponential&, const exponential&) = default;
};

/// The same interval each time.
struct fixed {
  std::chrono::nanoseconds interval{};
  friend constexpr bool operator==(const fixed&, const fixed&) = default;
};

/// Evenly spread over base ± ratio × base.
struct randomized {
  std::chrono::nanoseconds base{};
  double ratio = 0.5;
  friend constexpr bool operator==(const randomized&, const randomized&) = default;
};

namespace detail {

/// initial × factor^(k−1), at most max, for k from 1; never overflows. Without jitter.
inline std::chrono::nanoseconds nth_interval(const exponential& e, int k) noexcept {
  const double raw = static_cast<double>(e.initial.count()) * std::pow(e.factor, static_cast<double>(k - 1));
  if (!(raw < static_cast<double>(e.max.count()))) return e.max;
  return std::chrono::nanoseconds{static_cast<std::int64_t>(raw)};
}

}  // namespace detail
}  // namespace resilience
