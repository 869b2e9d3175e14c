#include <resilience/adaptive_rate_limiter.hpp>

#include <resilience/testing.hpp>

#include <catch2/catch.hpp>

using namespace resilience;
using namespace std::chrono_literals;
using detail::adaptive_rate;
using limiter = basic_adaptive_rate_limiter<manual_clock>;

namespace {

/// The rules with a time of their own, and calls that take none.
struct driver {
  adaptive_rate rules{5, 50, 20};
  time_point now = manual_clock{}.now();

  void finish(bool overload) { finish(overload, static_cast<float>(rules.rate())); }
  void finish(bool overload, float rate) { rules.finished(now, {now, rate, rules.epoch()}, overload); }

  /// Half a second in which the limit binds, or not.
  void tick(bool binds = true) {
    now += adaptive_rate::tick;
    rules.pass_tick(now, 0, binds);
  }
  void ticks(std::chrono::milliseconds d, bool binds = true) {
    for (; d.count() > 0; d -= adaptive_rate::tick) tick(binds);
  }
  /// `ok` results in a second, then failures until a cut. Returns how many it took.
  int overload_after(int ok) {
    for (int n = 0; n < ok; ++n) {
      now += 1s / ok;
      finish(false);
    }
    const std::uint32_t epoch = rules.epoch();
    int failures = 0;
    for (; rules.epoch() == epoch && failures < 100; ++failures) finish(true);
    return failures;
  }
};

}  // namespace

TEST_CASE("four failures in a dozen calls are an alarm, three are not, nor are they spread thinly", "[adaptive]") {
  driver d;
  CHECK(d.overload_after(30) == 4);

  driver thin;
  for (int n = 0; n < 200; ++n) thin.finish(n % 20 == 0);
  CHECK(thin.rules.epoch() == 0);

  driver spaced;
  for (int n = 0; n < 13; ++n) spaced.finish(n % 4 == 0);
  CHECK(spaced.rules.epoch() == 1);
}

TEST_CASE("a cut goes below what was delivered, and centres between that and where trouble began", "[adaptive]") {
  driver d;
  d.now += 10s;
  for (int n = 0; n < 15; ++n) {
    d.now += 50ms;  // 0.75 s
    d.finish(false, 16);
  }
  for (int n = 0; n < 4; ++n) {
    d.now += 10ms;
    d.finish(true, 18);
  }
  REQUIRE(d.rules.last_cut().has_value());
  CHECK(d.rules.last_cut()->cause == cut_cause::failures);
  CHECK(d.rules.last_cut()->rate_before == 20);
  CHECK(d.rules.rate() == Approx(0.9 * 15));
  d.ticks(6500ms);  // 100 ÷ 15.5, in ticks
  CHECK(d.rules.rate() == Approx(15.5));
}

TEST_CASE("a cut of a target that delivers far less centres on that, and never goes below the least", "[adaptive]") {
  driver d;
  for (int n = 0; n < 7; ++n) {
    d.now += 100ms;
    d.finish(false);
  }
  for (int n = 0; n < 4; ++n) d.finish(true);
  CHECK(d.rules.rate() == Approx(0.9 * 7));
  d.ticks(10s);
  CHECK(d.rules.rate() == Approx(7));
  for (int n = 0; n < 30; ++n) d.finish(true);
  CHECK(d.rules.rate() == 5);
  CHECK(d.rules.last_cut()->rate_after == 5);
}

TEST_CASE("a target that returns is found again: fast at first, then slowly past the centre", "[adaptive]") {
  driver d;
  d.overload_after(20);
  const double low = d.rules.rate();
  CHECK(low == Approx(18));
  d.tick();
  const double first = d.rules.rate() - low;
  CHECK(first > 0);
  d.ticks(6s);
  const double before = d.rules.rate();
  d.tick();
  CHECK(d.rules.rate() - before == Approx(0.2));  // 0.4 a second
  CHECK(first > 0.2);
}

TEST_CASE("far above the last trouble growth is a fifth a second", "[adaptive]") {
  driver d;  // 20 is four times the centre at the start
  d.tick();
  CHECK(d.rules.rate() == Approx(20 + (0.4 + 4) / 2));
}

TEST_CASE("the rate grows only while it binds, and pauses while results are in doubt", "[adaptive]") {
  driver d;
  d.ticks(5s, false);
  CHECK(d.rules.rate() == 20);
  d.now += 500ms;
  d.rules.pass_tick(d.now, 6, false);  // 60 % of 10
  CHECK(d.rules.rate() == 20);
  d.rules.pass_tick(d.now, 7, false);
  CHECK(d.rules.rate() > 20);

  driver doubt;
  doubt.finish(true);
  doubt.tick();
  CHECK(doubt.rules.rate() == 20);
  for (int n = 0; n < 4; ++n) doubt.finish(false);
  doubt.tick();
  CHECK(doubt.rules.rate() > 20);
}

TEST_CASE("results of calls from before a cut, or of its first second and a half, decide nothing", "[adaptive]") {
  driver d;
  d.overload_after(20);
  const double after = d.rules.rate();
  for (int n = 0; n < 50; ++n) d.rules.finished(d.now, {d.now - 1s, 20, 0}, true);
  CHECK(d.rules.rate() == after);
  for (int n = 0; n < 50; ++n) d.rules.finished(d.now + 3s, {d.now + 1500ms - 1ns, 20, 1}, true);
  CHECK(d.rules.rate() == after);
  for (int n = 0; n < 50; ++n) d.rules.finished(d.now + 3s, {d.now + 1500ms, 20, 1}, true);
  CHECK(d.rules.rate() < after);
}

TEST_CASE("errors that come at any rate stop causing cuts", "[adaptive]") {
  driver d;
  for (int n = 0; n < 2000; ++n) {
    d.now += 100ms;
    d.finish(n % 10 == 0);
    if (n % 5 == 0) d.tick();
  }
  const std::uint32_t learnt = d.rules.epoch();
  for (int n = 0; n < 2000; ++n) {
    d.now += 100ms;
    d.finish(n % 10 == 0);
  }
  CHECK(d.rules.epoch() == learnt);
}

TEST_CASE("the floor of failures forgets blocks above one half, and keeps the last one", "[adaptive]") {
  detail::failure_floor floor;
  time_point now = manual_clock{}.now();
  const auto block = [&](int failures) {
    for (int n = 0; n < 50; ++n) floor.add(now += 110ms, n < failures);
  };
  CHECK(floor.ratio(now) == 0);
  block(10);
  CHECK(floor.ratio(now) == Approx(0.2));
  block(26);
  CHECK(floor.ratio(now) == Approx(0.2));
  block(5);
  CHECK(floor.ratio(now) == Approx(0.1));
  block(25);
  now += 1h;
  CHECK(floor.ratio(now) == Approx(0.5));
  for (int n = 0; n < 9; ++n) block(10 + n);
  CHECK(floor.ratio(now) == Approx(0.2));
  block(20);
  CHECK(floor.ratio(now) == Approx(0.22));  // second lowest of ten
}

TEST_CASE("goodput is measured over at least a second, and longer until it holds ten calls", "[adaptive]") {
  detail::goodput_meter meter;
  time_point now = manual_clock{}.now();
  CHECK(meter.per_second(now) == 0);
  for (int n = 0; n < 30; ++n) meter.add(now += 25ms, n % 3 != 0);
  CHECK(meter.per_second(now) == Approx(20));  // in one second, though they came in 0.75
  for (int n = 0; n < 10; ++n) meter.add(now += 500ms, true);
  CHECK(meter.per_second(now) == Approx(10 / 4.5));
  now += 5500ms;
  CHECK(meter.per_second(now) == Approx(1));
}

TEST_CASE("an open breaker freezes the rate; when it closes, the rate starts at the least", "[adaptive]") {
  driver d;
  d.rules.thaw(d.now);  // was not open
  CHECK(d.rules.rate() == 20);
  d.rules.freeze();
  for (int n = 0; n < 50; ++n) d.finish(true);
  d.ticks(10s);
  CHECK(d.rules.rate() == 20);
  const std::uint32_t epoch = d.rules.epoch();
  d.rules.thaw(d.now);
  CHECK(d.rules.rate() == 5);
  CHECK(d.rules.epoch() == epoch + 1);
  CHECK(d.rules.last_cut()->cause == cut_cause::breaker);
  d.ticks(1s);
  CHECK(d.rules.rate() == Approx(5.4));
}

TEST_CASE("load above three quarters lowers the rate, full load cuts it, silence lifts the limit", "[adaptive]") {
  driver d;
  const auto report = [&](double load, std::chrono::milliseconds span) {
    for (; span.count() > 0; span -= 500ms) {
      d.rules.load(d.now, load);
      d.tick();
    }
  };
  report(0.75, 30s);
  const double held = d.rules.load_limit();
  report(0.77, 30s);
  CHECK(d.rules.load_limit() == Approx(held));  // dead band
  report(0.9, 10s);
  CHECK(d.rules.load_limit() < held);
  CHECK_FALSE(d.rules.last_cut().has_value());
  report(1.5, 5s);
  REQUIRE(d.rules.last_cut().has_value());
  CHECK(d.rules.last_cut()->cause == cut_cause::load);
  const time_point first = d.rules.last_cut()->at;
  report(1.5, 20s);
  CHECK(d.rules.last_cut()->at - first >= 8s);
  CHECK(d.rules.rate() == 5);
  d.rules.load(d.now, std::nan(""));
  d.rules.load(d.now, -1);
  d.ticks(11s);
  CHECK(d.rules.load_limit() == 50);
}

TEST_CASE("neither loop runs away while the other binds", "[adaptive]") {
  driver d;
  for (int n = 0; n < 60; ++n) {
    d.rules.load(d.now, 0.9);
    d.tick();
  }
  CHECK(d.rules.rate() < 20);
  CHECK(d.rules.error_limit() <= 1.25 * d.rules.rate() + 1e-9);
  d.rules.bound(30, 40);
  CHECK(d.rules.rate() == 30);
}

TEST_CASE("an adaptive limiter admits its burst, then its rate", "[adaptive_rate_limiter]") {
  manual_clock clock;
  limiter calls_out{"stock", {}, clock};
  CHECK(calls_out.rate() == 20);
  CHECK(calls_out.available() == 4);
  for (int n = 0; n < 4; ++n) CHECK(calls_out.try_acquire().has_value());
  const auto refused = calls_out.try_acquire();
  REQUIRE_FALSE(refused.has_value());
  CHECK(refused.error() == rejection{errc::rate_limited, "stock", 50ms});
  clock.advance(50ms);
  CHECK(calls_out.try_acquire().has_value());
  const auto metrics = calls_out.metrics();
  CHECK(metrics.granted == 5);
  CHECK(metrics.rejected == 1);
  const auto recent = calls_out.events().recent();
  REQUIRE(recent.size() == 6);
  CHECK(recent[4].type == rate_limiter_event_type::rejected);
}

TEST_CASE("failures cut the rate at once, ignored and abandoned calls say nothing, and it explains itself",
          "[adaptive_rate_limiter]") {
  manual_clock clock;
  limiter calls_out{"stock", {}, clock};
  const auto call = [&](auto verdict) {
    clock.advance(60ms);
    auto held = calls_out.try_acquire();
    REQUIRE(held.has_value());
    verdict(*held);
  };
  for (int n = 0; n < 20; ++n) call([](auto& p) { p.ignore(); });
  for (int n = 0; n < 20; ++n) call([](auto&) {});
  for (int n = 0; n < 10; ++n) call([](auto& p) { p.settle({make_error_code(errc::circuit_open), nullptr}); });
  CHECK_FALSE(calls_out.explain().last_cut.has_value());
  for (int n = 0; n < 4; ++n) {
    call([](auto& p) {
      auto moved = std::move(p);
      p.failure();  // moved from: nothing
      moved.settle({make_error_code(std::errc::timed_out), nullptr});
      moved.failure();  // the first verdict stands
    });
    CHECK(calls_out.explain().last_cut.has_value() == (n == 3));
  }
  const adaptive_explanation why = calls_out.explain();
  CHECK(why.rate == 5);
  CHECK(why.error_loop_limit == 5);
  CHECK(why.binding == adaptive_binding::min_rate);
  CHECK(why.last_cut->at == clock.now());
  CHECK(why.last_cut->cause == cut_cause::failures);
  CHECK(why.last_cut->rate_after == 5);
}

TEST_CASE("stored tokens scale with the rate", "[adaptive_rate_limiter]") {
  manual_clock clock;
  limiter calls_out{"stock", {.initial_rate = per_second(50)}, clock};
  CHECK(calls_out.available() == 10);
  calls_out.configure({.min_rate = per_second(5), .max_rate = per_second(25)});
  CHECK(calls_out.rate() == 25);
  CHECK(calls_out.available() == 5);
  CHECK(calls_out.config().max_rate == per_second(25));
}

TEST_CASE("execute learns from exceptions and errors, and refuses by value", "[adaptive_rate_limiter]") {
  manual_clock clock;
  limiter calls_out{"stock", {}, clock};
  for (int n = 0; n < 4; ++n) {
    if (n % 2 == 0) {
      CHECK_THROWS_AS(calls_out.execute([] { throw std::runtime_error("x"); }), std::runtime_error);
    } else {
      CHECK(calls_out.execute([] { return make_error_code(std::errc::timed_out); }) == std::errc::timed_out);
    }
  }
  CHECK(calls_out.rate() == 5);
  CHECK(calls_out.execute([] { return std::error_code{}; }) == errc::rate_limited);
}

TEST_CASE("the breaker's word freezes and restarts the rate", "[adaptive_rate_limiter]") {
  manual_clock clock;
  limiter calls_out{"stock", {}, clock};
  calls_out.breaker_opened();
  for (int n = 0; n < 100; ++n) {
    clock.advance(20ms);
    if (auto held = calls_out.try_acquire()) held->failure();
  }
  CHECK(calls_out.rate() == 20);
  calls_out.breaker_closed();
  CHECK(calls_out.rate() == 5);
}

TEST_CASE("reported load binds, and ticks happen for whoever looks, also after days", "[adaptive_rate_limiter]") {
  manual_clock clock;
  limiter calls_out{"stock", {}, clock};
  for (int n = 0; n < 60; ++n) {
    calls_out.report_load(0.9);
    clock.advance(500ms);
  }
  CHECK(calls_out.explain().binding == adaptive_binding::load_loop);
  CHECK(calls_out.rate() < 20);
  clock.advance(24h * 10);
  CHECK(calls_out.explain().binding == adaptive_binding::error_loop);
}

TEST_CASE("an adaptive limiter refuses a configuration out of bounds", "[adaptive_rate_limiter]") {
  using Catch::Matchers::Contains;
  CHECK_THROWS_WITH(limiter("x", {.min_rate = per_second(0)}), Contains("min_rate") && Contains("not 0"));
  CHECK_THROWS_WITH(limiter("x", {.initial_rate = {1, 0ns}}), Contains("initial_rate") && Contains("not 0ns"));
  CHECK_THROWS_WITH(limiter("x", {.min_rate = per_second(6), .max_rate = per_second(5)}),
                    Contains("max_rate") && Contains("at least min_rate"));
  CHECK(limiter("x", {.max_rate = per_second(10)}).rate() == 10);  // the beginning is held between the bounds
}

TEST_CASE("64 threads take, tell and look together, and no more is granted than the most there can be",
          "[adaptive_rate_limiter]") {
  manual_clock clock;
  limiter calls_out{"stock", {}, clock};
  std::atomic<int> granted = 0;
  for (int round = 0; round < 5; ++round) {
    std::vector<std::jthread> threads;
    for (int t = 0; t < 64; ++t) {
      threads.emplace_back([&, t] {
        for (int n = 0; n < 20; ++n) {
          if (auto held = calls_out.try_acquire()) {
            ++granted;
            t % 3 == 0 ? held->failure() : held->success();
          }
          if (t == 0) clock.advance(5ms);
          if (t == 1) (void)calls_out.rate();
          if (t == 2) calls_out.report_load(0.5);
        }
      });
    }
  }
  CHECK(granted <= 10 + 50 / 2);
  CHECK(granted >= 4);
  CHECK(calls_out.metrics().granted == static_cast<std::uint64_t>(granted));
}

TEST_CASE("with a rate that does not move, 64 threads are granted exactly burst and time's worth",
          "[adaptive_rate_limiter]") {
  manual_clock clock;
  limiter calls_out{"stock", {per_second(20), per_second(20), per_second(20)}, clock};
  std::atomic<int> granted = 0;
  for (int round = 0; round < 5; ++round) {
    std::vector<std::jthread> threads;
    for (int t = 0; t < 64; ++t) {
      threads.emplace_back([&] {
        for (int n = 0; n < 20; ++n) {
          if (auto held = calls_out.try_acquire()) {
            ++granted;
            held->failure();
          }
        }
      });
    }
    threads.clear();
    clock.advance(200ms);
  }
  CHECK(granted == 4 * 5);
}
