#pragma once
/// How much repeating a target may be asked to bear, whoever repeats.

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <expected>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include <resilience/clock.hpp>
#include <resilience/error.hpp>
#include <resilience/units.hpp>

namespace resilience {

/// A repetition is granted when those of the last `window`, with it, are at most the larger of `ratio` of the first
/// attempts in that window and `min`.
struct retry_budget_config {
  /// Share of the first attempts. [0, 100].
  percent ratio{20};
  /// What both are counted over. More than zero.
  std::chrono::nanoseconds window = std::chrono::seconds{10};
  /// Always allowed, so that a target with little traffic can be retried at all. At least 0 calls; 0 switches it off.
  rate min = per_second(3);

  friend constexpr bool operator==(const retry_budget_config&, const retry_budget_config&) = default;
};

/// Returns the first broken bound, or nothing when `c` can be used.
constexpr std::optional<config_error> check(const retry_budget_config& c) noexcept {
  if (!(c.ratio >= percent{0} && c.ratio <= percent{100})) {
    return config_error{"ratio", "be at least 0 and at most 100", c.ratio.value};
  }
  if (c.window <= std::chrono::nanoseconds::zero()) return config_error{"window", "be more than 0", c.window};
  if (c.min.calls < 0) return config_error{"min", "be at least 0", static_cast<double>(c.min.calls)};
  if (c.min.period <= std::chrono::nanoseconds::zero()) {
    return config_error{"min", "have a period of more than 0", c.min.period};
  }
  return std::nullopt;
}
static_assert(!check(retry_budget_config{}), "the defaults must be usable");

/// What a budget has seen in its window, and what it refused since it was made.
struct retry_budget_metrics {
  std::int64_t first_attempts = 0;
  std::int64_t repetitions = 0;
  /// Repetitions that the window may hold now.
  std::int64_t allowed = 0;
  std::int64_t refused = 0;
};

namespace detail {

/// The rules: no lock, no clock. Events are gathered for a hundredth of the window; what was gathered leaves the window
/// as a whole, repetitions with their last one and first attempts with their first one, so the bound is never exceeded
/// by the gathering.
class budget_core {
 public:
  explicit budget_core(const retry_budget_config& c) : config_(c) {}

  [[nodiscard]] const retry_budget_config& config() const noexcept { return config_; }

  /// A longer window starts from what is known; a shorter one forgets at once.
  void configure(const retry_budget_config& c, time_point now) {
    config_ = c;
    expire(now);
  }

  void record_call(time_point now) {
    ++at(now).calls;
    ++calls_;
  }

  bool try_take(time_point now) {
    expire(now);
    if (repetitions_ >= allowed()) {
      ++refused_;
      return false;
    }
    bucket& to = at(now);
    ++to.repetitions;
    to.last_repetition = std::max(to.last_repetition, now);
    ++repetitions_;
    return true;
  }

  /// When the oldest repetitions leave the window; zero when nothing has to leave first.
  [[nodiscard]] std::chrono::nanoseconds retry_after(time_point now) const {
    for (std::uint64_t i = oldest_repetition_; i < end_; ++i) {
      const bucket& b = buckets_[i % size];
      if (b.repetitions > 0)
        return std::max(b.last_repetition + config_.window - now, std::chrono::nanoseconds::zero());
    }
    return {};
  }

  [[nodiscard]] retry_budget_metrics metrics(time_point now) {
    expire(now);
    return {calls_, repetitions_, allowed(), refused_};
  }

 private:
  // A bucket spans a hundredth of the window, and one more may still hold what has just left it; the rest is for a
  // window that was made shorter.
  static constexpr std::size_t size = 128;
  struct bucket {
    time_point start{};
    time_point last_repetition{};
    std::int64_t calls = 0;
    std::int64_t repetitions = 0;
  };

  [[nodiscard]] std::int64_t allowed() const noexcept {
    const double shared = static_cast<double>(calls_) * config_.ratio.value / 100;
    const double least = static_cast<double>(config_.min.calls) * static_cast<double>(config_.window.count()) /
                         static_cast<double>(config_.min.period.count());
    return static_cast<std::int64_t>(std::min(std::max(shared, least), 9e18));
  }

  bucket& at(time_point now) {
    expire(now);
    if (end_ > 0) {
      bucket& newest = buckets_[(end_ - 1) % size];
      const bool live = end_ > std::min(oldest_call_, oldest_repetition_);
      if (live && now < newest.start + config_.window / 100) return newest;
    }
    if (end_ - std::min(oldest_call_, oldest_repetition_) == size) return buckets_[(end_ - 1) % size];
    bucket& fresh = buckets_[end_++ % size];
    fresh = {.start = now};
    return fresh;
  }

  void expire(time_point now) {
    for (; oldest_call_ < end_; ++oldest_call_) {
      const bucket& b = buckets_[oldest_call_ % size];
      if (now - b.start < config_.window) break;
      calls_ -= b.calls;
    }
    for (; oldest_repetition_ < end_; ++oldest_repetition_) {
      const bucket& b = buckets_[oldest_repetition_ % size];
      if (now - (b.repetitions > 0 ? b.last_repetition : b.start) < config_.window) break;
      repetitions_ -= b.repetitions;
    }
  }

  retry_budget_config config_;
  std::array<bucket, size> buckets_{};
  // Buckets are numbered from the beginning of time; each sum covers those from its oldest one to the end.
  std::uint64_t end_ = 0;
  std::uint64_t oldest_call_ = 0;
  std::uint64_t oldest_repetition_ = 0;
  std::int64_t calls_ = 0;
  std::int64_t repetitions_ = 0;
  std::int64_t refused_ = 0;
};

}  // namespace detail

/// A budget whatever its clock: what a retry or a hedge takes.
class any_retry_budget {
 public:
  virtual ~any_retry_budget() = default;
  /// Tells of a first attempt.
  virtual void record_call() = 0;
  /// Takes one repetition, for good. Errors: errc::budget_exhausted.
  virtual std::expected<void, rejection> try_acquire() = 0;

 protected:
  any_retry_budget() = default;
  any_retry_budget(const any_retry_budget&) = delete;
  any_retry_budget& operator=(const any_retry_budget&) = delete;
};

/// Shared by all retries and hedges that go to one target. Threads: any. Cost: no allocation, one short lock.
template <clock_source Clock = std::chrono::steady_clock>
class basic_retry_budget final : public any_retry_budget {
 public:
  /// Throws std::invalid_argument when `config` breaks a bound.
  explicit basic_retry_budget(std::string name, retry_budget_config config = {}, Clock clock = {})
      : name_(std::move(name)), core_(detail::checked(config)), clock_(std::move(clock)) {}

  void record_call() override {
    const std::lock_guard lock(mutex_);
    core_.record_call(clock_.now());
  }

  std::expected<void, rejection> try_acquire() override {
    const std::lock_guard lock(mutex_);
    const time_point now = clock_.now();
    if (core_.try_take(now)) return {};
    return std::unexpected(rejection{errc::budget_exhausted, name_, core_.retry_after(now)});
  }

  /// Changes the bounds and keeps what was counted. Throws std::invalid_argument when `config` breaks a bound.
  void configure(const retry_budget_config& config) {
    detail::checked(config);
    const std::lock_guard lock(mutex_);
    core_.configure(config, clock_.now());
  }

  [[nodiscard]] std::string_view name() const noexcept { return name_; }
  [[nodiscard]] retry_budget_config config() const {
    const std::lock_guard lock(mutex_);
    return core_.config();
  }
  [[nodiscard]] retry_budget_metrics metrics() const {
    const std::lock_guard lock(mutex_);
    return core_.metrics(clock_.now());
  }

 private:
  const std::string name_;
  mutable std::mutex mutex_;
  mutable detail::budget_core core_;
  [[no_unique_address]] Clock clock_;
};

using retry_budget = basic_retry_budget<>;

}  // namespace resilience
