#include <resilience/prometheus.hpp>

#include <prometheus/text_serializer.h>
#include <catch2/catch.hpp>
#include <resilience/testing.hpp>

using namespace resilience;
using namespace std::chrono_literals;

namespace {

std::string text(const prometheus_exporter& exporter) {
  return prometheus::TextSerializer().Serialize(exporter.Collect());
}

bool has(const std::string& page, const std::string& line) { return page.contains(line + '\n'); }

const std::error_code refused = std::make_error_code(std::errc::connection_refused);

}  // namespace

TEST_CASE("a breaker is exported in Resilience4j's names and labels", "[prometheus]") {
  manual_clock clock;
  auto breaker = std::make_shared<basic_circuit_breaker<manual_clock>>(
      "stock", circuit_breaker_config{.slow_call = 1s, .window = calls{4}, .min_calls = 4}, clock);
  prometheus_exporter exporter;
  exporter.add(breaker);
  std::string page = text(exporter);
  CHECK(has(page, R"(resilience4j_circuitbreaker_failure_rate{name="stock"} -1)"));
  CHECK(has(page, "# TYPE resilience4j_circuitbreaker_state gauge"));
  CHECK(has(page, "# TYPE resilience4j_circuitbreaker_calls_seconds summary"));
  CHECK(has(page, "# TYPE resilience4j_circuitbreaker_not_permitted_calls_total counter"));

  const auto call = [&](std::chrono::nanoseconds took, std::error_code result) {
    (void)breaker->execute([&] {
      clock.advance(took);
      return result;
    });
  };
  call(500ms, {});
  call(1500ms, {});
  call(2s, refused);
  auto ignored = breaker->try_acquire();
  REQUIRE(ignored.has_value());
  ignored->ignore();
  call(250ms, refused);  // half of four have failed: open
  CHECK_FALSE(breaker->try_acquire().has_value());

  page = text(exporter);
  CHECK(has(page, R"(resilience4j_circuitbreaker_calls_seconds_count{kind="successful",name="stock"} 2)"));
  CHECK(has(page, R"(resilience4j_circuitbreaker_calls_seconds_sum{kind="successful",name="stock"} 2)"));
  CHECK(has(page, R"(resilience4j_circuitbreaker_calls_seconds_max{kind="successful",name="stock"} 1.5)"));
  CHECK(has(page, R"(resilience4j_circuitbreaker_calls_seconds_count{kind="failed",name="stock"} 2)"));
  CHECK(has(page, R"(resilience4j_circuitbreaker_calls_seconds_sum{kind="failed",name="stock"} 2.25)"));
  CHECK(has(page, R"(resilience4j_circuitbreaker_calls_seconds_count{kind="ignored",name="stock"} 1)"));
  CHECK(has(page, R"(resilience4j_circuitbreaker_not_permitted_calls_total{kind="not_permitted",name="stock"} 1)"));
  CHECK(has(page, R"(resilience4j_circuitbreaker_buffered_calls{kind="failed",name="stock"} 2)"));
  CHECK(has(page, R"(resilience4j_circuitbreaker_buffered_calls{kind="successful",name="stock"} 2)"));
  CHECK(has(page, R"(resilience4j_circuitbreaker_slow_calls{kind="failed",name="stock"} 1)"));
  CHECK(has(page, R"(resilience4j_circuitbreaker_slow_calls{kind="successful",name="stock"} 1)"));
  CHECK(has(page, R"(resilience4j_circuitbreaker_failure_rate{name="stock"} 50)"));
  CHECK(has(page, R"(resilience4j_circuitbreaker_slow_call_rate{name="stock"} 50)"));
  CHECK(has(page, R"(resilience_rejections_total{name="stock",reason="circuit_open"} 1)"));
  CHECK(has(page, R"(resilience4j_circuitbreaker_state{name="stock",state="open"} 1)"));
  for (const std::string other : {"closed", "half_open", "disabled", "forced_open", "metrics_only"}) {
    CHECK(has(page, "resilience4j_circuitbreaker_state{name=\"stock\",state=\"" + other + "\"} 0"));
  }

  breaker->reset();
  page = text(exporter);
  CHECK(has(page, R"(resilience4j_circuitbreaker_state{name="stock",state="closed"} 1)"));
  CHECK(has(page, R"(resilience4j_circuitbreaker_not_permitted_calls_total{kind="not_permitted",name="stock"} 1)"));
}

TEST_CASE("limiters, bulkheads, retries and time limiters are exported", "[prometheus]") {
  manual_clock clock;
  basic_rate_limiter limiter{"rate", {.limit = {2, 1s}, .max_wait = 1s}, clock};
  basic_adaptive_rate_limiter adaptive{"adaptive", {.initial_rate = per_second(20)}, clock};
  bulkhead places{"places", {.max_concurrent = 3}};
  basic_retry again{"again", {.max_attempts = 2, .interval = fixed{1ms}}, clock};
  basic_time_limiter timed{"timed", {.timeout = 1s}, clock};
  prometheus_exporter exporter;
  const auto shown = {exporter.add(limiter), exporter.add(adaptive), exporter.add(places), exporter.add(again),
                      exporter.add(timed)};
  (void)shown;

  const auto held = places.try_acquire();
  (void)again.execute([] { return refused; });
  (void)again.execute([] { return std::error_code{}; });
  (void)timed.execute([&] {
    clock.advance(2s);
    return std::error_code{};
  });
  CHECK(adaptive.try_acquire().has_value());
  for (int n = 0; n < 5; ++n) (void)limiter.reserve();  // two at once, two owed, one refused

  const std::string page = text(exporter);
  CHECK(has(page, R"(resilience4j_ratelimiter_available_permissions{name="rate"} -2)"));
  CHECK(has(page, R"(resilience4j_ratelimiter_waiting_threads{name="rate"} 0)"));
  CHECK(has(page, R"(resilience_rejections_total{name="rate",reason="rate_limited"} 1)"));
  CHECK(has(page, R"(resilience_admitted_total{kind="rate_limiter",name="rate"} 4)"));
  CHECK(has(page, R"(resilience_waited_seconds_total{kind="rate_limiter",name="rate"} 1.5)"));
  CHECK(has(page, R"(resilience4j_ratelimiter_available_permissions{name="adaptive"} 3)"));  // a fifth of 20, less one
  CHECK(has(page, R"(resilience_admitted_total{kind="rate_limiter",name="adaptive"} 1)"));
  CHECK(has(page, R"(resilience4j_bulkhead_available_concurrent_calls{name="places"} 2)"));
  CHECK(has(page, R"(resilience4j_bulkhead_max_allowed_concurrent_calls{name="places"} 3)"));
  CHECK(has(page, R"(resilience4j_retry_calls_total{kind="failed_with_retry",name="again"} 1)"));
  CHECK(has(page, R"(resilience4j_retry_calls_total{kind="successful_without_retry",name="again"} 1)"));
  CHECK(has(page, R"(resilience4j_retry_calls_total{kind="successful_with_retry",name="again"} 0)"));
  CHECK(has(page, R"(resilience4j_retry_calls_total{kind="failed_without_retry",name="again"} 0)"));
  CHECK(has(page, R"(resilience4j_timelimiter_calls_total{kind="timeout",name="timed"} 1)"));
  CHECK(has(page, R"(resilience4j_timelimiter_calls_total{kind="successful",name="timed"} 0)"));
  CHECK(has(page, R"(resilience4j_timelimiter_calls_total{kind="failed",name="timed"} 0)"));
}

TEST_CASE("a policy leaves the export with its handle, or when it goes", "[prometheus]") {
  prometheus_exporter exporter;
  {
    bulkhead places{"local"};
    const auto shown = exporter.add(places);
    CHECK(text(exporter).contains("local"));
  }
  CHECK(exporter.Collect().empty());

  auto breaker = std::make_shared<circuit_breaker>("shared");
  exporter.add(breaker);
  exporter.add(breaker);  // once is enough
  CHECK(text(exporter).contains("shared"));
  (void)breaker->execute([] { return std::error_code{}; });
  CHECK(has(text(exporter), R"(resilience4j_circuitbreaker_calls_seconds_count{kind="successful",name="shared"} 1)"));
  breaker.reset();
  CHECK(exporter.Collect().empty());

  bulkhead outliving{"outliving"};
  subscription handle;
  {
    prometheus_exporter brief;
    handle = brief.add(outliving);
  }
  handle.reset();
}

TEST_CASE("a registry is exported as it changes", "[prometheus]") {
  prometheus_exporter exporter;
  registry<bulkhead> all;
  const auto make = [](std::string name, int places) {
    return [=] { return std::make_shared<bulkhead>(name, bulkhead_config{.max_concurrent = places}); };
  };
  const auto early = all.find_or_make("early", make("early", 1));
  const auto following = exporter.add(all);
  const auto late = all.find_or_make("late", make("late", 2));
  const std::string name = "resilience4j_bulkhead_max_allowed_concurrent_calls";
  CHECK(has(text(exporter), name + R"({name="early"} 1)"));
  CHECK(has(text(exporter), name + R"({name="late"} 2)"));

  all.replace("late", make("late", 7)());
  CHECK(has(text(exporter), name + R"({name="late"} 7)"));
  CHECK_FALSE(has(text(exporter), name + R"({name="late"} 2)"));
  const auto gone = all.remove("early");  // still held here, but no longer an instance of that name
  CHECK_FALSE(text(exporter).contains("early"));
}

TEST_CASE("two policies of one kind and name make one valid page", "[prometheus]") {
  prometheus_exporter exporter;
  bulkhead before{"x", {.max_concurrent = 1}}, now{"x", {.max_concurrent = 2}};
  const auto first = exporter.add(before);
  const auto second = exporter.add(now);
  const std::string page = text(exporter), line = R"(resilience4j_bulkhead_max_allowed_concurrent_calls{name="x"})";
  CHECK(has(page, line + " 2"));
  CHECK(page.find(line) == page.rfind(line));
}

TEST_CASE("scrapes, calls and detaching go on together", "[prometheus]") {
  prometheus_exporter exporter;
  circuit_breaker breaker{"busy"};
  std::atomic<bool> done = false;
  std::vector<std::jthread> threads;
  for (int t = 0; t < 2; ++t) {
    threads.emplace_back([&] {
      while (!done) (void)breaker.execute([] { return std::error_code{}; });
    });
  }
  threads.emplace_back([&] {
    while (!done) (void)exporter.Collect();
  });
  for (int n = 0; n < 200; ++n) {
    const auto shown = exporter.add(breaker);
    CHECK_FALSE(exporter.Collect().empty());
  }
  done = true;
}
