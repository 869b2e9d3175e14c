#pragma once
/// An answer of one's own in place of a failure.

#include <atomic>
#include <cstdint>
#include <exception>
#include <functional>
#include <string>
#include <string_view>
#include <system_error>
#include <type_traits>
#include <utility>

#include <resilience/detail/run.hpp>
#include <resilience/error.hpp>
#include <resilience/outcome.hpp>

namespace resilience {

struct fallback_metrics {
  /// Calls answered by the function.
  std::int64_t used = 0;
};

namespace detail {

/// The rejection behind a failure that one of our own policies decided. From an error value only its reason is known.
inline rejection rejection_of(const outcome& o) {
  if (o.exception) {
    try {
      std::rethrow_exception(o.exception);
    } catch (const rejected& e) {
      return e.why();
    } catch (...) {
    }
  }
  return {static_cast<errc>(o.error.value()), {}, {}};
}

}  // namespace detail

/// `fallback{[](const rejection& why) { return cached(); }}`: calls the function when the call failed, and returns what
/// it returns. The function takes one of
///   `const rejection&`     only what our own policies decided (circuit_open, timed_out, …); other failures pass
///   `std::error_code`      any failure, by its code
///   `const outcome&`       any failure
///   `std::exception_ptr`   any failure; an error that was returned comes as a `std::system_error`
///   nothing                any failure
/// Its result converts to the call's; for an awaitable call it may be awaitable itself. What it throws goes on. A
/// cancelled call passes: nobody waits for an answer.
/// Threads: any, where the function may be called by any. Cost: none while calls succeed.
template <class Function>
class fallback : public detail::policy_base<fallback<Function>> {
  static constexpr bool by_outcome = std::is_invocable_v<Function&, const outcome&>;
  static constexpr bool by_code = !by_outcome && std::is_invocable_v<Function&, const std::error_code&>;
  static constexpr bool by_rejection = !by_outcome && !by_code && std::is_invocable_v<Function&, const rejection&>;
  static constexpr bool by_exception =
      !by_outcome && !by_code && !by_rejection && std::is_invocable_v<Function&, const std::exception_ptr&>;
  static_assert(by_outcome || by_code || by_rejection || by_exception || std::is_invocable_v<Function&>,
                "a fallback takes a rejection, a std::error_code, an outcome, a std::exception_ptr, or nothing");

 public:
  explicit fallback(Function function) : fallback("fallback", std::move(function)) {}
  fallback(std::string name, Function function) : name_(std::move(name)), function_(std::move(function)) {}
  fallback(fallback&& other) noexcept
      : name_(std::move(other.name_)), function_(std::move(other.function_)), used_(other.used_.load()) {}

  template <class Next>
  auto run(detail::call_context& call, Next&& next) -> std::invoke_result_t<Next&, detail::call_context&> {
    using result = std::invoke_result_t<Next&, detail::call_context&>;
    outcome ended;
    try {
      if constexpr (std::is_void_v<result>) {
        next(call);
        return;
      } else {
        result value = next(call);
        ended.error = detail::error_of(value);
        if (!handles(ended)) return value;
      }
    } catch (...) {
      ended = detail::current_outcome();
      if (!handles(ended)) throw;
    }
    const auto given = argument(ended);
    return static_cast<result>(answer(given));
  }

  template <class Next>
  auto async_run(detail::call_context call, Next next) -> std::invoke_result_t<Next&, detail::call_context> {
    using traits = detail::async_traits<std::invoke_result_t<Next&, detail::call_context>>;
    using result = typename traits::value_type;
    outcome ended;
    try {
      if constexpr (std::is_void_v<result>) {
        co_await next(call);
        co_return;
      } else {
        result value = co_await next(call);
        ended.error = detail::error_of(value);
        if (!handles(ended)) co_return value;
      }
    } catch (...) {
      ended = traits::current_outcome();
      if (!handles(ended)) throw;
    }
    const auto given = argument(ended);
    using answer_type = decltype(answer(given));
    if constexpr (detail::awaitable_type<answer_type>) {
      if constexpr (std::is_void_v<result>) {
        co_await answer(given);
      } else {
        auto value = co_await answer(given);
        co_return static_cast<result>(std::move(value));
      }
    } else if constexpr (std::is_void_v<result>) {
      answer(given);
    } else {
      co_return static_cast<result>(answer(given));
    }
  }

  [[nodiscard]] std::string_view name() const noexcept { return name_; }
  [[nodiscard]] fallback_metrics metrics() const noexcept { return {used_.load(std::memory_order_relaxed)}; }

 private:
  static bool handles(const outcome& o) noexcept {
    if (o.ok() || is_cancellation(o.error)) return false;
    return !by_rejection || o.error.category() == category();
  }

  /// What the function is given. Kept until its answer is there: an awaited answer may refer to it.
  static auto argument(const outcome& o) {
    if constexpr (by_code) {
      return o.error;
    } else if constexpr (by_rejection) {
      return detail::rejection_of(o);
    } else if constexpr (by_exception) {
      return o.exception ? o.exception : std::make_exception_ptr(std::system_error(o.error));
    } else {
      return o;
    }
  }

  template <class Argument>
  decltype(auto) answer(const Argument& given) {
    used_.fetch_add(1, std::memory_order_relaxed);
    if constexpr (by_outcome || by_code || by_rejection || by_exception) {
      return std::invoke(function_, given);
    } else {
      return std::invoke(function_);
    }
  }

  std::string name_;
  Function function_;
  std::atomic<std::int64_t> used_ = 0;
};

template <class Function>
fallback(Function) -> fallback<Function>;
template <class Function>
fallback(std::string, Function) -> fallback<Function>;
template <class Function>
fallback(const char*, Function) -> fallback<Function>;

}  // namespace resilience
