#pragma once
/// Policies around one call, outermost first, in the order they are written.

#include <cstddef>
#include <memory>
#include <tuple>
#include <type_traits>
#include <utility>

#include <resilience/detail/run.hpp>
#include <resilience/this_call.hpp>

namespace resilience {

namespace detail {

/// What a pipeline keeps of an argument: a reference to a named policy, the policy itself where it was a temporary,
/// a share of a shared one.
template <class Argument>
struct kept {
  using type = Argument;
};
template <class Policy>
struct kept<std::shared_ptr<Policy>&> {
  using type = std::shared_ptr<Policy>;
};
template <class Policy>
struct kept<const std::shared_ptr<Policy>&> {
  using type = std::shared_ptr<Policy>;
};
template <class Policy>
struct kept<const std::shared_ptr<Policy>> {
  using type = std::shared_ptr<Policy>;
};

template <class Policy>
Policy& policy_of(Policy& policy) noexcept {
  return policy;
}
template <class Policy>
Policy& policy_of(std::shared_ptr<Policy>& policy) noexcept {
  return *policy;
}

}  // namespace detail

/// `pipeline{retry, breaker, bulkhead}` is retry( breaker( bulkhead( call ) ) ), and is a policy itself.
///
/// Named policies are referenced and must outlive it and the calls under way; temporaries (of a type that can be
/// moved) and shared_ptrs are held. Threads: as its policies. Cost: none of its own; blocking calls do not allocate.
template <class... Policies>
class pipeline {
 public:
  template <class... Arguments>
    requires(sizeof...(Arguments) == sizeof...(Policies) && (std::is_constructible_v<Policies, Arguments> && ...))
  explicit pipeline(Arguments&&... policies) : policies_(std::forward<Arguments>(policies)...) {}

  /// Calls `f()` under all policies and returns what it returns. A rejection is returned as a value where the result
  /// can carry one (`std::error_code`, or an expected whose error can be made from it), else `rejected` is thrown.
  template <class F>
  auto execute(F&& f) const -> std::invoke_result_t<F&> {
    detail::call_context call{.deadline = this_call::deadline()};
    return run(call, [&f](detail::call_context&) -> std::invoke_result_t<F&> { return f(); });
  }

  /// The same for a callable that returns an awaitable (asio.hpp); returns an awaitable of the same type. `f` is moved
  /// into it; what it refers to, and the pipeline, must live until the awaitable has ended.
  /// Cancellation: passed inwards to the call; what the policies hold for it is given back.
  template <class F>
  auto async_execute(F f) const -> std::invoke_result_t<F&> {
    return async_run(detail::call_context{}, [f = std::move(f)](detail::call_context) mutable { return f(); });
  }

  template <class Next>
  auto run(detail::call_context& call, Next&& next) const -> std::invoke_result_t<Next&, detail::call_context&> {
    return step<0>(call, next);
  }

  template <class Next>
  auto async_run(detail::call_context call, Next next) const -> std::invoke_result_t<Next&, detail::call_context> {
    if constexpr (sizeof...(Policies) == 0) {
      return detail::await_held(call, std::move(next));
    } else {
      return async_step<0>(call, std::make_shared<Next>(std::move(next)));
    }
  }

 private:
  template <std::size_t I, class Next>
  auto step(detail::call_context& call, Next& next) const -> std::invoke_result_t<Next&, detail::call_context&> {
    if constexpr (I == sizeof...(Policies)) {
      return next(call);
    } else {
      using result = std::invoke_result_t<Next&, detail::call_context&>;
      return detail::policy_of(std::get<I>(policies_)).run(call, [this, &next](detail::call_context& inner) -> result {
        return this->template step<I + 1>(inner, next);
      });
    }
  }

  /// Each layer has its share of `next`: an inner one may outlive the outer (a time limiter that does not cancel).
  template <std::size_t I, class Next>
  auto async_step(detail::call_context call, std::shared_ptr<Next> next) const
      -> std::invoke_result_t<Next&, detail::call_context> {
    if constexpr (I == sizeof...(Policies)) {
      return (*next)(call);
    } else {
      return detail::policy_of(std::get<I>(policies_))
          .async_run(call, [this, next = std::move(next)](detail::call_context inner) {
            return this->template async_step<I + 1>(inner, next);
          });
    }
  }

  mutable std::tuple<Policies...> policies_;
};

template <class... Arguments>
pipeline(Arguments&&...) -> pipeline<typename detail::kept<Arguments>::type...>;

}  // namespace resilience
