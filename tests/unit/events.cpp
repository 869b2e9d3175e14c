#include <resilience/events.hpp>

#include <catch2/catch.hpp>

using namespace resilience;

TEST_CASE("a consumer hears events until its subscription ends", "[events]") {
  signal<int> numbers;
  int sum = 0;
  CHECK_FALSE(numbers.watched());
  {
    const auto watching = numbers.subscribe([&](int n) { sum += n; });
    CHECK(numbers.watched());
    numbers.publish(3);
  }
  numbers.publish(4);
  CHECK(sum == 3);
  CHECK_FALSE(numbers.watched());
}

TEST_CASE("a consumer that throws is counted and disturbs nobody", "[events]") {
  signal<int> numbers;
  int sum = 0;
  const auto bad = numbers.subscribe([](int) { throw 1; });
  const auto good = numbers.subscribe([&](int n) { sum += n; });
  numbers.publish(3);
  CHECK(sum == 3);
  CHECK(numbers.failures() == 1);
}

TEST_CASE("a consumer may unsubscribe itself, and a subscription may outlive its signal", "[events]") {
  auto numbers = std::make_unique<signal<int>>();
  int heard = 0;
  subscription watching;
  watching = numbers->subscribe([&](int) {
    ++heard;
    watching.reset();
  });
  auto outliving = numbers->subscribe([](int) {});
  numbers->publish(1);
  numbers->publish(2);
  CHECK(heard == 1);
  numbers.reset();
  outliving.reset();
}

TEST_CASE("a ring keeps the last events, oldest first", "[events]") {
  event_ring<int, 4> ring;
  CHECK(ring.recent().empty());
  for (int n = 0; n < 3; ++n) ring.push(n);
  CHECK(ring.recent() == std::vector{0, 1, 2});
  for (int n = 3; n < 10; ++n) ring.push(n);
  CHECK(ring.recent() == std::vector{6, 7, 8, 9});
}

TEST_CASE("threads write and read a ring together without a torn event", "[events]") {
  struct pair {
    std::uint64_t a, b;
  };
  event_ring<pair, 8> ring;
  std::atomic<bool> torn = false;
  std::vector<std::jthread> threads;
  for (std::uint64_t t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (std::uint64_t n = 0; n < 20'000; ++n) ring.push({t << 32 | n, ~(t << 32 | n)});
    });
  }
  threads.emplace_back([&] {
    for (int n = 0; n < 2'000; ++n) {
      for (const pair& p : ring.recent()) {
        if (p.a != ~p.b) torn = true;
      }
    }
  });
  threads.clear();
  CHECK_FALSE(torn);
}
