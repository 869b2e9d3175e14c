#pragma once
/// For tests of code that uses the policies: time that moves only when the test moves it.

#include <atomic>
#include <chrono>
#include <memory>

#include <resilience/clock.hpp>

namespace resilience {

/// A clock whose copies share one time. It starts well after the epoch, so that a test may look back.
/// Threads: any; `advance` is one atomic addition.
class manual_clock {
 public:
  using duration = std::chrono::nanoseconds;
  using time_point = resilience::time_point;

  manual_clock() = default;

  [[nodiscard]] time_point now() const noexcept { return time_point{duration{now_->load(std::memory_order_acquire)}}; }

  /// Moves time for every copy.
  void advance(duration d) noexcept { now_->fetch_add(d.count(), std::memory_order_acq_rel); }

  /// What a policy that waits calls: passes the time at once.
  void sleep_for(duration d) noexcept { advance(d); }

 private:
  std::shared_ptr<std::atomic<duration::rep>> now_ =
      std::make_shared<std::atomic<duration::rep>>(duration{std::chrono::hours{1}}.count());
};
static_assert(clock_source<manual_clock>);

}  // namespace resilience
