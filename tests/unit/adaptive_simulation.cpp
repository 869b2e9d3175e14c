// The law's figures on a simulated target, and for each part of the law that without it a figure is missed.

#include "simulated_target.hpp"

#include <catch2/catch.hpp>

using namespace simulation;
using resilience::detail::adaptive_law;

namespace {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr unsigned seeds = 3;
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
constexpr unsigned seeds = 3;
#else
constexpr unsigned seeds = 20;
#endif
#else
constexpr unsigned seeds = 20;
#endif

struct summary {
  double goodput = 0, worst_goodput = 1e9, failures = 0;
  std::vector<run_result> runs;

  double mean(auto figure) const {
    double sum = 0;
    for (const run_result& r : runs) sum += figure(r);
    return sum / static_cast<double>(runs.size());
  }
  double worst(auto figure) const {
    double most = -1e9;
    for (const run_result& r : runs) most = std::max(most, static_cast<double>(figure(r)));
    return most;
  }
};

/// Seeds 1 to `count`, one client each.
template <class Make>
summary simulate(const scenario& s, Make make, unsigned count = seeds) {
  summary all;
  for (unsigned seed = 1; seed <= count; ++seed) {
    manual_clock clock;
    std::vector<std::unique_ptr<client>> clients;
    clients.push_back(make(clock));
    all.runs.push_back(run(s, clock, clients, seed));
    all.worst_goodput = std::min(all.worst_goodput, all.runs.back().goodput());
  }
  all.goodput = all.mean([](const run_result& r) { return r.goodput(); });
  all.failures = all.mean([](const run_result& r) { return r.failures(); });
  return all;
}

summary simulate(const scenario& s, const adaptive_law& law = {}, unsigned count = seeds) {
  return simulate(s, [&](const manual_clock& clock) { return std::make_unique<adaptive_client>(clock, law); }, count);
}

scenario constant(double capacity) {
  scenario s;
  s.phases = {{0, capacity}};
  s.seconds = 480;
  return s;
}

scenario step(double from, double to) {
  scenario s;
  s.phases = {{0, from}, {120, to}};
  s.seconds = 240;
  return s;
}

}  // namespace

TEST_CASE("the law delivers what the target can, whatever that is, and no static limit does", "[adaptive]") {
  const summary adaptive = simulate(four_capacities());
  CHECK(adaptive.goodput >= 92);
  CHECK(adaptive.worst_goodput >= 90);
  CHECK(adaptive.failures <= 5);
  for (int limit = 5; limit <= 50; limit += 5) {
    CAPTURE(limit);
    const summary fixed =
        simulate(four_capacities(), [&](const manual_clock& c) { return std::make_unique<static_client>(c, limit); });
    CHECK(fixed.goodput < 80);
  }
}

TEST_CASE("a constant capacity is used well from 10 calls a second on", "[adaptive]") {
  const struct {
    double capacity, goodput, failures;
  } musts[] = {{10, 90, 8}, {20, 94, 6}, {40, 96, 5}};
  for (const auto& must : musts) {
    CAPTURE(must.capacity);
    const summary all = simulate(constant(must.capacity));
    CHECK(all.goodput >= must.goodput);
    CHECK(all.failures <= must.failures);
    CHECK(all.worst([](const run_result& r) { return r.failures(); }) <= must.failures + 2);  // no seed gets stuck
  }
}

TEST_CASE("after a capacity falls from 40 to 10, four fifths of it are delivered within 20 s", "[adaptive]") {
  const summary all = simulate(step(40, 10));
  CHECK(all.mean([](const run_result& r) { return r.until_delivered(120, 8); }) <= 20);
}

TEST_CASE("after a capacity rises from 10 to 50, the rate is 45 within 25 s", "[adaptive]") {
  const summary all = simulate(step(10, 50));
  const auto time = [](const run_result& r) { return r.until_rate(120, 45); };
  CHECK(all.mean(time) <= 25);
  CHECK(all.worst(time) <= 35);
}

TEST_CASE("a target dead for 30 s is asked 5 times a second within 8 s, and fully again within 30 s of its return",
          "[adaptive]") {
  scenario s;
  s.phases = {{0, 50}, {120, 0}, {150, 50}};
  s.seconds = 240;
  const summary all = simulate(s);
  CHECK(all.worst([](const run_result& r) { return r.until_rate(120, 5, true); }) <= 8);
  CHECK(all.worst([](const run_result& r) { return r.until_rate(150, 45); }) <= 30);
  CHECK(all.worst([](const run_result& r) { return r.most_in_a_second; }) <= 50 + 10);
  for (const run_result& r : all.runs) {
    for (std::size_t at = 129; at < 149; ++at) {
      REQUIRE(r.seconds[at].rate == 5);
      REQUIRE(r.seconds[at].admitted <= 5 + 1);
    }
  }
}

TEST_CASE("a load that follows the rate late is held at three quarters without a swing", "[adaptive]") {
  scenario s;
  s.phases = {{0, 50}};
  s.seconds = 240;
  s.utilisation = [](double rate) { return 0.2 + rate / 40; };
  const summary all = simulate(s);
  for (const run_result& r : all.runs) {
    double lowest = 1e9, highest = 0;
    for (std::size_t at = 40; at < r.seconds.size(); ++at) {
      lowest = std::min(lowest, r.seconds[at].rate);
      highest = std::max(highest, r.seconds[at].rate);
    }
    CHECK(lowest >= 20);
    CHECK(highest <= 24);
    CHECK(highest - lowest <= 2);
  }
}

TEST_CASE("two clients of one target share it fairly, and what it can do stays the same", "[adaptive]") {
  double fairness = 0;
  for (unsigned seed = 1; seed <= seeds; ++seed) {
    CAPTURE(seed);
    manual_clock clock;
    std::vector<std::unique_ptr<client>> clients;
    for (int n = 0; n < 2; ++n) clients.push_back(std::make_unique<adaptive_client>(clock));
    const run_result r = run(constant(40), clock, clients, seed);
    CHECK(r.goodput() >= 90);
    const double a = r.by_client[0], b = r.by_client[1];
    CHECK(std::min(a, b) >= 0.5 * std::max(a, b));
    fairness += (a + b) * (a + b) / (2 * (a * a + b * b)) / seeds;  // Jain's index
  }
  CHECK(fairness >= 0.95);
}

TEST_CASE("one random error in a hundred at 5 calls a second causes at most three cuts an hour", "[adaptive]") {
  scenario s;
  s.phases = {{0, 50}};
  s.seconds = 3600;
  s.random_errors = 0.01;
  for (const int most : {5, 50}) {
    s.demand = most == 5 ? 8 : 5;
    double cuts = 0;
    for (unsigned seed = 1; seed <= seeds; ++seed) {
      manual_clock clock;
      std::vector<std::unique_ptr<client>> clients;
      clients.push_back(std::make_unique<adaptive_client>(
          clock, adaptive_law{}, resilience::adaptive_rate_limiter_config{.max_rate = resilience::per_second(most)}));
      run(s, clock, clients, seed);
      cuts += static_cast<double>(clients[0]->cuts()) / seeds;
    }
    CHECK(cuts <= 3);
  }
}

TEST_CASE("without epochs the fall from 40 to 10 never settles", "[adaptive][control]") {
  const auto settled = [](const summary& all) {  // calls delivered in the last minute at 10 a second
    return all.mean([](const run_result& r) {
      int delivered = 0;
      for (std::size_t at = 180; at < 240; ++at) delivered += r.seconds[at].delivered;
      return delivered / 6.0;  // percent
    });
  };
  CHECK(settled(simulate(step(40, 10))) >= 85);
  CHECK(settled(simulate(step(40, 10), {.epochs = false})) < 85);
  CHECK(simulate(four_capacities(), {.epochs = false}).goodput < 85);
}

TEST_CASE("without acceleration the first figure and the rise from 10 to 50 are missed", "[adaptive][control]") {
  CHECK(simulate(four_capacities(), {.acceleration = false}).goodput < 90);
  CHECK(simulate(step(10, 50), {.acceleration = false}).mean([](const run_result& r) {
    return r.until_rate(120, 45);
  }) > 35);
}

TEST_CASE("with what was delivered as the new centre always, a constant 20 is missed", "[adaptive][control]") {
  CHECK(simulate(constant(20), {.midpoint = false}).goodput < 93);
}

TEST_CASE("without a baseline, errors that come at any rate pin the limit down", "[adaptive][control]") {
  scenario s = constant(50);
  s.random_errors = 0.1;
  CHECK(simulate(s).goodput >= 80);
  CHECK(simulate(s, {.baseline = false}).goodput < 30);
}

TEST_CASE("with a baseline learnt from all results, some runs take their own failures for normal",
          "[adaptive][control]") {
  const auto worst_failures = [](const summary& all) {
    return all.worst([](const run_result& r) { return r.failures(); });
  };
  CHECK(worst_failures(simulate(constant(10), {}, 20)) <= 10);
  CHECK(worst_failures(simulate(constant(10), {.calm_baseline = false}, 20)) > 10);
}
