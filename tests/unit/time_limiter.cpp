#include <resilience/time_limiter.hpp>

#include <catch2/catch.hpp>

#include <expected>
#include <stdexcept>
#include <system_error>
#include <vector>

#include <resilience/pipeline.hpp>
#include <resilience/retry.hpp>
#include <resilience/testing.hpp>

using namespace resilience;
using namespace std::chrono_literals;

namespace {
const std::error_code broken = std::make_error_code(std::errc::io_error);
}

TEST_CASE("the defaults are one second, with cancellation", "[time_limiter]") {
  time_limiter limiter{"stock"};
  CHECK(limiter.name() == "stock");
  CHECK(limiter.config().timeout == 1s);
  CHECK(limiter.config().cancel);
  CHECK_THROWS_WITH(time_limiter("stock", {.timeout = 0s}), "timeout must be more than 0, not 0ns");
  CHECK_THROWS_AS(limiter.configure({.timeout = -1s}), std::invalid_argument);
}

TEST_CASE("a blocking callee reads its deadline, the nearest enclosing", "[time_limiter]") {
  manual_clock clock;
  basic_time_limiter outer{"total", {.timeout = 2s}, clock};
  basic_time_limiter inner{"try", {.timeout = 500ms}, clock};
  const auto began = clock.now();
  CHECK_FALSE(this_call::deadline().has_value());
  outer.execute([&] {
    CHECK(this_call::deadline() == began + 2s);
    inner.execute([&] { CHECK(this_call::deadline() == began + 500ms); });
    CHECK(this_call::deadline() == began + 2s);
    clock.advance(1600ms);
    inner.execute([&] { CHECK(this_call::deadline() == began + 2s); });
  });
  CHECK_FALSE(this_call::deadline().has_value());
  CHECK_THROWS(outer.execute([]() -> int { throw std::runtime_error("x"); }));
  CHECK_FALSE(this_call::deadline().has_value());
}

TEST_CASE("a blocking call that returns late keeps its result", "[time_limiter]") {
  manual_clock clock;
  basic_time_limiter limiter{"stock", {.timeout = 1s}, clock};
  std::vector<time_limiter_event> seen;
  auto watching = limiter.events().on_timeout([&](const time_limiter_event& e) { seen.push_back(e); });
  CHECK(limiter.execute([&] {
    clock.advance(1s);
    return 1;
  }) == 1);
  CHECK(limiter.metrics().successful == 1);
  CHECK(limiter.execute([&] {
    clock.advance(1s + 1ns);
    return 2;
  }) == 2);
  CHECK(limiter.metrics().successful == 1);
  CHECK(limiter.metrics().timed_out == 1);
  REQUIRE(seen.size() == 1);
  CHECK(seen[0].policy == "stock");
  CHECK(limiter.execute([] { return broken; }) == broken);
  CHECK(limiter.metrics().failed == 1);
  CHECK(limiter.execute([] { return make_error_code(errc::cancelled); }) == errc::cancelled);
  CHECK(limiter.metrics().failed == 1);
  CHECK(limiter.events().recent().size() == 2);
}

TEST_CASE("the deadline passes inwards through a pipeline: a retry inside stops for it", "[time_limiter]") {
  manual_clock clock;
  basic_time_limiter limiter{"total", {.timeout = 25ms}, clock};
  basic_retry retry{"stock", {.max_attempts = 10, .interval = fixed{10ms}}, clock};
  pipeline guarded{limiter, retry};
  int calls = 0;
  const auto answer = guarded.execute([&]() -> std::expected<int, std::error_code> {
    ++calls;
    return std::unexpected(broken);
  });
  CHECK(calls == 3);
  CHECK(answer.error() == broken);
  CHECK(limiter.metrics().failed == 1);
  // Outside, it does not: each attempt has its own time.
  basic_retry patient{"stock", {.max_attempts = 10, .interval = fixed{10ms}}, clock};
  pipeline per_try{patient, limiter};
  calls = 0;
  per_try.execute([&] {
    ++calls;
    return broken;
  });
  CHECK(calls == 10);
}

TEST_CASE("calls timed elsewhere are counted", "[time_limiter]") {
  manual_clock clock;
  basic_time_limiter limiter{"stock", {}, clock};
  limiter.record({});
  limiter.record({make_error_code(errc::timed_out), nullptr});
  limiter.record({broken, nullptr});
  limiter.record({make_error_code(errc::cancelled), nullptr});
  const auto m = limiter.metrics();
  CHECK(m.successful == 1);
  CHECK(m.timed_out == 1);
  CHECK(m.failed == 1);
}

TEST_CASE("a new timeout holds for the next call", "[time_limiter]") {
  manual_clock clock;
  basic_time_limiter limiter{"stock", {}, clock};
  limiter.configure({.timeout = 3s, .cancel = false});
  limiter.execute([&] { CHECK(this_call::deadline() == clock.now() + 3s); });
  CHECK_FALSE(limiter.config().cancel);
}
