#include "sidecar/proxy/timer_wheel.hpp"

#include <catch2/catch.hpp>
#include <functional>
#include <memory>
#include <random>
#include <vector>

using namespace sidecar;
using namespace std::chrono_literals;

namespace {

struct bell : timer_wheel::entry {
  std::function<void(bell&)> then;
  int fired = 0;
  time_point at{};
  const time_point* now = nullptr;
  void on_timeout() override {
    ++fired;
    if (now) at = *now;
    if (then) then(*this);
  }
};

}  // namespace

TEST_CASE("a timer fires once, never early and at most a tick late", "[timer_wheel]") {
  time_point now{1h};
  timer_wheel wheel{now};
  bell a;
  wheel.set(a, now + 10ms);
  wheel.advance(now += 9ms);
  CHECK(a.fired == 0);
  wheel.advance(now += 1ms + timer_wheel::tick);
  CHECK(a.fired == 1);
  wheel.advance(now += 1h);
  CHECK(a.fired == 1);
  CHECK_FALSE(a.armed());
}

TEST_CASE("a timer moves both ways and can be cancelled", "[timer_wheel]") {
  time_point now{1h};
  timer_wheel wheel{now};
  bell later, sooner, off;
  wheel.set(later, now + 10ms);
  wheel.set(later, now + 100ms);
  wheel.set(sooner, now + 10s);
  wheel.set(sooner, now + 20ms);
  wheel.set(off, now + 20ms);
  wheel.cancel(off);
  wheel.advance(now += 40ms);
  CHECK(later.fired == 0);
  CHECK(sooner.fired == 1);
  wheel.advance(now += 100ms);
  CHECK(later.fired == 1);
  CHECK(off.fired == 0);
}

TEST_CASE("timers of more than a turn go round again", "[timer_wheel]") {
  time_point now{1h};
  timer_wheel wheel{now};
  bell a;
  wheel.set(a, now + 60s);
  for (int i = 0; i < 599; ++i) wheel.advance(now += 100ms);
  CHECK(a.fired == 0);
  wheel.advance(now += 110ms);
  CHECK(a.fired == 1);
}

TEST_CASE("an entry may destroy itself, set itself again, and die armed", "[timer_wheel]") {
  time_point now{1h};
  timer_wheel wheel{now};
  auto* const gone = new bell;
  gone->then = [](bell& self) { delete &self; };
  bell again;
  again.then = [&](bell& self) { wheel.set(self, now + 1ms); };
  wheel.set(*gone, now + 5ms);
  wheel.set(again, now + 5ms);
  {
    auto dead = std::make_unique<bell>();
    wheel.set(*dead, now + 5ms);
  }
  for (int i = 0; i < 10; ++i) wheel.advance(now += 10ms);
  CHECK(again.fired == 10);
}

TEST_CASE("random timers all fire in their time, and the wheel says when to look", "[timer_wheel]") {
  const auto seed = std::random_device{}();
  CAPTURE(seed);
  std::mt19937 random(seed);
  time_point now{1h};
  timer_wheel wheel{now};
  std::vector<std::unique_ptr<bell>> bells;
  std::vector<time_point> due;
  for (int i = 0; i < 500; ++i) {
    bells.push_back(std::make_unique<bell>());
    bells.back()->now = &now;
    wheel.set(*bells.back(), now + std::chrono::microseconds(random() % 40'000'000));
    due.push_back(now + std::chrono::microseconds(random() % 40'000'000));
    wheel.set(*bells.back(), due.back());
  }
  while (const auto next = wheel.next()) {
    now = std::max(now, *next);
    wheel.advance(now);
  }
  for (std::size_t i = 0; i < bells.size(); ++i) {
    CAPTURE(i);
    REQUIRE(bells[i]->fired == 1);
    CHECK(bells[i]->at >= due[i]);
    CHECK(bells[i]->at <= due[i] + timer_wheel::tick);
  }
}
