#pragma once
/// What a call came to, and what that says about the one called.

#include <concepts>
#include <cstdint>
#include <exception>
#include <expected>
#include <system_error>
#include <type_traits>
#include <utility>

#include <resilience/error.hpp>

namespace resilience {

/// What a finished call says about the one called. ignore: nothing, as if it had not been made.
enum class verdict : std::uint8_t { success, failure, ignore };

/// A finished call: neither an error nor an exception is a success.
struct outcome {
  std::error_code error{};
  std::exception_ptr exception{};

  [[nodiscard]] bool ok() const noexcept { return !error && !exception; }
};

/// The default classifier: an error or exception is a failure; our own rejections and cancellations say nothing.
inline verdict classify(const outcome& o) noexcept {
  if (o.ok()) return verdict::success;
  return is_rejection(o.error) || is_cancellation(o.error) ? verdict::ignore : verdict::failure;
}

namespace detail {

template <class T>
struct is_expected : std::false_type {};
template <class T, class E>
struct is_expected<std::expected<T, E>> : std::true_type {};

/// Whether a result of type R can carry a rejection as a value: `std::error_code`, or an expected whose error can
/// be made from one.
template <class R>
inline constexpr bool carries_errors = std::same_as<R, std::error_code>;
template <class T, class E>
inline constexpr bool carries_errors<std::expected<T, E>> = std::constructible_from<E, std::error_code>;

/// The rejection as an R, or thrown as `rejected` where R has no room for it.
template <class R>
R refuse(const rejection& why) {
  if constexpr (std::same_as<R, std::error_code>) {
    return make_error_code(why.reason);
  } else if constexpr (carries_errors<R>) {
    return R{std::unexpect, make_error_code(why.reason)};
  } else {
    throw rejected(why);
  }
}

/// An error of unknown kind, for results whose error type has no code.
inline std::error_code unknown_error() noexcept { return std::make_error_code(std::errc::io_error); }

template <class E>
std::error_code code_of(const E& error) {
  if constexpr (std::convertible_to<const E&, std::error_code>) {
    const std::error_code code = error;
    return code ? code : unknown_error();
  } else if constexpr (requires {
                         { error.code() } -> std::convertible_to<std::error_code>;
                       }) {
    const std::error_code code = error.code();
    return code ? code : unknown_error();
  } else {
    return unknown_error();
  }
}

/// The error that a result carries; none for a success.
template <class R>
std::error_code error_of(const R& result) {
  if constexpr (std::same_as<R, std::error_code>) {
    return result;
  } else if constexpr (is_expected<R>::value) {
    return result.has_value() ? std::error_code{} : code_of(result.error());
  } else {
    return {};
  }
}

/// The code of the exception in flight. Call inside a handler.
/// `rejected` and `std::system_error` have one; so has anything derived from std::exception with a `code()` that
/// asio.hpp knows of (see async_traits).
inline std::error_code code_of_current_exception() noexcept {
  try {
    throw;
  } catch (const std::system_error& e) {
    return e.code() ? e.code() : unknown_error();
  } catch (...) {
    return unknown_error();
  }
}

/// The outcome of an exception in flight. Call inside a handler.
inline outcome current_outcome() noexcept { return {code_of_current_exception(), std::current_exception()}; }

}  // namespace detail
}  // namespace resilience
