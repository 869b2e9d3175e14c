#pragma once
/// What policies say of what they guard, as the JSON of Spring Boot's health endpoint with Resilience4j's details.

#include <chrono>
#include <map>
#include <string>
#include <string_view>
#include <utility>

#include <resilience/adaptive_rate_limiter.hpp>
#include <resilience/bulkhead.hpp>
#include <resilience/circuit_breaker.hpp>
#include <resilience/detail/json.hpp>
#include <resilience/rate_limiter.hpp>
#include <resilience/retry.hpp>

namespace resilience {

/// One component's health: a status word, and an object of details as JSON.
struct health {
  std::string status;
  std::string details;

  /// {"status":"UP","details":{...}}
  [[nodiscard]] std::string json() const {
    return detail::json_object{}.add("status", status).add_json("details", details).text();
  }
};

/// UP when closed, CIRCUIT_OPEN, CIRCUIT_HALF_OPEN; UNKNOWN in the states set by hand. Rates are text such as "50.0%",
/// "-1.0%" below `min_calls`.
template <class Clock>
health health_of(const basic_circuit_breaker<Clock>& breaker) {
  const breaker_state state = breaker.state();
  const breaker_metrics m = breaker.metrics();
  const circuit_breaker_config config = breaker.config();
  std::string_view status = "UNKNOWN";
  if (state == breaker_state::closed) status = "UP";
  if (state == breaker_state::open) status = "CIRCUIT_OPEN";
  if (state == breaker_state::half_open) status = "CIRCUIT_HALF_OPEN";
  return {std::string(status), detail::json_object{}
                                   .add("failureRate", detail::percent_text(m.failure_rate))
                                   .add("failureRateThreshold", detail::percent_text(config.failure_rate.value))
                                   .add("slowCallRate", detail::percent_text(m.slow_call_rate))
                                   .add("slowCallRateThreshold", detail::percent_text(config.slow_call_rate.value))
                                   .add("bufferedCalls", m.calls)
                                   .add("slowCalls", m.slow_calls)
                                   .add("slowFailedCalls", m.slow_failed_calls)
                                   .add("failedCalls", m.failed_calls)
                                   .add("notPermittedCalls", m.not_permitted_calls)
                                   .add("state", detail::upper(to_string(state)))
                                   .text()};
}

namespace detail {

/// RATE_LIMITED only where the next permission is farther away than a caller may wait.
inline health limiter_health(int available, int waiting, bool next_is_too_far) {
  std::string_view status = "UNKNOWN";
  if (available > 0 || waiting == 0) {
    status = "UP";
  } else if (next_is_too_far) {
    status = "RATE_LIMITED";
  }
  return {std::string(status),
          json_object{}.add("availablePermissions", available).add("numberOfWaitingThreads", waiting).text()};
}

}  // namespace detail

/// UP while there are permissions or nobody waits; else RATE_LIMITED when the next one is farther away than `max_wait`,
/// and UNKNOWN when it is not.
template <class Clock>
health health_of(const basic_rate_limiter<Clock>& limiter) {
  const rate_limiter_metrics m = limiter.metrics();
  const rate_limiter_config config = limiter.config();
  // Permissions owed, and the one asked for, at the limit's pace.
  const double needed = 1.0 - m.available_permissions;
  const double wait = needed * static_cast<double>(config.limit.period.count()) / config.limit.calls;
  return detail::limiter_health(m.available_permissions, m.waiting,
                                wait > static_cast<double>(config.max_wait.count()));
}

/// The same; who asks an adaptive limiter never waits.
template <class Clock>
health health_of(const basic_adaptive_rate_limiter<Clock>& limiter) {
  const rate_limiter_metrics m = limiter.metrics();
  return detail::limiter_health(m.available_permissions, m.waiting, false);
}

/// UP, or BULKHEAD_FULL while no place is free.
template <class Clock>
health health_of(const basic_bulkhead<Clock>& b) {
  const bulkhead_metrics m = b.metrics();
  return {m.available > 0 ? "UP" : "BULKHEAD_FULL", detail::json_object{}
                                                        .add("availableConcurrentCalls", m.available)
                                                        .add("maxAllowedConcurrentCalls", m.max_concurrent)
                                                        .add("numberOfWaitingThreads", m.waiting)
                                                        .text()};
}

/// Always UP: a retry has numbers, but no state.
template <class Clock>
health health_of(const basic_retry<Clock>& r) {
  const retry_metrics m = r.metrics();
  return {"UP", detail::json_object{}
                    .add("successfulCallsWithoutRetry", m.successful_without_retry)
                    .add("successfulCallsWithRetry", m.successful_with_retry)
                    .add("failedCallsWithoutRetry", m.failed_without_retry)
                    .add("failedCallsWithRetry", m.failed_with_retry)
                    .text()};
}

/// A whole answer of `/health`, gathered policy by policy:
///   {"status":"UP","components":{"circuitBreakers":{"status":"UP","details":{"payment":{"status":"CIRCUIT_OPEN",...
/// The program and its components are UP whatever the state of what they call: an orchestrator must not restart a
/// program because something behind it is down.
class health_report {
 public:
  template <class Clock>
  void add(const basic_circuit_breaker<Clock>& policy) {
    add("circuitBreakers", policy.name(), health_of(policy));
  }
  template <class Clock>
  void add(const basic_rate_limiter<Clock>& policy) {
    add("rateLimiters", policy.name(), health_of(policy));
  }
  template <class Clock>
  void add(const basic_adaptive_rate_limiter<Clock>& policy) {
    add("rateLimiters", policy.name(), health_of(policy));
  }
  template <class Clock>
  void add(const basic_bulkhead<Clock>& policy) {
    add("bulkheads", policy.name(), health_of(policy));
  }
  template <class Clock>
  void add(const basic_retry<Clock>& policy) {
    add("retries", policy.name(), health_of(policy));
  }
  /// Anything else: an upstream, a database, a pool.
  void add(std::string_view component, std::string_view name, health of) {
    components_[std::string(component)].insert_or_assign(std::string(name), std::move(of));
  }
  /// A component that is reported even when it has no entry.
  void add(std::string_view component) { components_[std::string(component)]; }

  /// Components and entries in the order of their names.
  [[nodiscard]] std::string json(std::string_view status = "UP") const {
    detail::json_object components;
    for (const auto& [component, entries] : components_) {
      detail::json_object details;
      for (const auto& [name, of] : entries) details.add_json(name, of.json());
      components.add_json(component, health{"UP", details.text()}.json());
    }
    return detail::json_object{}.add("status", status).add_json("components", components.text()).text();
  }

 private:
  std::map<std::string, std::map<std::string, health>> components_;
};

}  // namespace resilience
