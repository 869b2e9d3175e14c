#pragma once
/// Time as the policies see it: a value that is asked for `now()`.
/// `std::chrono::steady_clock` is one; `resilience::manual_clock` (testing.hpp) is another.

#include <chrono>
#include <concepts>
#include <ctime>
#include <thread>

namespace resilience {

/// Every policy counts in this time point, whatever its clock.
using time_point = std::chrono::steady_clock::time_point;

/// A copyable value with `now()` on the time line of `std::chrono::steady_clock`.
template <class Clock>
concept clock_source = std::copyable<Clock> && std::default_initializable<Clock> && requires(const Clock& clock) {
  { clock.now() } -> std::same_as<time_point>;
};

namespace detail {

template <class Clock>
concept sleeping_clock = requires(Clock& clock, std::chrono::nanoseconds d) { clock.sleep_for(d); };

/// Blocks the calling thread for `d` by the clock's own means where it has them, else by the system's.
template <clock_source Clock>
void sleep_for(Clock& clock, std::chrono::nanoseconds d) {
  if (d <= std::chrono::nanoseconds::zero()) return;
  if constexpr (sleeping_clock<Clock>) {
    clock.sleep_for(d);
  } else {
    std::this_thread::sleep_for(d);
  }
}

/// The time to some milliseconds, several times cheaper than `now()` where the system offers that. For event records.
template <clock_source Clock>
time_point coarse_now(const Clock& clock) noexcept {
#ifdef CLOCK_MONOTONIC_COARSE
  if constexpr (std::same_as<Clock, std::chrono::steady_clock>) {
    timespec at{};
    if (clock_gettime(CLOCK_MONOTONIC_COARSE, &at) == 0) {
      return time_point{std::chrono::seconds{at.tv_sec} + std::chrono::nanoseconds{at.tv_nsec}};
    }
  }
#endif
  return clock.now();
}

/// `at + d`, held at the end of time instead of overflowing. `d` may be negative.
constexpr time_point plus(time_point at, std::chrono::nanoseconds d) noexcept {
  if (d.count() > 0 && at > time_point::max() - d) return time_point::max();
  if (d.count() < 0 && at < time_point::min() - d) return time_point::min();
  return at + d;
}

}  // namespace detail
}  // namespace resilience
