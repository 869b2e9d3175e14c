#pragma once
/// Bounds how long a call may take.

#include <atomic>
#include <chrono>
#include <cstdint>
#include <exception>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <resilience/clock.hpp>
#include <resilience/detail/run.hpp>
#include <resilience/error.hpp>
#include <resilience/events.hpp>
#include <resilience/outcome.hpp>
#include <resilience/this_call.hpp>

namespace resilience {

struct time_limiter_config {
  /// More than zero.
  std::chrono::nanoseconds timeout = std::chrono::seconds{1};
  /// Whether an awaited operation is cancelled, and its end awaited, when the time is over. Else it goes on by itself,
  /// and must own what it uses. Blocking calls can't be cancelled.
  bool cancel = true;

  friend constexpr bool operator==(const time_limiter_config&, const time_limiter_config&) = default;
};
static_assert(std::is_trivially_copyable_v<time_limiter_config>);

/// Returns the first broken bound, or nothing when `c` can be used.
constexpr std::optional<config_error> check(const time_limiter_config& c) noexcept {
  if (c.timeout <= std::chrono::nanoseconds::zero()) return config_error{"timeout", "be more than 0", c.timeout};
  return std::nullopt;
}
static_assert(!check(time_limiter_config{}), "the defaults must be usable");

/// Calls that ended. Cancelled calls are in none of them.
struct time_limiter_metrics {
  std::int64_t successful = 0;
  std::int64_t failed = 0;
  /// Cut short, or a blocking call that came back late.
  std::int64_t timed_out = 0;
};

enum class time_limiter_event_type : std::uint8_t { success, error, timeout };

struct time_limiter_event {
  std::string_view policy;
  time_limiter_event_type type{};
  std::error_code error{};
  time_point at{};
};

/// Awaitables (asio.hpp): when the time is over the operation itself is cancelled, and the call comes to
/// errc::timed_out, as a value where the result can carry one. It was attempted, so this counts as a failure of the
/// target and may be retried. Cancellation: passed on to the operation.
///
/// Blocking calls: sets a deadline that the callee can read, `this_call::deadline()`, and that retries inside obey. A
/// call that returns late keeps its result.
/// Threads: any. Cost: blocking calls two looks at the clock and one atomic addition; no allocation.
template <clock_source Clock = std::chrono::steady_clock>
class basic_time_limiter : public detail::policy_base<basic_time_limiter<Clock>> {
 public:
  /// Throws std::invalid_argument when `config` breaks a bound.
  explicit basic_time_limiter(std::string name, time_limiter_config config = {}, Clock clock = {})
      : name_(std::move(name)),
        timeout_(detail::checked(config).timeout),
        cancel_(config.cancel),
        clock_(std::move(clock)) {}

  template <class Next>
  auto run(detail::call_context& call, Next&& next) -> std::invoke_result_t<Next&, detail::call_context&> {
    detail::call_context inner = call;
    const time_point due = detail::plus(clock_.now(), timeout_.load(std::memory_order_relaxed));
    inner.until(due);
    const this_call::deadline_scope scope(inner.deadline);
    return detail::run_settled(*this, inner, next, [due](basic_time_limiter& self, outcome o) {
      if (o.ok() && self.clock_.now() > due) o.error = make_error_code(errc::timed_out);
      self.record(o);
    });
  }

  template <class Next>
  auto async_run(detail::call_context call, Next next) -> std::invoke_result_t<Next&, detail::call_context> {
    using traits = detail::async_traits<std::invoke_result_t<Next&, detail::call_context>>;
    using result = typename traits::value_type;
    const std::chrono::nanoseconds timeout = timeout_.load(std::memory_order_relaxed);
    const bool cancel = cancel_.load(std::memory_order_relaxed);
    call.until(detail::plus(clock_.now(), timeout));
    try {
      auto value = co_await traits::with_timeout(detail::await_held(call, std::move(next)), timeout, cancel);
      if (value) {
        if constexpr (std::is_void_v<result>) {
          record({});
          co_return;
        } else {
          record({detail::error_of(*value), nullptr});
          co_return std::move(*value);
        }
      }
    } catch (...) {
      record(traits::current_outcome());
      throw;
    }
    record({make_error_code(errc::timed_out), nullptr});
    if constexpr (std::is_void_v<result>) {
      detail::refuse<result>({errc::timed_out, name_, {}});
    } else {
      co_return detail::refuse<result>({errc::timed_out, name_, {}});
    }
  }

  /// Counts a call whose time is kept elsewhere: errc::timed_out is a timeout, a cancellation is not counted.
  void record(const outcome& o) noexcept {
    if (o.ok()) {
      successful_.fetch_add(1, std::memory_order_relaxed);
    } else if (o.error == errc::timed_out) {
      timed_out_.fetch_add(1, std::memory_order_relaxed);
      events_.publish({name_, time_limiter_event_type::timeout, o.error, clock_.now()});
    } else if (!is_cancellation(o.error)) {
      failed_.fetch_add(1, std::memory_order_relaxed);
      events_.publish({name_, time_limiter_event_type::error, o.error, clock_.now()});
    }
  }

  /// Changes the settings for calls that start from now on. Throws std::invalid_argument when `config` breaks a bound.
  void configure(const time_limiter_config& config) {
    detail::checked(config);
    timeout_.store(config.timeout, std::memory_order_relaxed);
    cancel_.store(config.cancel, std::memory_order_relaxed);
  }

  [[nodiscard]] std::string_view name() const noexcept { return name_; }
  [[nodiscard]] time_limiter_config config() const noexcept {
    return {timeout_.load(std::memory_order_relaxed), cancel_.load(std::memory_order_relaxed)};
  }
  [[nodiscard]] time_limiter_metrics metrics() const noexcept {
    return {successful_.load(std::memory_order_relaxed), failed_.load(std::memory_order_relaxed),
            timed_out_.load(std::memory_order_relaxed)};
  }

  class events_type {
   public:
    subscription on_timeout(typename signal<time_limiter_event>::consumer call) {
      return timed_out_.subscribe(std::move(call));
    }
    /// The last 100 errors and timeouts, oldest first.
    [[nodiscard]] std::vector<time_limiter_event> recent() const { return ring_.recent(); }

   private:
    friend basic_time_limiter;
    void publish(const time_limiter_event& e) noexcept {
      ring_.push(e);
      if (e.type == time_limiter_event_type::timeout) timed_out_.publish(e);
    }
    signal<time_limiter_event> timed_out_;
    event_ring<time_limiter_event> ring_;
  };
  [[nodiscard]] events_type& events() noexcept { return events_; }
  [[nodiscard]] const events_type& events() const noexcept { return events_; }

 private:
  const std::string name_;
  std::atomic<std::chrono::nanoseconds> timeout_;
  std::atomic<bool> cancel_;
  std::atomic<std::int64_t> successful_ = 0;
  std::atomic<std::int64_t> failed_ = 0;
  std::atomic<std::int64_t> timed_out_ = 0;
  events_type events_;
  [[no_unique_address]] Clock clock_;
};

using time_limiter = basic_time_limiter<>;

}  // namespace resilience
