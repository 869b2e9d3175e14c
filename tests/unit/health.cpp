#include <resilience/health.hpp>

#include <catch2/catch.hpp>
#include <resilience/testing.hpp>

using namespace resilience;
using namespace std::chrono_literals;

namespace {
void fail(auto& breaker, int times) {
  for (int n = 0; n < times; ++n) (void)breaker.execute([] { return std::make_error_code(std::errc::timed_out); });
}
}  // namespace

TEST_CASE("a breaker's health follows its state, with rates as text", "[health]") {
  manual_clock clock;
  basic_circuit_breaker breaker{
      "stock", {.failure_rate = percent{50}, .window = calls{4}, .min_calls = 4, .open_for = 5s}, clock};
  CHECK(health_of(breaker).status == "UP");
  CHECK(health_of(breaker).details ==
        R"({"failureRate":"-1.0%","failureRateThreshold":"50.0%","slowCallRate":"-1.0%",)"
        R"("slowCallRateThreshold":"100.0%","bufferedCalls":0,"slowCalls":0,"slowFailedCalls":0,"failedCalls":0,)"
        R"("notPermittedCalls":0,"state":"CLOSED"})");

  (void)breaker.execute([] { return std::error_code{}; });
  fail(breaker, 3);
  CHECK_FALSE(breaker.try_acquire().has_value());
  const health open = health_of(breaker);
  CHECK(open.status == "CIRCUIT_OPEN");
  CHECK(open.json() == R"({"status":"CIRCUIT_OPEN","details":{"failureRate":"75.0%","failureRateThreshold":"50.0%",)"
                       R"("slowCallRate":"0.0%","slowCallRateThreshold":"100.0%","bufferedCalls":4,"slowCalls":0,)"
                       R"("slowFailedCalls":0,"failedCalls":3,"notPermittedCalls":1,"state":"OPEN"}})");

  clock.advance(5s);
  CHECK(health_of(breaker).status == "CIRCUIT_OPEN");  // nobody has called since
  auto probe = breaker.try_acquire();
  REQUIRE(probe.has_value());
  CHECK(health_of(breaker).status == "CIRCUIT_HALF_OPEN");
  for (const auto by_hand : {breaker_state::disabled, breaker_state::forced_open, breaker_state::metrics_only}) {
    breaker.transition_to(by_hand);
    CHECK(health_of(breaker).status == "UNKNOWN");
  }
  CHECK(health_of(breaker).details.contains(R"("state":"METRICS_ONLY")"));
}

TEST_CASE("a limiter is limited only while someone waits longer than allowed", "[health]") {
  manual_clock clock;
  basic_rate_limiter limiter{"stock", {.limit = {1, 1s}, .burst = 1, .max_wait = 3s}, clock};
  CHECK(health_of(limiter).json() ==
        R"({"status":"UP","details":{"availablePermissions":1,"numberOfWaitingThreads":0}})");
  for (int n = 0; n < 3; ++n) CHECK(limiter.reserve().has_value());
  CHECK(health_of(limiter).json() ==
        R"({"status":"UP","details":{"availablePermissions":-2,"numberOfWaitingThreads":0}})");

  CHECK(detail::limiter_health(0, 1, false).status == "UNKNOWN");
  CHECK(detail::limiter_health(0, 1, true).status == "RATE_LIMITED");
  CHECK(detail::limiter_health(1, 1, true).status == "UP");
}

TEST_CASE("a bulkhead is full while no place is free", "[health]") {
  bulkhead places{"stock", {.max_concurrent = 1}};
  CHECK(health_of(places).status == "UP");
  const auto held = places.try_acquire();
  REQUIRE(held.has_value());
  CHECK(health_of(places).json() ==
        R"({"status":"BULKHEAD_FULL","details":{"availableConcurrentCalls":0,"maxAllowedConcurrentCalls":1,)"
        R"("numberOfWaitingThreads":0}})");
}

TEST_CASE("a retry reports its numbers", "[health]") {
  retry again{"stock", {.max_attempts = 1}};
  CHECK(again.execute([] { return 7; }) == 7);
  CHECK(health_of(again).json() ==
        R"({"status":"UP","details":{"successfulCallsWithoutRetry":1,"successfulCallsWithRetry":0,)"
        R"("failedCallsWithoutRetry":0,"failedCallsWithRetry":0}})");
}

TEST_CASE("a report is UP whatever its components say, in the order of names", "[health]") {
  circuit_breaker b{"b"}, a{"a"};
  a.transition_to(breaker_state::open);
  health_report report;
  report.add("upstreams");
  report.add(b);
  report.add(a);
  report.add("upstreams", "app \"1\"\n", {"DOWN", "{}"});
  const std::string json = report.json();
  CHECK(json.starts_with(
      R"({"status":"UP","components":{"circuitBreakers":{"status":"UP","details":{"a":{"status":"CIRCUIT_OPEN",)"));
  CHECK(json.ends_with(R"("upstreams":{"status":"UP","details":{"app \"1\"\n":{"status":"DOWN","details":{}}}}}})"));
  CHECK(json.find(R"("a":{)") < json.find(R"("b":{"status":"UP")"));
  CHECK(health_report{}.json("OUT_OF_SERVICE") == R"({"status":"OUT_OF_SERVICE","components":{}})");
}
