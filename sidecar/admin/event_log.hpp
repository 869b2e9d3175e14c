#pragma once
/// The last events of every instance in the words and fields of Resilience4j's event endpoints.

#include <boost/json.hpp>
#include <chrono>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "sidecar/proxy/runtime.hpp"

namespace sidecar {

/// Hears what a breaker does; the breaker's own ring does not hold its calls.
class breaker_log {
 public:
  explicit breaker_log(std::shared_ptr<resilience::circuit_breaker> breaker);

  struct entry {
    enum class kind_type : std::uint8_t {
      success,
      error,
      ignored_error,
      not_permitted,
      state_transition,
      reset,
      failure_rate_exceeded,
      slow_call_rate_exceeded
    } kind;
    resilience::breaker_state from{}, to{};
    std::chrono::nanoseconds took{};
    std::error_code error{};
    resilience::time_point at{};
  };

  [[nodiscard]] std::vector<entry> recent() const { return ring_->recent(); }
  [[nodiscard]] const std::shared_ptr<resilience::circuit_breaker>& breaker() const noexcept { return breaker_; }

 private:
  std::shared_ptr<resilience::circuit_breaker> breaker_;
  std::unique_ptr<resilience::event_ring<entry>> ring_;
  std::vector<resilience::subscription> heard_;
};

/// The events of all instances. Threads: any.
class event_log {
 public:
  /// Hears the breakers that are new and forgets those that are gone.
  void follow(const policies& all);

  /// One kind's events as the array of the endpoint: oldest first, of one instance and type where they are given.
  /// `types` and the fields are those of Resilience4j.
  struct query {
    std::optional<std::string_view> name{};
    std::optional<std::string_view> type{};
  };
  [[nodiscard]] boost::json::array circuit_breaker(const query& q) const;
  [[nodiscard]] static boost::json::array rate_limiter(const policies& all, const query& q);
  [[nodiscard]] static boost::json::array bulkhead(const policies& all, const query& q);
  [[nodiscard]] static boost::json::array retry(const policies& all, const query& q);

  static constexpr std::string_view breaker_types[] = {
      "SUCCESS",          "ERROR", "IGNORED_ERROR",         "NOT_PERMITTED",
      "STATE_TRANSITION", "RESET", "FAILURE_RATE_EXCEEDED", "SLOW_CALL_RATE_EXCEEDED"};
  static constexpr std::string_view limiter_types[] = {"SUCCESSFUL_ACQUIRE", "FAILED_ACQUIRE"};
  static constexpr std::string_view bulkhead_types[] = {"CALL_PERMITTED", "CALL_REJECTED", "CALL_FINISHED"};
  static constexpr std::string_view retry_types[] = {"RETRY", "SUCCESS", "ERROR", "IGNORED_ERROR"};
  static constexpr std::string_view time_limiter_types[] = {"SUCCESS", "ERROR", "TIMEOUT"};

 private:
  mutable std::mutex mutex_;
  std::map<std::string, breaker_log> breakers_;
};

}  // namespace sidecar
