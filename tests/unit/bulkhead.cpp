#include <resilience/bulkhead.hpp>

#include <resilience/testing.hpp>

#include <catch2/catch.hpp>
#include <condition_variable>

using namespace resilience;
using namespace std::chrono_literals;
using compartment = basic_bulkhead<manual_clock>;

namespace {

/// Writes down what it is granted.
struct note final : compartment::waiter {
  std::optional<compartment::permit> held;
  std::function<void()> then = [] {};
  void granted(compartment::permit p) noexcept override {
    held = std::move(p);
    then();
  }
};

}  // namespace

TEST_CASE("a bulkhead admits so many calls at a time and no more", "[bulkhead]") {
  compartment calls_out{"stock", {.max_concurrent = 2}};
  auto a = calls_out.try_acquire();
  auto b = calls_out.try_acquire();
  REQUIRE(b.has_value());
  const auto c = calls_out.try_acquire();
  REQUIRE_FALSE(c.has_value());
  CHECK(c.error() == rejection{errc::bulkhead_full, "stock", 0ns});
  a->success();
  CHECK(calls_out.try_acquire().has_value());
}

TEST_CASE("a permit gives its place back once, by its first verdict or its end", "[bulkhead]") {
  compartment calls_out{"stock", {.max_concurrent = 3}};
  {
    auto a = calls_out.try_acquire();
    auto b = std::move(*a);
    CHECK(calls_out.metrics().in_use == 1);
    a->success();  // moved from: nothing
    CHECK(calls_out.metrics().in_use == 1);
    b.failure();
    b.success();
    b.ignore();
    CHECK(calls_out.metrics().in_use == 0);
    auto c = calls_out.try_acquire();
    auto d = calls_out.try_acquire();
    *c = std::move(*d);
    CHECK(calls_out.metrics().in_use == 1);
  }
  CHECK(calls_out.metrics().in_use == 0);
  CHECK(calls_out.metrics().available == 3);
}

TEST_CASE("a bulkhead of none refuses all, also those who would wait", "[bulkhead]") {
  manual_clock clock;
  compartment calls_out{"stock", {.max_concurrent = 0, .max_wait = 1s}, clock};
  CHECK_FALSE(calls_out.try_acquire().has_value());
  const time_point before = clock.now();
  CHECK_FALSE(calls_out.acquire(before + 1s).has_value());
  CHECK(clock.now() == before);
  CHECK(calls_out.execute([] { return std::error_code{}; }) == errc::bulkhead_full);
}

TEST_CASE("shrinking leaves running calls alone, growing lets waiters in, neither blocks", "[bulkhead]") {
  compartment calls_out{"stock", {.max_concurrent = 3}};
  auto a = calls_out.try_acquire();
  auto b = calls_out.try_acquire();
  auto c = calls_out.try_acquire();
  calls_out.set_max_concurrent(1);
  CHECK(calls_out.metrics().in_use == 3);
  CHECK(calls_out.metrics().available == 0);
  a->success();
  b->success();
  CHECK_FALSE(calls_out.try_acquire().has_value());
  note first, second;
  CHECK_FALSE(calls_out.enqueue(first).has_value());
  CHECK_FALSE(calls_out.enqueue(second).has_value());
  calls_out.configure({.max_concurrent = 3, .max_wait = 5s});
  CHECK(first.held.has_value());
  CHECK(second.held.has_value());
  CHECK(calls_out.config() == bulkhead_config{.max_concurrent = 3, .max_wait = 5s});
  CHECK_FALSE(calls_out.withdraw(first));
  CHECK_FALSE(calls_out.withdraw(second));
  CHECK_THROWS_AS(calls_out.set_max_concurrent(-1), std::invalid_argument);
}

TEST_CASE("waiters are served first come, first served, and nobody overtakes", "[bulkhead]") {
  compartment calls_out{"stock", {.max_concurrent = 1}};
  auto running = calls_out.try_acquire();
  note first, second, third;
  for (note* waiter : {&first, &second, &third}) CHECK_FALSE(calls_out.enqueue(*waiter).has_value());
  CHECK(calls_out.metrics().waiting == 3);
  CHECK(calls_out.withdraw(second));
  running->success();
  CHECK(first.held.has_value());
  CHECK_FALSE(third.held.has_value());
  CHECK_FALSE(calls_out.try_acquire().has_value());
  first.held.reset();
  CHECK(third.held.has_value());
  CHECK_FALSE(second.held.has_value());
  CHECK_FALSE(calls_out.withdraw(first));
  CHECK_FALSE(calls_out.withdraw(third));
  CHECK(calls_out.metrics().waiting == 0);
  third.held.reset();
  CHECK(calls_out.metrics().in_use == 0);
}

TEST_CASE("a waiter may give its place back, withdraw and end inside its own grant", "[bulkhead]") {
  compartment calls_out{"stock", {.max_concurrent = 1}};
  auto running = calls_out.try_acquire();
  auto fleeting = std::make_unique<note>();
  note next;
  fleeting->then = [&] {
    auto held = std::move(fleeting->held);
    CHECK_FALSE(calls_out.withdraw(*fleeting));
  };
  CHECK_FALSE(calls_out.enqueue(*fleeting).has_value());
  CHECK_FALSE(calls_out.enqueue(next).has_value());
  running->success();
  CHECK(next.held.has_value());
  CHECK_FALSE(calls_out.withdraw(next));
}

TEST_CASE("a waiter that gives up as a place comes free loses nothing", "[bulkhead]") {
  compartment calls_out{"stock", {.max_concurrent = 1}};
  for (int round = 0; round < 500; ++round) {
    auto running = calls_out.try_acquire();
    REQUIRE(running.has_value());
    note waiter;
    REQUIRE_FALSE(calls_out.enqueue(waiter).has_value());
    bool withdrawn = false;
    std::atomic<int> ready = 0;
    const auto meet = [&] {
      ++ready;
      while (ready < 2) std::this_thread::yield();
    };
    {
      std::jthread giving([&] {
        meet();
        running->success();
      });
      std::jthread leaving([&] {
        meet();
        withdrawn = calls_out.withdraw(waiter);
        CHECK(withdrawn != waiter.held.has_value());
      });
    }
    waiter.held.reset();
    REQUIRE(calls_out.metrics().in_use == 0);
    REQUIRE(calls_out.metrics().waiting == 0);
  }
}

TEST_CASE("by a manual clock a wait in vain ends at its deadline", "[bulkhead]") {
  manual_clock clock;
  compartment calls_out{"stock", {.max_concurrent = 1, .max_wait = 300ms}, clock};
  auto running = calls_out.try_acquire();
  const time_point before = clock.now();
  CHECK_FALSE(calls_out.acquire(before + 2s).has_value());
  CHECK(clock.now() == before + 2s);
  CHECK(calls_out.execute([] { return std::error_code{}; }) == errc::bulkhead_full);
  CHECK(clock.now() == before + 2s + 300ms);
  const this_call::deadline_scope until(clock.now() + 100ms);
  CHECK(calls_out.execute([] { return std::error_code{}; }) == errc::bulkhead_full);
  CHECK(clock.now() == before + 2s + 400ms);
  CHECK_FALSE(calls_out.acquire(clock.now()).has_value());
  CHECK(calls_out.metrics().waiting == 0);
  running->success();
  CHECK(calls_out.acquire(clock.now()).has_value());
}

TEST_CASE("a thread that waits gets the place another gives back", "[bulkhead]") {
  bulkhead calls_out{"stock", {.max_concurrent = 1}};
  std::optional running = calls_out.try_acquire().value();
  bool admitted = false;
  std::jthread waiting([&] { admitted = calls_out.acquire(time_point::max()).has_value(); });
  while (calls_out.metrics().waiting == 0) std::this_thread::yield();
  running.reset();
  waiting.join();
  CHECK(admitted);
  CHECK(calls_out.metrics().in_use == 0);
  CHECK(calls_out.metrics().waited > 0ns);

  running = calls_out.try_acquire().value();
  CHECK_FALSE(calls_out.acquire(std::chrono::steady_clock::now() + 5ms).has_value());
}

TEST_CASE("execute gives the place back however the call ends", "[bulkhead]") {
  compartment calls_out{"stock", {.max_concurrent = 1}};
  CHECK(calls_out.execute([] { return 3; }) == 3);
  CHECK_THROWS_AS(calls_out.execute([]() -> int { throw std::runtime_error("x"); }), std::runtime_error);
  CHECK(calls_out.execute([] { return make_error_code(std::errc::timed_out); }) == std::errc::timed_out);
  calls_out.execute([&] {
    CHECK(calls_out.metrics().in_use == 1);
    CHECK_THROWS_AS(calls_out.execute([] {}), rejected);
  });
  CHECK(calls_out.metrics().in_use == 0);
}

TEST_CASE("a bulkhead tells of permits, rejections and ends, and counts them", "[bulkhead]") {
  manual_clock clock;
  compartment calls_out{"stock", {.max_concurrent = 1}, clock};
  std::string heard;
  const auto a = calls_out.events().on_permitted([&](const auto&) { heard += "p"; });
  const auto b = calls_out.events().on_rejected([&](const auto& e) { heard += e.policy; });
  const auto c = calls_out.events().on_finished([&](const auto&) {
    heard += "f";
    CHECK(calls_out.metrics().in_use == 0);
  });
  calls_out.execute([&] { (void)calls_out.try_acquire(); });
  {
    const auto abandoned = calls_out.try_acquire();
  }
  CHECK(calls_out.execute([] { return make_error_code(errc::cancelled); }) == errc::cancelled);
  CHECK(heard == "pstockfpp");
  const auto recent = calls_out.events().recent();
  REQUIRE(recent.size() == 5);
  CHECK(recent[1].type == bulkhead_event_type::rejected);
  CHECK(recent[2].type == bulkhead_event_type::finished);
  CHECK(recent[2].at == clock.now());
  CHECK(calls_out.metrics().permitted == 3);
  CHECK(calls_out.metrics().rejected == 1);
}

TEST_CASE("a bulkhead refuses a configuration out of bounds, with field and value", "[bulkhead]") {
  using Catch::Matchers::Contains;
  CHECK_THROWS_WITH(compartment("x", {.max_concurrent = -1}), Contains("max_concurrent") && Contains("not -1"));
  CHECK_THROWS_WITH(compartment("x", {.max_wait = -1ns}), Contains("max_wait") && Contains("not -1ns"));
}

TEST_CASE("64 threads that take, wait, resize and give up never exceed the most, and leave nothing behind",
          "[bulkhead]") {
  bulkhead calls_out{"stock", {.max_concurrent = 5}};
  std::atomic<int> running = 0;
  std::atomic<int> worst = 0;
  std::atomic<int> admitted = 0;
  std::vector<std::jthread> threads;
  for (int t = 0; t < 64; ++t) {
    threads.emplace_back([&, t] {
      for (int n = 0; n < 60; ++n) {
        const auto until = std::chrono::steady_clock::now() + (n % 3 == 0 ? 50us : 10s);
        auto held = t % 4 == 0 ? calls_out.try_acquire() : calls_out.acquire(until);
        if (!held) continue;
        const int now = ++running;
        ++admitted;
        for (int seen = worst; now > seen && !worst.compare_exchange_weak(seen, now);) {
        }
        if (n % 7 == 0) std::this_thread::yield();
        --running;
        if (n % 2 == 0) held->success();
      }
    });
  }
  threads.emplace_back([&] {
    for (int n = 0; n < 300; ++n) {
      calls_out.set_max_concurrent(n % 2 == 0 ? 3 : 5);
      std::this_thread::yield();
    }
    calls_out.set_max_concurrent(5);
  });
  threads.clear();
  CHECK(worst <= 5);
  CHECK(admitted > 0);
  CHECK(calls_out.metrics().in_use == 0);
  CHECK(calls_out.metrics().waiting == 0);
  CHECK(calls_out.metrics().permitted == static_cast<std::uint64_t>(admitted));
  std::vector<bulkhead::permit> all;
  for (int n = 0; n < 5; ++n) all.push_back(calls_out.try_acquire().value());
  CHECK_FALSE(calls_out.try_acquire().has_value());
}
