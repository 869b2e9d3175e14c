#pragma once
/// How policies nest. A policy implements two members, and inherits `execute` and `async_execute` from `policy_base`:
///
///     R run(call_context& call, Next&& next);                 // next(call) -> R
///     Awaitable async_run(call_context call, Next next);      // co_await next(call) -> R
///
/// `async_run` is a coroutine, so that its frame keeps `next` alive while what `next` returned is awaited.
/// `pipeline` folds them, outermost first. What a policy needs to know of the call travels in `call_context`, by
/// reference in blocking calls and by value through coroutines. Policy headers need no Asio: an awaitable's sleeping,
/// cancelling and exceptions come from `async_traits`, which asio.hpp specialises.

#include <optional>
#include <type_traits>
#include <utility>

#include <resilience/clock.hpp>
#include <resilience/outcome.hpp>
#include <resilience/this_call.hpp>

namespace resilience::detail {

/// What travels inwards with a call.
struct call_context {
  /// No attempt starts at or after it, and no sleep reaches it.
  std::optional<time_point> deadline{};

  void until(time_point t) noexcept {
    if (!deadline || t < *deadline) deadline = t;
  }
};

/// Specialised by asio.hpp for boost::asio::awaitable<T, Executor>, with
///   using value_type = T;
///   static awaitable<void> sleep_for(std::chrono::nanoseconds);      // on a timer of the awaiting executor
///   static awaitable<optional<T>> with_timeout(awaitable<T>, std::chrono::nanoseconds, bool cancel);
///   static awaitable<bool> suspend_until(start, cancel, std::chrono::nanoseconds timeout);
///   static std::error_code code_of_current_exception() noexcept;
///   static outcome current_outcome() noexcept;
/// where void counts as std::monostate in an optional.
template <class Awaitable>
struct async_traits;

template <class Awaitable>
using awaited_t = typename async_traits<Awaitable>::value_type;

template <class T>
concept awaitable_type = requires { typename async_traits<T>::value_type; };

/// Calls `next` while a permit is held and tells the permit what came of it. `settle(permit, outcome)` runs exactly
/// once, before the result or the exception goes on. No cost on the success path but the calls themselves.
template <class Permit, class Next, class Settle>
auto run_settled(Permit& permit, call_context& call, Next&& next, Settle settle)
    -> std::invoke_result_t<Next&, call_context&> {
  using result = std::invoke_result_t<Next&, call_context&>;
  try {
    if constexpr (std::is_void_v<result>) {
      next(call);
      settle(permit, outcome{});
    } else {
      result value = next(call);
      settle(permit, outcome{error_of(value), nullptr});
      return value;
    }
  } catch (...) {
    settle(permit, current_outcome());  // does nothing where a verdict was given already
    throw;
  }
}

/// Keeps `next` alive while what it returned is awaited.
template <class Next>
auto await_held(call_context call, Next next) -> std::invoke_result_t<Next&, call_context> {
  using result = awaited_t<std::invoke_result_t<Next&, call_context>>;
  if constexpr (std::is_void_v<result>) {
    co_await next(call);
  } else {
    result value = co_await next(call);
    co_return value;
  }
}

/// `execute` and `async_execute` for a policy that has `run` and `async_run`.
template <class Policy>
class policy_base {
 public:
  /// Calls `f()` under this policy and returns what it returns. A rejection is returned as a value where the result
  /// can carry one (`std::error_code`, or an expected whose error can be made from it), else `rejected` is thrown.
  template <class F>
  auto execute(F&& f) -> std::invoke_result_t<F&> {
    call_context call{.deadline = this_call::deadline()};
    return self().run(call, [&f](call_context&) -> std::invoke_result_t<F&> { return f(); });
  }

  /// The same for a callable that returns an awaitable; returns an awaitable of the same type. `f` is moved into it;
  /// what it refers to must live until the awaitable has ended.
  template <class F>
  auto async_execute(F f) -> std::invoke_result_t<F&> {
    return self().async_run(call_context{}, [f = std::move(f)](call_context) mutable { return f(); });
  }

 protected:
  policy_base() = default;

 private:
  Policy& self() noexcept { return static_cast<Policy&>(*this); }
};

}  // namespace resilience::detail
