#include <resilience/circuit_breaker.hpp>

#include <barrier>
#include <catch2/catch.hpp>
#include <random>
#include <thread>
#include <vector>

#include <resilience/testing.hpp>

using namespace resilience;
using namespace std::chrono_literals;

namespace {

using breaker = basic_circuit_breaker<manual_clock>;

/// Runs `work(t)` in so many threads, all let go at once.
template <class Work>
void together(int threads, Work work) {
  std::barrier start(threads);
  std::vector<std::jthread> running;
  for (int t = 0; t < threads; ++t) {
    running.emplace_back([&, t] {
      start.arrive_and_wait();
      work(t);
    });
  }
}

std::vector<sliding_window> windows() { return {calls{10}, calls{100}, calls{5000}, seconds_window{10}}; }

}  // namespace

TEST_CASE("64 threads report failures: one transition, one event, and the record that opened it is the last",
          "[circuit_breaker]") {
  for (const sliding_window window : windows()) {
    for (int round = 0; round < 10; ++round) {
      const int least = window.size();
      breaker b{"stock", {.window = window, .min_calls = least, .open_for = 1h}};
      std::atomic<int> transitions = 0, exceeded = 0, admitted = 0;
      const auto one = b.events().on_transition([&](const breaker_transition& t) {
        transitions += t.from == breaker_state::closed && t.to == breaker_state::open ? 1 : 100;
      });
      const auto two = b.events().on_failure_rate_exceeded([&](const breaker_rate_exceeded& e) {
        if (e.rate == 100) ++exceeded;
      });
      together(64, [&](int) {
        for (int n = 0; n < 100; ++n) {
          if (auto p = b.try_acquire()) {
            ++admitted;
            p->failure();
          }
        }
      });
      CHECK(b.state() == breaker_state::open);
      CHECK(transitions == 1);
      CHECK(exceeded == 1);
      CHECK(b.metrics().calls == least);
      CHECK(b.metrics().failed_calls == least);
      CHECK(b.metrics().not_permitted_calls == 6400 - admitted);
    }
  }
}

TEST_CASE("every outcome is counted, whichever thread reports it", "[circuit_breaker]") {
  constexpr int threads = 8, each = 2'000;
  for (const sliding_window window : {sliding_window{calls{threads * each}}, sliding_window{seconds_window{1000}}}) {
    breaker b{"stock", {.window = window, .initial_state = breaker_state::metrics_only}};
    std::atomic<int> failed = 0, slow = 0, both = 0;
    together(threads, [&](int t) {
      std::minstd_rand dice(static_cast<unsigned>(t) + 1);
      for (int n = 0; n < each; ++n) {
        const bool fails = dice() % 3 == 0, slows = dice() % 4 == 0;
        failed += fails, slow += slows, both += fails && slows;
        auto p = b.try_acquire();
        fails ? p->failure(slows ? 61s : 0s) : p->success(slows ? 61s : 0s);
        if (n % 100 == 0) (void)b.metrics();
      }
    });
    const breaker_metrics m = b.metrics();
    CHECK(m.calls == threads * each);
    CHECK(m.failed_calls == failed);
    CHECK(m.slow_calls == slow);
    CHECK(m.slow_failed_calls == both);
  }
}

TEST_CASE("half-open admits exactly half_open_calls under many threads, however many give theirs back",
          "[circuit_breaker]") {
  for (int round = 0; round < 20; ++round) {
    breaker b{"stock", {.min_calls = 100, .half_open_calls = 7, .initial_state = breaker_state::half_open}};
    std::atomic<int> held = 0;
    std::atomic<bool> too_many = false;
    std::mutex mutex;
    std::vector<breaker::permit> permits;
    together(16, [&](int t) {
      for (int n = 0; n < 50; ++n) {
        auto p = b.try_acquire();
        if (!p) continue;
        if (++held > 7) too_many = true;
        if ((n + t) % 3 == 0) {
          const std::lock_guard lock(mutex);
          permits.push_back(std::move(*p));
        } else {
          --held;  // before it is given back
          if (n % 2) p->ignore();
        }
      }
    });
    while (auto p = b.try_acquire()) permits.push_back(std::move(*p));
    CHECK_FALSE(too_many);
    CHECK(permits.size() == 7);
    CHECK(b.state() == breaker_state::half_open);
    for (auto& p : permits) p.success();
    CHECK(b.state() == breaker_state::closed);
  }
}

TEST_CASE("probes that end together close once", "[circuit_breaker]") {
  for (int round = 0; round < 50; ++round) {
    breaker b{"stock", {.half_open_calls = 8, .initial_state = breaker_state::half_open}};
    std::vector<breaker::permit> permits;
    while (auto p = b.try_acquire()) permits.push_back(std::move(*p));
    REQUIRE(permits.size() == 8);
    std::atomic<int> transitions = 0;
    const auto watching = b.events().on_transition([&](const breaker_transition&) { ++transitions; });
    together(8, [&](int t) { permits[static_cast<std::size_t>(t)].success(); });
    CHECK(b.state() == breaker_state::closed);
    CHECK(transitions == 1);
  }
}

TEST_CASE("transitions form one chain while threads call, reset, configure and let time pass", "[circuit_breaker]") {
  manual_clock clock;
  breaker b{"stock", {.window = calls{10}, .min_calls = 5, .open_for = 5s, .automatic_half_open = true}, clock};
  together(8, [&](int t) {
    std::minstd_rand dice(static_cast<unsigned>(t) + 1);
    const sliding_window sizes[] = {calls{10}, calls{50}, calls{300}, seconds_window{5}};
    for (int n = 0; n < 10'000; ++n) {
      const auto what = dice() % 400;
      if (what == 0) b.reset();
      if (what == 1) b.transition_to(breaker_state::forced_open);
      if (what == 2) b.transition_to(breaker_state::closed);
      if (what == 3) b.configure({.window = sizes[dice() % 4], .min_calls = 5, .half_open_for = 3s});
      if (what == 4) b.transition_to(breaker_state::metrics_only);
      if (what < 40) clock.advance(1s);
      if (what < 60) (void)b.state();
      if (what < 80) {
        const breaker_metrics m = b.metrics();
        if (m.failed_calls > m.calls || m.slow_failed_calls > m.slow_calls || m.calls > 8 * 10'000) std::abort();
      }
      if (auto p = b.try_acquire()) {
        dice() % 2 ? p->failure() : p->success();
      }
    }
  });
  // The ring is written under the lock: what it holds of transitions is in order.
  std::optional<breaker_state> at;
  for (const breaker_event& e : b.events().recent()) {
    if (e.type != breaker_event_type::transition) continue;
    if (at) CHECK(e.from == *at);
    CHECK(e.from != e.to);
    at = e.to;
  }
  b.configure({});
  b.reset();
  for (int n = 0; n < 10; ++n) b.execute([] { return make_error_code(errc::timed_out); });
  CHECK(b.state() == breaker_state::open);
  CHECK(b.metrics().calls == 10);
}
