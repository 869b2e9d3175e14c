#pragma once
/// The calls of the last N seconds. No lock and no clock: the owner has both.

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <vector>

#include <resilience/clock.hpp>
#include <resilience/detail/count_window.hpp>

namespace resilience::detail {

/// N buckets, one per whole second of the clock. A call aged at most N − 1 s is always in one of the last N seconds,
/// and one aged N s or more never is; in between the position within the second decides. Cost: constant, plus a step
/// per second that passed since the last look, at most N.
class time_window {
 public:
  explicit time_window(int seconds) : buckets_(static_cast<std::size_t>(seconds)) {}

  void add(time_point now, unsigned outcome) noexcept {
    age(now);
    buckets_[index(newest_)].add(outcome);
    total_.add(outcome);
  }
  call_counts counts(time_point now) noexcept {
    age(now);
    return total_;
  }
  void clear() noexcept {
    std::ranges::fill(buckets_, call_counts{});
    total_ = {};
  }
  /// Becomes a window of `seconds`, and keeps what is young enough for it.
  void resize(int seconds, time_point now) {
    age(now);
    time_window next(seconds);
    next.newest_ = newest_;
    const auto kept = std::min(buckets_.size(), next.buckets_.size());
    for (std::int64_t s = newest_ - static_cast<std::int64_t>(kept) + 1; s <= newest_; ++s) {
      next.buckets_[next.index(s)] = buckets_[index(s)];
      next.total_ += buckets_[index(s)];
    }
    *this = std::move(next);
  }

 private:
  [[nodiscard]] std::size_t index(std::int64_t second) const noexcept {
    const auto n = static_cast<std::int64_t>(buckets_.size());
    return static_cast<std::size_t>((second % n + n) % n);
  }
  /// A clock that went back changes nothing: the call counts in the newest second.
  void age(time_point now) noexcept {
    const std::int64_t second = std::chrono::floor<std::chrono::seconds>(now).time_since_epoch().count();
    if (second <= newest_) return;
    const auto n = static_cast<std::int64_t>(buckets_.size());
    for (std::int64_t s = std::max(newest_ + 1, second - n + 1); s <= second; ++s) {
      total_ -= buckets_[index(s)];
      buckets_[index(s)] = {};
    }
    newest_ = second;
  }

  std::vector<call_counts> buckets_;
  call_counts total_{};
  std::int64_t newest_ = 0;
};

}  // namespace resilience::detail
