#pragma once
/// How policies sleep, time out, wait and cancel inside `boost::asio::awaitable`.
///
/// Threads: as Asio asks of anything that is cancelled, a coroutine that runs on several threads does so through a
/// strand; a coroutine of the default executor, `any_io_executor`, gets one for each timed operation by itself.
/// Cancellation: what is awaited here forwards the types it receives, gives back what it holds, and then throws
/// `boost::asio::error::operation_aborted`.

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/associated_cancellation_slot.hpp>
#include <boost/asio/async_result.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/basic_waitable_timer.hpp>
#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/cancellation_signal.hpp>
#include <boost/asio/cancellation_state.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/dispatch.hpp>
#include <boost/asio/error.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/strand.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/system/system_error.hpp>
#include <chrono>
#include <concepts>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <system_error>
#include <type_traits>
#include <utility>
#include <variant>

#include <resilience/detail/run.hpp>

namespace resilience::detail::on_asio {

namespace net = boost::asio;

template <class Executor>
using timer =
    net::basic_waitable_timer<std::chrono::steady_clock, net::wait_traits<std::chrono::steady_clock>, Executor>;

/// now + d, for any d.
inline std::chrono::steady_clock::time_point from_now(std::chrono::nanoseconds d) noexcept {
  return plus(std::chrono::steady_clock::now(), d);
}

[[noreturn]] inline void throw_aborted() {
  throw boost::system::system_error(boost::system::error_code(net::error::operation_aborted));
}

template <class T>
using stored = std::conditional_t<std::is_void_v<T>, std::monostate, T>;

/// An operation and the timer that may cut it short. Everything but the construction happens in `executor`.
template <class T, class Executor>
struct race {
  explicit race(const Executor& ex) : executor(ex), limit(ex) {}

  Executor executor;
  timer<Executor> limit;
  net::cancellation_signal stop;
  std::optional<stored<T>> value{};
  std::exception_ptr error{};
  bool expired = false;
  bool ended = false;
};

/// Resumes the coroutine that waits for a race, once. Shared by the two that race and by nobody else, so that it goes
/// when the context is destroyed under them.
template <class Handler>
struct resumption {
  explicit resumption(Handler h) : handler(std::move(h)) {}
  void operator()() {
    if (!handler) return;
    Handler taken = std::move(*handler);
    handler.reset();
    net::post(std::move(taken));  // never inline: a loop of quick calls must not grow the stack
  }
  std::optional<Handler> handler;
};

/// Runs the operation in a cancellation state that lets everything through which the outer one lets through.
template <class T, class Executor>
net::awaitable<void, Executor> run_into(std::shared_ptr<race<T, Executor>> to, net::awaitable<T, Executor> operation) {
  co_await net::this_coro::reset_cancellation_state(net::enable_total_cancellation());
  if constexpr (std::is_void_v<T>) {
    co_await std::move(operation);
    to->value.emplace();
  } else {
    T value = co_await std::move(operation);
    to->value.emplace(std::move(value));
  }
}

/// Starts both; the coroutine resumes when the operation has ended or, without `cancel`, at the timeout.
template <class T, class Executor>
struct start_race {
  std::shared_ptr<race<T, Executor>> between;
  std::chrono::nanoseconds timeout;
  bool cancel;

  template <class Handler>
  void operator()(Handler handler, net::awaitable<T, Executor> operation) const {
    auto slot = net::get_associated_cancellation_slot(handler);
    if (slot.is_connected()) {
      slot.assign([weak = std::weak_ptr(between)](net::cancellation_type type) {
        const auto running = weak.lock();
        if (!running) return;
        net::dispatch(running->executor, [running, type] { running->stop.emit(type); });
      });
    }
    auto resume = std::make_shared<resumption<Handler>>(std::move(handler));
    net::dispatch(between->executor,
                  [both = between, d = timeout, stops = cancel, resume, op = std::move(operation)]() mutable {
                    begin(both, d, stops, resume, std::move(op));
                  });
  }

  template <class Resume>
  static void begin(std::shared_ptr<race<T, Executor>> both, std::chrono::nanoseconds d, bool stops,
                    std::shared_ptr<Resume> resume, net::awaitable<T, Executor> operation) {
    both->limit.expires_at(from_now(d));
    both->limit.async_wait([both, stops, resume](const boost::system::error_code& e) {
      if (e || both->ended) return;
      both->expired = true;
      if (stops) {
        both->stop.emit(net::cancellation_type::terminal);
      } else {
        (*resume)();
      }
    });
    auto end = [both, resume](std::exception_ptr e) {
      both->ended = true;
      both->error = std::move(e);
      both->limit.cancel();
      (*resume)();
    };
    net::co_spawn(both->executor, run_into(both, std::move(operation)),
                  net::bind_cancellation_slot(both->stop.slot(), std::move(end)));
  }
};

template <class T, class Executor>
net::awaitable<void, Executor> finish_race(std::shared_ptr<race<T, Executor>> between, std::chrono::nanoseconds timeout,
                                           bool cancel, net::awaitable<T, Executor> operation) {
  net::use_awaitable_t<Executor> token;
  return net::async_initiate<net::use_awaitable_t<Executor>, void()>(
      start_race<T, Executor>{std::move(between), timeout, cancel}, token, std::move(operation));
}

/// A coroutine that waits to be woken from any thread. The timer is touched under the lock only, and goes with the
/// coroutine, so that a late `wake` finds nothing to touch.
template <class Executor>
class sleeper {
 public:
  sleeper(const Executor& ex, std::chrono::nanoseconds timeout) {
    timer_.emplace(ex);
    timer_->expires_at(from_now(timeout));
  }

  void wake() {
    const std::lock_guard lock(mutex_);
    woken_ = true;
    if (timer_) timer_->cancel();
  }

  bool woken() {
    const std::lock_guard lock(mutex_);
    return woken_;
  }

  void close() {
    const std::lock_guard lock(mutex_);
    timer_.reset();
  }

  template <class Handler>
  void wait(Handler handler) {
    const std::lock_guard lock(mutex_);
    if (woken_) timer_->expires_at(std::chrono::steady_clock::time_point::min());
    timer_->async_wait(std::move(handler));
  }

 private:
  std::mutex mutex_;
  std::optional<timer<Executor>> timer_;
  bool woken_ = false;
};

/// Ends with an error when woken or cancelled, without one at the timeout.
template <class Executor>
net::awaitable<void, Executor> wait_for(std::shared_ptr<sleeper<Executor>> who, boost::system::error_code& why) {
  using token_type = net::redirect_error_t<net::use_awaitable_t<Executor>>;
  token_type token(net::use_awaitable_t<Executor>{}, why);
  return net::async_initiate<token_type, void(boost::system::error_code)>(
      [who = std::move(who)](auto handler) { who->wait(std::move(handler)); }, token);
}

/// Withdraws what was registered, unless told that it is settled; also when the coroutine is destroyed unfinished.
template <class Executor, class Cancel>
class withdrawal {
 public:
  withdrawal(std::shared_ptr<sleeper<Executor>> who, Cancel& cancel) : who_(std::move(who)), cancel_(cancel) {}
  withdrawal(const withdrawal&) = delete;
  withdrawal& operator=(const withdrawal&) = delete;
  ~withdrawal() {
    if (armed_) cancel_();
    who_->close();
  }
  void arm() noexcept { armed_ = true; }
  void disarm() noexcept { armed_ = false; }

 private:
  std::shared_ptr<sleeper<Executor>> who_;
  Cancel& cancel_;
  bool armed_ = false;
};

}  // namespace resilience::detail::on_asio

namespace resilience::detail {

template <class T, class Executor>
struct async_traits<boost::asio::awaitable<T, Executor>> {
  using value_type = T;
  template <class U>
  using awaitable = boost::asio::awaitable<U, Executor>;

  /// Waits on a timer of the awaiting executor; `d` ≤ 0 does not suspend.
  /// Cancellation: terminal, partial and total.
  static awaitable<void> sleep_for(std::chrono::nanoseconds d) {
    if (d <= std::chrono::nanoseconds::zero()) co_return;
    const Executor executor = co_await boost::asio::this_coro::executor;
    on_asio::timer<Executor> timer(executor);
    timer.expires_at(on_asio::from_now(d));
    const boost::asio::use_awaitable_t<Executor> token;
    co_await timer.async_wait(token);
  }

  /// Awaits `operation` for at most `timeout`; returns its value, or nothing when it timed out.
  ///
  /// With `cancel`, a timeout cancels the operation (terminal), waits until it has ended, and drops what it came to.
  /// Without, it returns at once; the operation goes on by itself, so it must own all it uses.
  /// Cancellation: passed on to the operation, whose end is awaited.
  static awaitable<std::optional<on_asio::stored<T>>> with_timeout(boost::asio::awaitable<T, Executor> operation,
                                                                   std::chrono::nanoseconds timeout, bool cancel) {
    namespace net = boost::asio;
    Executor executor = co_await net::this_coro::executor;
    if constexpr (std::same_as<Executor, net::any_io_executor>) executor = net::make_strand(executor);
    auto between = std::make_shared<on_asio::race<T, Executor>>(executor);
    co_await on_asio::finish_race(between, timeout, cancel, std::move(operation));
    net::cancellation_state state = co_await net::this_coro::cancellation_state;
    state.slot().clear();
    if (between->expired) {
      if (state.cancelled() != net::cancellation_type::none) on_asio::throw_aborted();
      co_return std::nullopt;
    }
    if (between->error) std::rethrow_exception(between->error);
    co_return std::move(between->value);
  }

  /// Suspends until something is granted, or for `timeout`.
  ///
  /// `start(std::function<void()> wake) -> bool` registers and returns false when it was granted at once; `wake` may be
  /// called once from any thread, also inside `start`, and later than it matters. `cancel() -> bool` withdraws and
  /// must not throw: true when withdrawn, false when it had been granted already.
  /// Returns true when granted, false when timed out and withdrawn.
  /// Cancellation: terminal, partial and total; withdraws first, and leaves a grant that came before to the caller,
  /// who sees the exception. A coroutine that is destroyed while it waits withdraws too.
  template <class Start, class Cancel>
  static awaitable<bool> suspend_until(Start start, Cancel cancel, std::chrono::nanoseconds timeout) {
    namespace net = boost::asio;
    const Executor executor = co_await net::this_coro::executor;
    auto who = std::make_shared<on_asio::sleeper<Executor>>(executor, timeout);
    on_asio::withdrawal<Executor, Cancel> registered(who, cancel);
    std::function<void()> wake = [who] { who->wake(); };
    const bool waiting = start(std::move(wake));
    if (!waiting) co_return true;
    registered.arm();
    boost::system::error_code why;
    co_await on_asio::wait_for(who, why);
    const net::cancellation_state state = co_await net::this_coro::cancellation_state;
    if (state.cancelled() != net::cancellation_type::none) on_asio::throw_aborted();
    registered.disarm();
    if (who->woken()) co_return true;
    co_return !cancel();
  }

  /// The code of the exception in flight; Asio's operation_aborted is `std::errc::operation_canceled`.
  static std::error_code code_of_current_exception() noexcept {
    try {
      throw;
    } catch (const boost::system::system_error& e) {
      if (e.code() == boost::asio::error::operation_aborted) return std::make_error_code(std::errc::operation_canceled);
      return code_of(e.code());
    } catch (...) {
      return detail::code_of_current_exception();
    }
  }

  /// The outcome of the exception in flight.
  static outcome current_outcome() noexcept { return {code_of_current_exception(), std::current_exception()}; }
};

}  // namespace resilience::detail
