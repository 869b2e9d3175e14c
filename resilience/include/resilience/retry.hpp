#pragma once
/// Repeats a call that failed.

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <concepts>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>

#include <resilience/clock.hpp>
#include <resilience/detail/random.hpp>
#include <resilience/detail/run.hpp>
#include <resilience/error.hpp>
#include <resilience/events.hpp>
#include <resilience/outcome.hpp>
#include <resilience/retry_budget.hpp>
#include <resilience/units.hpp>

namespace resilience {

/// The waits between attempts: `exponential{…}`, `fixed{…}`, `randomized{…}`, or a duration, which is fixed.
class retry_interval {
 public:
  using kinds = std::variant<exponential, fixed, randomized>;

  constexpr retry_interval() noexcept : kind_(exponential{}) {}
  constexpr retry_interval(exponential e) noexcept : kind_(e) {}  // NOLINT: implicit by design
  constexpr retry_interval(fixed f) noexcept : kind_(f) {}        // NOLINT: implicit by design
  constexpr retry_interval(randomized r) noexcept : kind_(r) {}   // NOLINT: implicit by design
  template <class Rep, class Period>
    requires std::convertible_to<std::chrono::duration<Rep, Period>, std::chrono::nanoseconds>
  constexpr retry_interval(std::chrono::duration<Rep, Period> d) noexcept : kind_(fixed{d}) {}  // NOLINT: implicit

  [[nodiscard]] constexpr const kinds& kind() const noexcept { return kind_; }
  /// The interval as a `Kind`, or nothing when it is of another.
  template <class Kind>
  [[nodiscard]] constexpr std::optional<Kind> as() const noexcept {
    if (!std::holds_alternative<Kind>(kind_)) return std::nullopt;
    return std::get<Kind>(kind_);
  }

  friend constexpr bool operator==(const retry_interval&, const retry_interval&) = default;

 private:
  kinds kind_;
};

/// How often a call is made in all, and how long to wait in between.
struct retry_config {
  /// Calls in all, the first included. At least 1.
  int max_attempts = 3;
  /// Durations at least 0, factor at least 1, ratio in [0, 1].
  retry_interval interval = exponential{};
  /// Whether an error that is returned becomes errc::attempts_exhausted when the last attempt gives it too. Exceptions
  /// go on unchanged.
  bool fail_after_max_attempts = false;

  friend constexpr bool operator==(const retry_config&, const retry_config&) = default;
};
static_assert(std::is_trivially_copyable_v<retry_config>);

/// Returns the first broken bound, or nothing when `c` can be used.
constexpr std::optional<config_error> check(const retry_config& c) noexcept {
  constexpr auto zero = std::chrono::nanoseconds::zero();
  if (c.max_attempts < 1) return config_error{"max_attempts", "be at least 1", static_cast<double>(c.max_attempts)};
  if (const auto e = c.interval.as<exponential>()) {
    if (e->initial < zero) return config_error{"interval", "have an initial of at least 0", e->initial};
    if (!(e->factor >= 1 && e->factor <= std::numeric_limits<double>::max())) {
      return config_error{"interval", "have a factor of at least 1", e->factor};
    }
    if (e->max < zero) return config_error{"interval", "have a max of at least 0", e->max};
  } else if (const auto f = c.interval.as<fixed>()) {
    if (f->interval < zero) return config_error{"interval", "be at least 0", f->interval};
  } else if (const auto r = c.interval.as<randomized>()) {
    if (r->base < zero) return config_error{"interval", "have a base of at least 0", r->base};
    if (!(r->ratio >= 0 && r->ratio <= 1)) {
      return config_error{"interval", "have a ratio of at least 0 and at most 1", r->ratio};
    }
  }
  return std::nullopt;
}
static_assert(!check(retry_config{}), "the defaults must be usable");

/// Calls that ended, by how they ended and whether they were repeated. Cancelled calls are in none of them.
struct retry_metrics {
  std::int64_t successful_without_retry = 0;
  std::int64_t successful_with_retry = 0;
  std::int64_t failed_without_retry = 0;
  std::int64_t failed_with_retry = 0;
};

/// retry: an attempt failed and another will be made. success: after at least one repetition. error: given up.
/// ignored_error: an error that is not repeated.
enum class retry_event_type : std::uint8_t { retry, success, error, ignored_error };

/// What a retry decided. `wait` is zero but for type retry.
struct retry_event {
  std::string_view policy;
  retry_event_type type{};
  /// Attempts made so far.
  int attempts = 0;
  std::chrono::nanoseconds wait{};
  std::error_code error{};
  time_point at{};
};

namespace detail {

/// From double to nanoseconds, within [0, max].
inline std::chrono::nanoseconds nanoseconds_in(double d, std::chrono::nanoseconds max) noexcept {
  if (!(d < static_cast<double>(max.count()))) return max;  // also what is not a number
  return std::chrono::nanoseconds{static_cast<std::int64_t>(std::max(d, 0.0))};
}

/// The wait after attempt k, from 1: initial × factor^(k−1), then jitter, then cap. `unit` is in [0, 1).
inline std::chrono::nanoseconds back_off(const retry_interval& interval, int k, double unit) noexcept {
  constexpr auto longest = std::chrono::nanoseconds::max();
  if (const auto e = interval.as<exponential>()) {
    if (e->initial == std::chrono::nanoseconds::zero()) return {};
    const double raw = static_cast<double>(e->initial.count()) * std::pow(e->factor, static_cast<double>(k - 1));
    return nanoseconds_in(e->jitter == jitter::full ? raw * unit : raw, e->max);
  }
  if (const auto r = interval.as<randomized>()) {
    return nanoseconds_in(static_cast<double>(r->base.count()) * (1 + r->ratio * (2 * unit - 1)), longest);
  }
  return std::get<fixed>(interval.kind()).interval;
}

/// The last real answer of a call that is repeated: an error as a value, or an exception.
template <class R>
class last_answer {
 public:
  [[nodiscard]] bool empty() const noexcept { return !value_ && !exception_; }

  template <class V>
  void keep(V&& value) {
    exception_ = nullptr;
    value_.emplace(std::forward<V>(value));
  }
  void keep_exception(std::exception_ptr e) {
    value_.reset();
    exception_ = std::move(e);
  }
  [[nodiscard]] bool is_value() const noexcept { return value_.has_value(); }

  R give() {
    if constexpr (can_hold) {
      if (value_) return std::move(*value_);
    }
    std::rethrow_exception(exception_);
  }

 private:
  // Only errors are kept, and only these types can be one.
  static constexpr bool can_hold = std::same_as<R, std::error_code> || is_expected<R>::value;
  std::optional<std::conditional_t<can_hold, R, std::monostate>> value_{};
  std::exception_ptr exception_{};
};

}  // namespace detail

/// Makes a call again when it failed: an exception, `std::unexpected`, a truthy `std::error_code`. Our own rejections
/// and cancellations are never repeated; when one of our own policies refuses a later attempt, the last real error is
/// the result, for something was attempted.
///
/// It ends with the last result or exception unchanged (but see `fail_after_max_attempts`). No attempt starts, and no
/// wait reaches, at or past the deadline: then the last real error is the result, or errc::deadline_exceeded where
/// nothing was attempted.
/// Threads: any. Cost: a call that succeeds at once is one atomic addition, and the budget's lock where there is one.
template <clock_source Clock = std::chrono::steady_clock>
class basic_retry : public detail::policy_base<basic_retry<Clock>> {
 public:
  /// How long to wait after `attempt`, from 1, came to `outcome`. Negative: do not repeat.
  using interval_function = std::function<std::chrono::nanoseconds(int attempt, const outcome&)>;
  using shared_budget = std::shared_ptr<any_retry_budget>;

  /// Throws std::invalid_argument when `config` breaks a bound.
  explicit basic_retry(std::string name, retry_config config = {}, Clock clock = {})
      : basic_retry(std::move(name), config, std::move(clock), interval_function{}) {}
  /// With a function for the interval in place of `config.interval`, a shared budget, or both in either order.
  basic_retry(std::string name, retry_config config, Clock clock, interval_function interval, shared_budget budget = {})
      : name_(std::move(name)),
        config_(detail::checked(config)),
        interval_(std::move(interval)),
        budget_(std::move(budget)),
        clock_(std::move(clock)) {}
  basic_retry(std::string name, retry_config config, Clock clock, shared_budget budget, interval_function interval = {})
      : basic_retry(std::move(name), config, std::move(clock), std::move(interval), std::move(budget)) {}

  /// One call and its attempts, step by step, for those who are called back instead of calling:
  ///
  ///     auto attempts = retry.start(deadline);
  ///     attempts.begin();                                  // then make the first attempt
  ///     if (auto wait = attempts.next(outcome)) …          // wait so long; then begin() and the next attempt
  ///     else …                                             // the outcome stands
  ///
  /// Each call is counted once; dropped unfinished, it is abandoned and not counted. The retry must outlive it.
  /// Threads: one at a time.
  class attempts {
   public:
    attempts(attempts&& other) noexcept
        : owner_(std::exchange(other.owner_, nullptr)),
          deadline_(other.deadline_),
          made_(other.made_),
          stopped_by_(other.stopped_by_) {}
    attempts& operator=(attempts&&) = delete;

    /// Starts an attempt; false at or past the deadline: then none may start, and the call is over.
    [[nodiscard]] bool begin() {
      if (owner_ == nullptr) return false;
      if (deadline_ && owner_->clock_.now() >= *deadline_) {
        give_up(errc::deadline_exceeded, last_);
        return false;
      }
      ++made_;
      return true;
    }

    /// Tells what the attempt came to. Returns how long to wait before the next one, at least `at_least`, with its
    /// budget taken; or nothing: the call is over.
    std::optional<std::chrono::nanoseconds> next(const outcome& o, std::chrono::nanoseconds at_least = {}) {
      if (owner_ == nullptr) return std::nullopt;
      if (o.ok()) {
        succeed();
        return std::nullopt;
      }
      if (is_cancellation(o.error)) {
        owner_ = nullptr;
        stopped_by_ = errc::cancelled;
        return std::nullopt;
      }
      if (is_rejection(o.error)) {
        fail(o.error, made_ > 1 ? retry_event_type::error : retry_event_type::ignored_error);
        return std::nullopt;
      }
      const retry_config config = owner_->config();
      if (made_ >= config.max_attempts) return give_up(errc::attempts_exhausted, o.error);
      std::chrono::nanoseconds wait = owner_->interval_
                                          ? owner_->interval_(made_, o)
                                          : detail::back_off(config.interval, made_, detail::random_unit());
      if (wait < std::chrono::nanoseconds::zero()) {
        fail(o.error, retry_event_type::ignored_error);
        return std::nullopt;
      }
      wait = std::max(wait, at_least);
      const time_point now = owner_->clock_.now();
      if (deadline_ && detail::plus(now, wait) >= *deadline_) return give_up(errc::deadline_exceeded, o.error);
      if (owner_->budget_ && !owner_->budget_->try_acquire()) return give_up(errc::budget_exhausted, o.error);
      last_ = o.error;
      owner_->events_.publish({owner_->name_, retry_event_type::retry, made_, wait, o.error, now});
      return wait;
    }

    /// Ends the call as it is, without asking whether to repeat it.
    void finish(const outcome& o) {
      if (owner_ == nullptr) return;
      if (o.ok()) {
        succeed();
      } else if (is_cancellation(o.error)) {
        owner_ = nullptr;
      } else {
        fail(o.error, retry_event_type::ignored_error);
      }
    }

    /// The attempt under way or made last, from 1; 0 before the first.
    [[nodiscard]] int made() const noexcept { return made_; }

    /// Why a call that may be repeated is not: attempts_exhausted, budget_exhausted, deadline_exceeded or cancelled.
    [[nodiscard]] std::optional<errc> stopped_by() const noexcept { return stopped_by_; }

   private:
    friend basic_retry;
    attempts(basic_retry& owner, std::optional<time_point> deadline) : owner_(&owner), deadline_(deadline) {}

    void succeed() {
      basic_retry& owner = *std::exchange(owner_, nullptr);
      if (made_ <= 1) {
        owner.successful_without_retry_.fetch_add(1, std::memory_order_relaxed);
        return;
      }
      owner.successful_with_retry_.fetch_add(1, std::memory_order_relaxed);
      owner.events_.publish({owner.name_, retry_event_type::success, made_, {}, last_, owner.clock_.now()});
    }

    std::nullopt_t give_up(errc why, std::error_code error) {
      stopped_by_ = why;
      fail(error ? error : make_error_code(why), retry_event_type::error);
      return std::nullopt;
    }

    void fail(std::error_code error, retry_event_type type) {
      basic_retry& owner = *std::exchange(owner_, nullptr);
      (made_ <= 1 ? owner.failed_without_retry_ : owner.failed_with_retry_).fetch_add(1, std::memory_order_relaxed);
      owner.events_.publish({owner.name_, type, made_, {}, error, owner.clock_.now()});
    }

    basic_retry* owner_;
    std::optional<time_point> deadline_;
    int made_ = 0;
    std::optional<errc> stopped_by_{};
    std::error_code last_{};
  };

  /// Starts a call: tells the budget of it. No attempt begins at or past `deadline`.
  [[nodiscard]] attempts start(std::optional<time_point> deadline = {}) {
    if (budget_) budget_->record_call();
    return attempts(*this, deadline);
  }

  template <class Next>
  auto run(detail::call_context& call, Next&& next) -> std::invoke_result_t<Next&, detail::call_context&> {
    using result = std::invoke_result_t<Next&, detail::call_context&>;
    attempts tries = start(call.deadline);
    detail::last_answer<result> last;
    while (tries.begin()) {
      outcome ended;
      try {
        if constexpr (std::is_void_v<result>) {
          next(call);
          tries.succeed();
          return;
        } else {
          result value = next(call);
          ended.error = detail::error_of(value);
          if (ended.ok()) {
            tries.succeed();
            return value;
          }
          keep_value(last, ended, value);
        }
      } catch (...) {
        ended = detail::current_outcome();
        keep_exception(last, ended);
      }
      const auto wait = tries.next(ended);
      if (!wait) break;
      detail::sleep_for(clock_, *wait);
    }
    return conclude(tries, last);
  }

  template <class Next>
  auto async_run(detail::call_context call, Next next) -> std::invoke_result_t<Next&, detail::call_context> {
    using traits = detail::async_traits<std::invoke_result_t<Next&, detail::call_context>>;
    using result = typename traits::value_type;
    attempts tries = start(call.deadline);
    detail::last_answer<result> last;
    while (tries.begin()) {
      outcome ended;
      try {
        if constexpr (std::is_void_v<result>) {
          co_await next(call);
          tries.succeed();
          co_return;
        } else {
          result value = co_await next(call);
          ended.error = detail::error_of(value);
          if (ended.ok()) {
            tries.succeed();
            co_return value;
          }
          keep_value(last, ended, value);
        }
      } catch (...) {
        ended = traits::current_outcome();
        keep_exception(last, ended);
      }
      const auto wait = tries.next(ended);
      if (!wait) break;
      co_await traits::sleep_for(*wait);
    }
    if constexpr (std::is_void_v<result>) {
      conclude(tries, last);
    } else {
      co_return conclude(tries, last);
    }
  }

  /// Changes the settings for decisions made from now on. Throws std::invalid_argument when `config` breaks a bound.
  void configure(const retry_config& config) {
    detail::checked(config);
    const std::lock_guard lock(mutex_);
    config_ = config;
  }

  [[nodiscard]] std::string_view name() const noexcept { return name_; }
  [[nodiscard]] retry_config config() const {
    const std::lock_guard lock(mutex_);
    return config_;
  }
  /// Null where none was given.
  [[nodiscard]] const shared_budget& budget() const noexcept { return budget_; }

  [[nodiscard]] retry_metrics metrics() const noexcept {
    return {successful_without_retry_.load(std::memory_order_relaxed),
            successful_with_retry_.load(std::memory_order_relaxed),
            failed_without_retry_.load(std::memory_order_relaxed), failed_with_retry_.load(std::memory_order_relaxed)};
  }

  class events_type {
   public:
    /// An attempt failed and will be repeated after `wait`.
    subscription on_retry(typename signal<retry_event>::consumer call) { return retried_.subscribe(std::move(call)); }
    /// The last 100 events of any kind, oldest first.
    [[nodiscard]] std::vector<retry_event> recent() const { return ring_.recent(); }

   private:
    friend basic_retry;
    void publish(const retry_event& e) noexcept {
      ring_.push(e);
      if (e.type == retry_event_type::retry) retried_.publish(e);
    }
    signal<retry_event> retried_;
    event_ring<retry_event> ring_;
  };
  [[nodiscard]] events_type& events() noexcept { return events_; }
  [[nodiscard]] const events_type& events() const noexcept { return events_; }

 private:
  // A refusal by one of our own policies says less than the real error before it; what was cancelled ends as such.
  template <class Last, class R>
  static void keep_value(Last& last, const outcome& ended, R& value) {
    if constexpr (detail::is_expected<R>::value || std::same_as<R, std::error_code>) {
      if (last.empty() || !is_rejection(ended.error)) last.keep(std::move(value));
    }
  }
  template <class Last>
  static void keep_exception(Last& last, const outcome& ended) {
    if (last.empty() || !is_rejection(ended.error)) last.keep_exception(ended.exception);
  }

  template <class R>
  R conclude(const attempts& tries, detail::last_answer<R>& last) const {
    if (last.empty()) return detail::refuse<R>({errc::deadline_exceeded, name_, {}});
    if (tries.stopped_by() == errc::attempts_exhausted && last.is_value() && config().fail_after_max_attempts) {
      return detail::refuse<R>({errc::attempts_exhausted, name_, {}});
    }
    return last.give();
  }

  const std::string name_;
  mutable std::mutex mutex_;
  retry_config config_;
  const interval_function interval_;
  const shared_budget budget_;
  events_type events_;
  std::atomic<std::int64_t> successful_without_retry_ = 0;
  std::atomic<std::int64_t> successful_with_retry_ = 0;
  std::atomic<std::int64_t> failed_without_retry_ = 0;
  std::atomic<std::int64_t> failed_with_retry_ = 0;
  [[no_unique_address]] Clock clock_;
};

using retry = basic_retry<>;

}  // namespace resilience
