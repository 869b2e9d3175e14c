#include <resilience/rate_limiter.hpp>

#include <resilience/testing.hpp>

#include <catch2/catch.hpp>

using namespace resilience;
using namespace std::chrono_literals;
using limiter = basic_rate_limiter<manual_clock>;

namespace {

int take_all(limiter& from, int most = 1'000'000) {
  int taken = 0;
  while (taken < most && from.try_acquire().has_value()) ++taken;
  return taken;
}

}  // namespace

TEST_CASE("a limiter grants its burst at once, then one token per interval", "[rate_limiter]") {
  manual_clock clock;
  limiter calls_out{"stock", {.limit = per_second(50)}, clock};
  CHECK(calls_out.available() == 50);
  CHECK(take_all(calls_out) == 50);

  clock.advance(20ms - 1ns);
  const auto early = calls_out.try_acquire();
  REQUIRE_FALSE(early.has_value());
  CHECK(early.error().reason == errc::rate_limited);
  CHECK(early.error().policy == "stock");
  CHECK(early.error().retry_after == 1ns);

  clock.advance(1ns);
  CHECK(take_all(calls_out) == 1);
}

TEST_CASE("tokens count from the call, not from ticks of the clock", "[rate_limiter]") {
  manual_clock clock;
  limiter one{"stock", {.limit = {1, 10ms}}, clock};
  clock.advance(1s + 3ms);
  CHECK(take_all(one) == 1);
  clock.advance(10ms - 1ns);
  CHECK(take_all(one) == 0);
  clock.advance(1ns);
  CHECK(take_all(one) == 1);
}

TEST_CASE("a rate that does not divide its period is exact in the long run", "[rate_limiter]") {
  for (const rate limit : {rate{3, 1s}, rate{7, 1s}, rate{999, 1s}, rate{1009, 1s}, rate{999'983, 1s},
                           rate{1'000'000, 1s}, rate{7, 11ns}, rate{50, 10ns}, rate{3, 24h}, rate{999'983, 24h}}) {
    CAPTURE(limit.calls, limit.period.count());
    manual_clock clock;
    limiter calls_out{"stock", {.limit = limit}, clock};
    CHECK(calls_out.try_acquire(limit.calls).has_value());
    CHECK(calls_out.available() == 0);
    // A day of whole bursts, then exactly nothing left.
    std::mt19937 random{7};
    std::int64_t granted = 0;
    std::chrono::nanoseconds passed{};
    for (int round = 0; round < 400; ++round) {
      const auto step =
          limit.period / 10 + std::chrono::nanoseconds{static_cast<std::int64_t>(
                                  static_cast<double>(limit.period.count()) * 0.5 * (random() % 1000) / 1000)};
      clock.advance(step);
      passed += step;
      const int there = calls_out.available();
      if (there > 0) {
        CHECK(calls_out.try_acquire(there).has_value());
        granted += there;
      }
    }
    const auto due = detail::wide(passed.count()) * limit.calls / limit.period.count();
    CHECK(granted == static_cast<std::int64_t>(due));
    CHECK_FALSE(calls_out.try_acquire().has_value());
  }
}

TEST_CASE("a busy limiter stays exact over days, when its word is moved to a new origin", "[rate_limiter]") {
  for (const int calls : {1021, 999'983, 1'000'000, 2'147'483'647}) {
    CAPTURE(calls);
    manual_clock clock;
    limiter calls_out{"stock", {.limit = per_second(calls)}, clock};
    REQUIRE(calls_out.try_acquire(calls).has_value());
    for (int hour = 0; hour < 24 * 10; ++hour) {
      for (int second = 0; second < 3; ++second) {  // never full in these
        clock.advance(1s - 1ns);
        REQUIRE_FALSE(calls_out.try_acquire(calls).has_value());
        clock.advance(1ns);
        REQUIRE(calls_out.try_acquire(calls).has_value());
        REQUIRE(calls_out.available() == 0);
      }
      clock.advance(1h);
      REQUIRE(calls_out.available() == calls);
      REQUIRE(calls_out.try_acquire(calls).has_value());
      REQUIRE_FALSE(calls_out.try_acquire().has_value());
    }
  }
}

TEST_CASE("whoever waits as long as a rejection says, and asks alone, is admitted; a nanosecond less is too early",
          "[rate_limiter]") {
  std::mt19937 random{11};
  for (int round = 0; round < 2000; ++round) {
    const auto pick = [&](int most) { return static_cast<int>(random() % static_cast<unsigned>(most)); };
    manual_clock clock;
    const rate_limiter_config config{.limit = {1 + pick(5000), std::chrono::nanoseconds{1 + pick(2'000'000'000)}},
                                     .burst = pick(20),
                                     .max_wait = std::chrono::nanoseconds{pick(2) * pick(1'000'000'000)},
                                     .mode = pick(2) == 0 ? limiter_mode::smooth : limiter_mode::fixed_window};
    CAPTURE(config.limit.calls, config.limit.period.count(), config.burst, config.max_wait.count());
    limiter calls_out{"stock", config, clock};
    clock.advance(std::chrono::nanoseconds{pick(1'000'000'000)});
    for (int call = 0; call < 200; ++call) {
      const int n = 1 + pick(3);
      const auto first = calls_out.reserve(n);
      if (first.has_value() || first.error().retry_after == 0ns) continue;
      clock.advance(first.error().retry_after - 1ns);
      REQUIRE_FALSE(calls_out.reserve(n).has_value());
      clock.advance(1ns);
      REQUIRE(calls_out.reserve(n).has_value());
      break;
    }
  }
}

TEST_CASE("a reservation says how long to wait, and takes its token now", "[rate_limiter]") {
  manual_clock clock;
  limiter calls_out{"stock", {.limit = per_second(10), .burst = 1, .max_wait = 250ms}, clock};
  CHECK(calls_out.reserve().value() == 0ms);
  CHECK(calls_out.reserve().value() == 100ms);
  CHECK(calls_out.reserve().value() == 200ms);
  CHECK(calls_out.available() == -2);
  const auto refused = calls_out.reserve();
  REQUIRE_FALSE(refused.has_value());
  CHECK(refused.error().retry_after == 50ms);
  CHECK(calls_out.available() == -2);  // a rejected reservation takes nothing
  calls_out.cancel();
  CHECK(calls_out.reserve().value() == 200ms);
}

TEST_CASE("what is given back can be taken again, but never fills the store beyond its burst", "[rate_limiter]") {
  manual_clock clock;
  limiter calls_out{"stock", {.limit = per_second(10), .max_wait = 1s}, clock};
  REQUIRE(calls_out.reserve(12).has_value());
  clock.advance(10s);
  calls_out.cancel(12);
  CHECK(calls_out.available() == 10);
  CHECK(take_all(calls_out) == 10);
}

TEST_CASE("more than the burst is granted to who may wait for it, and refused for good to who may not",
          "[rate_limiter]") {
  manual_clock clock;
  limiter calls_out{"stock", {.limit = per_second(10)}, clock};
  const auto refused = calls_out.try_acquire(11);
  REQUIRE_FALSE(refused.has_value());
  CHECK(refused.error().retry_after == 0ns);
  CHECK_FALSE(calls_out.acquire(15, clock.now() + 500ms - 1ns).has_value());
  const time_point before = clock.now();
  CHECK(calls_out.acquire(15, clock.now() + 500ms).has_value());
  CHECK(clock.now() - before == 500ms);
}

TEST_CASE("acquire blocks until its tokens are there, and refuses at once what can't be there in time",
          "[rate_limiter]") {
  manual_clock clock;
  limiter calls_out{"stock", {.limit = per_second(10), .burst = 1}, clock};
  REQUIRE(calls_out.acquire(1, clock.now()).has_value());
  const time_point before = clock.now();
  const auto late = calls_out.acquire(1, before + 99ms);
  REQUIRE_FALSE(late.has_value());
  CHECK(late.error().retry_after == 1ms);
  CHECK(clock.now() == before);
  CHECK(calls_out.acquire(1, before + 100ms).has_value());
  CHECK(clock.now() == before + 100ms);
  clock.advance(100ms);
  CHECK(calls_out.acquire(1, before - 1h).has_value());  // a deadline in the past still takes what is there
}

TEST_CASE("a lowered limit bites at once and keeps debts; a raised one gives nothing away", "[rate_limiter]") {
  manual_clock clock;
  limiter calls_out{"stock", {.limit = per_second(50), .max_wait = 10s}, clock};
  calls_out.set_limit(per_second(10));
  CHECK(calls_out.available() == 10);
  CHECK(calls_out.config().burst == 0);
  calls_out.set_limit(per_second(100));
  CHECK(calls_out.available() == 10);
  clock.advance(50ms);
  CHECK(calls_out.available() == 15);
  clock.advance(10s);
  CHECK(calls_out.available() == 100);

  REQUIRE(calls_out.reserve(150).has_value());
  CHECK(calls_out.available() == -50);
  calls_out.set_limit(per_second(10));
  CHECK(calls_out.available() == -50);
  CHECK(calls_out.reserve().value() == 5100ms);
}

TEST_CASE("half a token survives a change of limit", "[rate_limiter]") {
  manual_clock clock;
  limiter calls_out{"stock", {.limit = per_second(10)}, clock};
  take_all(calls_out);
  clock.advance(50ms);
  calls_out.set_limit(per_second(5));
  clock.advance(100ms - 1ns);
  CHECK(calls_out.available() == 0);
  clock.advance(1ns);
  CHECK(calls_out.available() == 1);
}

TEST_CASE("a burst of one's own does not follow the limit", "[rate_limiter]") {
  manual_clock clock;
  limiter calls_out{"stock", {.limit = per_second(50), .burst = 3}, clock};
  CHECK(take_all(calls_out) == 3);
  calls_out.set_limit(per_second(100));
  clock.advance(1h);
  CHECK(take_all(calls_out) == 3);
  calls_out.configure({.limit = per_second(100), .burst = 5, .max_wait = 1s});
  CHECK(calls_out.config() == rate_limiter_config{.limit = per_second(100), .burst = 5, .max_wait = 1s});
  clock.advance(1h);
  CHECK(take_all(calls_out) == 5);
  CHECK(calls_out.reserve().value() == 10ms);
}

TEST_CASE("draining takes what is stored and leaves what is owed", "[rate_limiter]") {
  manual_clock clock;
  limiter calls_out{"stock", {.limit = per_second(10), .max_wait = 1s}, clock};
  calls_out.drain();
  CHECK(calls_out.available() == 0);
  clock.advance(100ms);
  CHECK(take_all(calls_out) == 1);
  REQUIRE(calls_out.reserve(5).has_value());
  calls_out.drain();
  CHECK(calls_out.available() == -5);
}

TEST_CASE("fixed windows start at construction and grant the whole limit each", "[rate_limiter]") {
  manual_clock clock;
  clock.advance(333ms);
  limiter calls_out{"stock", {.limit = per_second(3), .mode = limiter_mode::fixed_window}, clock};
  CHECK(take_all(calls_out) == 3);
  clock.advance(1s - 1ns);
  const auto early = calls_out.try_acquire();
  REQUIRE_FALSE(early.has_value());
  CHECK(early.error().retry_after == 1ns);
  clock.advance(1ns);
  CHECK(take_all(calls_out) == 3);
  clock.advance(5s);
  CHECK(take_all(calls_out) == 3);  // what a window did not use is gone
}

TEST_CASE("in windows a reservation takes from those to come", "[rate_limiter]") {
  manual_clock clock;
  limiter calls_out{"stock", {.limit = per_second(2), .max_wait = 2s, .mode = limiter_mode::fixed_window}, clock};
  clock.advance(400ms);
  for (const auto wait : {0ms, 0ms, 600ms, 600ms, 1600ms, 1600ms}) CHECK(calls_out.reserve().value() == wait);
  CHECK(calls_out.available() == -4);
  CHECK_FALSE(calls_out.reserve().has_value());
  clock.advance(600ms);
  CHECK(calls_out.available() == -2);
  clock.advance(1s);
  CHECK(calls_out.available() == 0);
}

TEST_CASE("a window's raised limit holds from the next window, a lowered one at once", "[rate_limiter]") {
  manual_clock clock;
  limiter calls_out{"stock", {.limit = per_second(5), .mode = limiter_mode::fixed_window}, clock};
  clock.advance(300ms);
  calls_out.set_limit(per_second(8));
  CHECK(calls_out.available() == 5);
  clock.advance(700ms - 1ns);
  CHECK(calls_out.available() == 5);
  clock.advance(1ns);
  CHECK(calls_out.available() == 8);
  calls_out.set_limit(per_second(2));
  CHECK(take_all(calls_out) == 2);
  clock.advance(1s);
  CHECK(take_all(calls_out) == 2);
}

TEST_CASE("execute takes a token, waits within max_wait, and refuses by value or exception", "[rate_limiter]") {
  manual_clock clock;
  limiter calls_out{"stock", {.limit = per_second(10), .burst = 1, .max_wait = 100ms}, clock};
  CHECK(calls_out.execute([] { return 1; }) == 1);
  const time_point before = clock.now();
  CHECK(calls_out.execute([] { return 2; }) == 2);
  CHECK(clock.now() - before == 100ms);

  REQUIRE(calls_out.reserve().has_value());
  const std::error_code code = calls_out.execute([] { return std::error_code{}; });
  CHECK(code == errc::rate_limited);
  CHECK(code == condition::not_attempted);
  CHECK_THROWS_AS(calls_out.execute([] {}), rejected);
}

TEST_CASE("a wait that would reach past the call's deadline is refused at once", "[rate_limiter]") {
  manual_clock clock;
  limiter calls_out{"stock", {.limit = per_second(10), .burst = 1, .max_wait = 1s}, clock};
  calls_out.execute([] {});
  const this_call::deadline_scope until(clock.now() + 50ms);
  const time_point before = clock.now();
  try {
    calls_out.execute([] {});
    FAIL("admitted");
  } catch (const rejected& e) {
    CHECK(e.why().retry_after == 50ms);
  }
  CHECK(clock.now() == before);
}

TEST_CASE("a limiter tells what it grants and refuses, and counts it", "[rate_limiter]") {
  manual_clock clock;
  limiter calls_out{"stock", {.limit = per_second(10), .burst = 1, .max_wait = 100ms}, clock};
  int acquired = 0, refused = 0;
  const auto on_acquired = calls_out.events().on_acquired([&](const auto& e) { acquired += e.calls; });
  const auto on_rejected = calls_out.events().on_rejected([&](const auto& e) {
    ++refused;
    CHECK(e.policy == "stock");
    CHECK(e.wait == 100ms);
    CHECK(calls_out.available() == -1);  // consumers may look at the policy
  });
  (void)calls_out.reserve();
  (void)calls_out.reserve();
  (void)calls_out.reserve();
  CHECK(acquired == 2);
  CHECK(refused == 1);
  const auto metrics = calls_out.metrics();
  CHECK(metrics.granted == 2);
  CHECK(metrics.rejected == 1);
  CHECK(metrics.waited == 100ms);
  CHECK(metrics.waiting == 0);
  CHECK(metrics.available_permissions == -1);
  const auto recent = calls_out.events().recent();
  REQUIRE(recent.size() == 3);
  CHECK(recent[1].type == rate_limiter_event_type::acquired);
  CHECK(recent[1].wait == 100ms);
  CHECK(recent[2].type == rate_limiter_event_type::rejected);
  CHECK(recent[2].at == clock.now());
}

TEST_CASE("a level says what is left and when it is full", "[rate_limiter]") {
  manual_clock clock;
  limiter calls_out{"stock", {.limit = per_second(10)}, clock};
  CHECK(calls_out.level().until_full == 0s);
  REQUIRE(calls_out.try_acquire(4).has_value());
  CHECK(calls_out.level().tokens == 6);
  CHECK(calls_out.level().until_full == 400ms);
  clock.advance(50ms);
  CHECK(calls_out.level().until_full == 350ms);
}

TEST_CASE("a limiter refuses a configuration out of bounds, with field and value", "[rate_limiter]") {
  using Catch::Matchers::Contains;
  CHECK_THROWS_WITH(limiter("x", {.limit = per_second(0)}), Contains("limit") && Contains("not 0"));
  CHECK_THROWS_WITH(limiter("x", {.limit = {1, 0ns}}), Contains("period") && Contains("not 0ns"));
  CHECK_THROWS_WITH(limiter("x", {.burst = -1}), Contains("burst") && Contains("not -1"));
  CHECK_THROWS_WITH(limiter("x", {.max_wait = -1ns}), Contains("max_wait") && Contains("not -1ns"));
  limiter good{"x"};
  CHECK_THROWS_AS(good.set_limit(per_second(-1)), std::invalid_argument);
  CHECK_THROWS_AS(good.try_acquire(0), std::invalid_argument);
  CHECK(good.config() == rate_limiter_config{});
}

TEST_CASE("64 threads are granted exactly the burst and what time brings", "[rate_limiter]") {
  for (const limiter_mode mode : {limiter_mode::smooth, limiter_mode::fixed_window}) {
    manual_clock clock;
    limiter calls_out{"stock", {.limit = per_second(97), .mode = mode}, clock};
    for (int second = 0; second < 3; ++second) {
      std::atomic<int> granted = 0;
      std::vector<std::jthread> threads;
      for (int t = 0; t < 64; ++t) {
        threads.emplace_back([&, t] {
          for (int n = 0; n < 50; ++n) {
            if (calls_out.try_acquire().has_value()) ++granted;
            // Changing nothing must change nothing, whenever it comes.
            if (t == 0 && n % 5 == 0) calls_out.set_limit(per_second(97));
            if (t == 1) (void)calls_out.level();
          }
        });
      }
      threads.clear();
      CHECK(granted == 97);
      clock.advance(1s);
    }
  }
}

TEST_CASE("threads that take while time moves get exactly what it brought", "[rate_limiter]") {
  manual_clock clock;
  limiter calls_out{"stock", {.limit = {999'983, 1s}, .burst = 1'000}, clock};
  std::atomic<std::int64_t> granted = 0;
  std::atomic<bool> stop = false;
  std::vector<std::jthread> threads;
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&] {
      while (!stop) {
        if (calls_out.try_acquire().has_value()) ++granted;
      }
    });
  }
  for (int n = 0; n < 2000; ++n) {
    // Never let the store fill up, or what time brings is lost.
    while (calls_out.available() > 500) std::this_thread::yield();
    clock.advance(10us);
  }
  stop = true;
  threads.clear();
  granted += take_all(calls_out);
  CHECK(granted == 1'000 + 999'983 * 20 / 1000);
}
