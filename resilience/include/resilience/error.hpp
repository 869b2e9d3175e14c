#pragma once
/// What a policy says when it does not let a call through, and what is wrong with a configuration.

#include <chrono>
#include <cstdio>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <variant>

namespace resilience {

/// What happened. circuit_open, rate_limited and bulkhead_full are our own rejections: nothing was sent.
enum class errc {
  circuit_open = 1,
  rate_limited,
  bulkhead_full,
  timed_out,
  attempts_exhausted,
  budget_exhausted,
  deadline_exceeded,
  cancelled
};

/// What the caller wants to know. not_attempted: nothing was sent, so repeating is safe.
enum class condition { not_attempted = 1 };

}  // namespace resilience

template <>
struct std::is_error_code_enum<resilience::errc> : std::true_type {};
template <>
struct std::is_error_condition_enum<resilience::condition> : std::true_type {};

namespace resilience {

/// The word that metrics, logs and configuration files use for a code: `circuit_open`.
constexpr std::string_view to_string(errc e) noexcept {
  switch (e) {
    case errc::circuit_open:
      return "circuit_open";
    case errc::rate_limited:
      return "rate_limited";
    case errc::bulkhead_full:
      return "bulkhead_full";
    case errc::timed_out:
      return "timed_out";
    case errc::attempts_exhausted:
      return "attempts_exhausted";
    case errc::budget_exhausted:
      return "budget_exhausted";
    case errc::deadline_exceeded:
      return "deadline_exceeded";
    case errc::cancelled:
      return "cancelled";
  }
  return "unknown";
}

namespace detail {

class category_type final : public std::error_category {
 public:
  const char* name() const noexcept override { return "resilience"; }
  std::string message(int value) const override {
    switch (static_cast<errc>(value)) {
      case errc::circuit_open:
        return "the circuit breaker is open";
      case errc::rate_limited:
        return "the rate limit is reached";
      case errc::bulkhead_full:
        return "the bulkhead is full";
      case errc::timed_out:
        return "the call timed out";
      case errc::attempts_exhausted:
        return "all attempts are used up";
      case errc::budget_exhausted:
        return "the retry budget is used up";
      case errc::deadline_exceeded:
        return "the deadline has passed";
      case errc::cancelled:
        return "the call was cancelled";
    }
    return "unknown error";
  }
  bool equivalent(int value, const std::error_condition& asked) const noexcept override;
};

class condition_category_type final : public std::error_category {
 public:
  const char* name() const noexcept override { return "resilience.condition"; }
  std::string message(int) const override { return "the call was not attempted"; }
};

}  // namespace detail

inline const std::error_category& category() noexcept {
  static const detail::category_type instance;
  return instance;
}
inline const std::error_category& condition_category() noexcept {
  static const detail::condition_category_type instance;
  return instance;
}

inline std::error_code make_error_code(errc e) noexcept { return {static_cast<int>(e), category()}; }
inline std::error_condition make_error_condition(condition c) noexcept {
  return {static_cast<int>(c), condition_category()};
}

/// Whether a policy of ours refused the call, so that nothing was sent.
inline bool is_rejection(const std::error_code& e) noexcept {
  return e.category() == category() && e.value() >= static_cast<int>(errc::circuit_open) &&
         e.value() <= static_cast<int>(errc::bulkhead_full);
}

/// Whether the caller gave the call up, which says nothing about the one called.
inline bool is_cancellation(const std::error_code& e) noexcept {
  return e == errc::cancelled || e == std::errc::operation_canceled;
}

inline bool detail::category_type::equivalent(int value, const std::error_condition& asked) const noexcept {
  if (asked == make_error_condition(condition::not_attempted)) return is_rejection({value, *this});
  return default_error_condition(value) == asked;
}

/// Why a permit was refused, by which policy, and when asking again may succeed.
struct rejection {
  errc reason{};
  /// Lives as long as the policy.
  std::string_view policy{};
  /// Zero when it cannot be known.
  std::chrono::nanoseconds retry_after{};

  operator std::error_code() const noexcept { return make_error_code(reason); }  // NOLINT: implicit by design
  friend bool operator==(const rejection&, const rejection&) = default;
};

/// A rejection where the callable's result has no room for one.
class rejected : public std::system_error {
 public:
  explicit rejected(const rejection& why)
      : std::system_error(make_error_code(why.reason), std::string(why.policy)), why_(why) {}
  [[nodiscard]] const rejection& why() const noexcept { return why_; }

 private:
  rejection why_;
};

/// The first broken bound of a configuration: `failure_rate` must `be more than 0 and at most 100`.
struct config_error {
  std::string_view field;
  std::string_view must;
  /// What was given instead, where a number or a duration says it.
  std::variant<std::monostate, double, std::chrono::nanoseconds> value{};

  /// "failure_rate must be more than 0 and at most 100, not 0".
  [[nodiscard]] std::string message() const {
    std::string text = std::string(field) + " must " + std::string(must);
    if (const auto* number = std::get_if<double>(&value)) {
      char digits[32];
      std::snprintf(digits, sizeof digits, "%g", *number);
      text += std::string(", not ") + digits;
    } else if (const auto* d = std::get_if<std::chrono::nanoseconds>(&value)) {
      text += ", not " + std::to_string(d->count()) + "ns";
    }
    return text;
  }
};

namespace detail {

/// What every constructor and setter does with a broken bound: a bug in the caller.
template <class Config>
const Config& checked(const Config& config) {
  if (const std::optional<config_error> broken = check(config)) throw std::invalid_argument(broken->message());
  return config;
}

}  // namespace detail
}  // namespace resilience
