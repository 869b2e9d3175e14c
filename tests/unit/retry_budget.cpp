#include <resilience/retry_budget.hpp>

#include <catch2/catch.hpp>

#include <atomic>
#include <chrono>
#include <deque>
#include <random>
#include <stdexcept>
#include <thread>
#include <vector>

#include <resilience/testing.hpp>

using namespace resilience;
using namespace std::chrono_literals;

namespace {

int take_all(any_retry_budget& budget) {
  int taken = 0;
  while (budget.try_acquire()) ++taken;
  return taken;
}

}  // namespace

TEST_CASE("the defaults are a fifth of the calls in 10 s, at least 3 a second", "[retry_budget]") {
  retry_budget budget{"stock"};
  CHECK(budget.name() == "stock");
  CHECK(budget.config().ratio == percent{20});
  CHECK(budget.config().window == 10s);
  CHECK(budget.config().min == per_second(3));
}

TEST_CASE("a broken bound is refused", "[retry_budget]") {
  const std::vector<retry_budget_config> broken = {
      {.ratio = percent{-1}}, {.ratio = percent{101}}, {.window = 0s}, {.min = {-1, 1s}}, {.min = {1, 0s}}};
  retry_budget kept{"stock"};
  for (const auto& c : broken) {
    CHECK_THROWS_AS(retry_budget("stock", c), std::invalid_argument);
    CHECK_THROWS_AS(kept.configure(c), std::invalid_argument);
  }
}

TEST_CASE("without traffic thirty repetitions fit in 10 s, and come back after exactly that", "[retry_budget]") {
  manual_clock clock;
  basic_retry_budget budget{"stock", {}, clock};
  CHECK(take_all(budget) == 30);
  clock.advance(10s - 1ns);
  const auto refused = budget.try_acquire();
  REQUIRE_FALSE(refused.has_value());
  CHECK(refused.error() == rejection{errc::budget_exhausted, "stock", 1ns});
  clock.advance(1ns);
  CHECK(take_all(budget) == 30);
}

TEST_CASE("with traffic a fifth of the first attempts may be repeated", "[retry_budget]") {
  manual_clock clock;
  basic_retry_budget budget{"stock", {}, clock};
  for (int i = 0; i < 150; ++i) budget.record_call();
  CHECK(take_all(budget) == 30);
  for (int i = 0; i < 4; ++i) budget.record_call();
  CHECK(take_all(budget) == 0);
  budget.record_call();
  CHECK(take_all(budget) == 1);
  for (int i = 0; i < 845; ++i) budget.record_call();
  CHECK(take_all(budget) == 169);
  const auto m = budget.metrics();
  CHECK(m.first_attempts == 1000);
  CHECK(m.repetitions == 200);
  CHECK(m.allowed == 200);
  CHECK(m.refused == 4);
}

TEST_CASE("first attempts leave the window too", "[retry_budget]") {
  manual_clock clock;
  basic_retry_budget budget{"stock", {}, clock};
  for (int i = 0; i < 1000; ++i) budget.record_call();
  clock.advance(10s - 1ns);
  CHECK(budget.metrics().allowed == 200);
  clock.advance(1ns);
  CHECK(budget.metrics().allowed == 30);
  CHECK(budget.metrics().first_attempts == 0);
}

TEST_CASE("new settings keep what was counted", "[retry_budget]") {
  manual_clock clock;
  basic_retry_budget budget{"stock", {}, clock};
  CHECK(take_all(budget) == 30);
  budget.configure({.min = per_second(5)});
  CHECK(take_all(budget) == 20);
  budget.configure({.min = per_second(1)});
  CHECK(take_all(budget) == 0);
  budget.configure({.ratio = percent{0}, .min = {0, 1s}});
  clock.advance(1h);
  CHECK(take_all(budget) == 0);
}

TEST_CASE("a repetition is granted within the bound of the last 10 s, and the bound is reached", "[retry_budget]") {
  const auto seed = std::random_device{}();
  INFO("seed " << seed);
  std::mt19937 random(seed);
  for (const double rps : {2.0, 30.0, 400.0, 3000.0}) {
    manual_clock clock;
    basic_retry_budget budget{"stock", {}, clock};
    std::exponential_distribution<double> gap(rps);
    std::deque<time_point> firsts;
    std::deque<time_point> repeats;
    double worst = 0;
    int granted = 0;
    for (int i = 0; i < 20'000; ++i) {
      // Bursts and pauses.
      const double pause = random() % 2000 == 0 ? 4.0 : gap(random);
      clock.advance(std::chrono::nanoseconds(static_cast<std::int64_t>(pause * 1e9)));
      const auto now = clock.now();
      while (!firsts.empty() && now - firsts.front() >= 10s) firsts.pop_front();
      while (!repeats.empty() && now - repeats.front() >= 10s) repeats.pop_front();
      budget.record_call();
      firsts.push_back(now);
      for (int more = static_cast<int>(random() % 4); more > 0; --more) {
        if (!budget.try_acquire()) break;
        repeats.push_back(now);
        ++granted;
        // What counts is the moment of each grant: traffic that ceases takes its share of the bound along.
        const double bound = std::max(0.2 * static_cast<double>(firsts.size()), 30.0);
        worst = std::max(worst, static_cast<double>(repeats.size()) / bound);
      }
    }
    CHECK(worst <= 1.0);
    if (rps >= 30) {
      CHECK(worst > 0.95);
      CHECK(granted > 0.15 * 20'000);
    }
  }
}

TEST_CASE("threads that race for the last repetitions get exactly those", "[retry_budget]") {
  manual_clock clock;
  basic_retry_budget budget{"stock", {}, clock};
  std::atomic<int> taken = 0;
  {
    std::vector<std::jthread> all;
    for (int t = 0; t < 4; ++t) {
      all.emplace_back([&] {
        for (int i = 0; i < 500; ++i) {
          budget.record_call();
          if (budget.try_acquire()) ++taken;
        }
      });
    }
  }
  CHECK(taken <= 400);
  CHECK(take_all(budget) == 400 - taken);
}
