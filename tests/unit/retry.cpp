#include <resilience/retry.hpp>

#include <catch2/catch.hpp>

#include <atomic>
#include <cstdint>
#include <expected>
#include <limits>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include <resilience/retry_budget.hpp>
#include <resilience/testing.hpp>

using namespace resilience;
using namespace std::chrono_literals;

namespace {

using result = std::expected<int, std::error_code>;

const std::error_code broken = std::make_error_code(std::errc::io_error);
const std::error_code unreachable = std::make_error_code(std::errc::host_unreachable);

result failed(std::error_code e) { return std::unexpected(e); }

/// Gives its answers one after the other and counts the calls.
struct script {
  std::vector<result> answers;
  std::size_t calls = 0;
  result operator()() { return answers.at(calls++); }
};

retry_config quick(int max_attempts) { return {.max_attempts = max_attempts, .interval = fixed{10ms}}; }

exponential plain(std::chrono::nanoseconds initial, double factor, std::chrono::nanoseconds max) {
  return {.initial = initial, .factor = factor, .max = max, .jitter = jitter::none};
}

}  // namespace

TEST_CASE("the defaults are three attempts with full jitter from 50 ms to 1 s", "[retry]") {
  const retry_config c;
  CHECK(c.max_attempts == 3);
  CHECK(c.interval == retry_interval(exponential{.initial = 50ms, .factor = 2, .max = 1s, .jitter = jitter::full}));
  CHECK_FALSE(c.fail_after_max_attempts);
  CHECK(retry_interval(20ms) == retry_interval(fixed{20ms}));
  retry plainly{"stock"};
  CHECK(plainly.name() == "stock");
  CHECK(plainly.config() == c);
}

TEST_CASE("a broken bound is refused by the constructor and by configure", "[retry]") {
  const std::vector<retry_config> broken_ones = {
      {.max_attempts = 0},
      {.interval = fixed{-1ns}},
      {.interval = exponential{.initial = -1ns}},
      {.interval = exponential{.factor = 0.5}},
      {.interval = exponential{.factor = std::numeric_limits<double>::quiet_NaN()}},
      {.interval = exponential{.max = -1ns}},
      {.interval = randomized{.base = -1ns}},
      {.interval = randomized{.base = 1ms, .ratio = 1.5}},
  };
  retry kept{"stock", {.max_attempts = 2}};
  for (const auto& c : broken_ones) {
    CHECK_THROWS_AS(retry("stock", c), std::invalid_argument);
    CHECK_THROWS_AS(kept.configure(c), std::invalid_argument);
  }
  CHECK(kept.config().max_attempts == 2);
  CHECK_THROWS_WITH(retry("stock", {.max_attempts = 0}), "max_attempts must be at least 1, not 0");
}

TEST_CASE("a call that succeeds at once is made once", "[retry]") {
  manual_clock clock;
  const auto began = clock.now();
  basic_retry retry{"stock", quick(3), clock};
  script call{{5}};
  const auto answer = retry.execute(call);
  CHECK(answer.value() == 5);
  CHECK(call.calls == 1);
  CHECK(clock.now() == began);
  CHECK(retry.metrics().successful_without_retry == 1);
  CHECK(retry.events().recent().empty());
}

TEST_CASE("a failed call is repeated after its interval until it succeeds", "[retry]") {
  manual_clock clock;
  const auto began = clock.now();
  basic_retry retry{"stock", quick(3), clock};
  script call{{failed(broken), failed(unreachable), 7}};
  const auto answer = retry.execute(call);
  CHECK(answer.value() == 7);
  CHECK(call.calls == 3);
  CHECK(clock.now() - began == 20ms);
  CHECK(retry.metrics().successful_with_retry == 1);
  CHECK(retry.metrics().successful_without_retry == 0);
}

TEST_CASE("max_attempts counts all calls, and the last result stands unchanged", "[retry]") {
  manual_clock clock;
  for (const int attempts : {1, 2, 3, 5}) {
    basic_retry retry{"stock", quick(attempts), clock};
    script call{{failed(broken), failed(broken), failed(broken), failed(broken), failed(broken), failed(broken)}};
    call.answers.at(static_cast<std::size_t>(attempts) - 1) = failed(unreachable);
    const auto answer = retry.execute(call);
    CHECK(call.calls == static_cast<std::size_t>(attempts));
    CHECK(answer.error() == unreachable);
    CHECK(retry.metrics().failed_without_retry == (attempts == 1 ? 1 : 0));
    CHECK(retry.metrics().failed_with_retry == (attempts == 1 ? 0 : 1));
  }
}

TEST_CASE("exceptions and error codes are failures too, and the last one goes on", "[retry]") {
  manual_clock clock;
  basic_retry retry{"stock", quick(3), clock};
  int calls = 0;
  CHECK_THROWS_WITH(retry.execute([&]() -> int { throw std::runtime_error("attempt " + std::to_string(++calls)); }),
                    "attempt 3");
  calls = 0;
  CHECK(retry.execute([&] { return ++calls < 3 ? broken : std::error_code{}; }) == std::error_code{});
  CHECK(calls == 3);
  calls = 0;
  retry.execute([&] {
    if (++calls < 2) throw std::runtime_error("once");
  });
  CHECK(calls == 2);
  int place = 0;
  CHECK(&retry.execute([&]() -> int& { return place; }) == &place);
}

TEST_CASE("with fail_after_max_attempts a bad result becomes attempts_exhausted, an exception does not", "[retry]") {
  manual_clock clock;
  retry_config config = quick(2);
  config.fail_after_max_attempts = true;
  basic_retry retry{"stock", config, clock};
  CHECK(retry.execute([] { return failed(broken); }).error() == errc::attempts_exhausted);
  CHECK(retry.execute([] { return broken; }) == errc::attempts_exhausted);
  CHECK_THROWS_WITH(retry.execute([]() -> int { throw std::runtime_error("as it was"); }), "as it was");
  // A result without room for a code.
  const auto no_room = [] { return std::expected<int, std::string>(std::unexpect, "bad"); };
  try {
    retry.execute(no_room);
    FAIL("nothing was thrown");
  } catch (const rejected& e) {
    CHECK(e.why().reason == errc::attempts_exhausted);
    CHECK(e.why().policy == "stock");
  }
  // What stops earlier than by its attempts goes on unchanged.
  basic_retry stopping{"stock", config, clock, [](int, const outcome&) { return -1ns; }};
  CHECK(stopping.execute([] { return failed(broken); }).error() == broken);
}

TEST_CASE("our own rejections and cancellations are not repeated", "[retry]") {
  manual_clock clock;
  for (const errc reason : {errc::circuit_open, errc::rate_limited, errc::bulkhead_full}) {
    basic_retry retry{"stock", quick(3), clock};
    script call{{failed(make_error_code(reason)), 1}};
    CHECK(retry.execute(call).error() == reason);
    CHECK(call.calls == 1);
    CHECK(retry.metrics().failed_without_retry == 1);
    int calls = 0;
    CHECK_THROWS_AS(retry.execute([&]() -> int {
      ++calls;
      throw rejected({reason, "inner", 5s});
    }),
                    rejected);
    CHECK(calls == 1);
  }
  for (const std::error_code e :
       {make_error_code(errc::cancelled), std::make_error_code(std::errc::operation_canceled)}) {
    basic_retry retry{"stock", quick(3), clock};
    script call{{failed(broken), failed(e), 1}};
    CHECK(retry.execute(call).error() == e);
    CHECK(call.calls == 2);
    const auto m = retry.metrics();
    CHECK(m.failed_with_retry + m.failed_without_retry + m.successful_with_retry + m.successful_without_retry == 0);
  }
}

TEST_CASE("a timeout was attempted, so it is repeated", "[retry]") {
  manual_clock clock;
  basic_retry retry{"stock", quick(3), clock};
  script call{{failed(make_error_code(errc::timed_out)), 4}};
  CHECK(retry.execute(call).value() == 4);
}

TEST_CASE("a later attempt that is refused ends with the last real error", "[retry]") {
  manual_clock clock;
  basic_retry retry{"stock", quick(5), clock};
  script call{{failed(broken), failed(unreachable), failed(make_error_code(errc::circuit_open)), 1}};
  CHECK(retry.execute(call).error() == unreachable);
  CHECK(call.calls == 3);
  CHECK(retry.metrics().failed_with_retry == 1);

  int calls = 0;
  CHECK_THROWS_WITH(retry.execute([&]() -> int {
    if (++calls == 2) throw rejected({errc::bulkhead_full, "inner", {}});
    throw std::runtime_error("real");
  }),
                    "real");
  CHECK(calls == 2);
  // A value and then a thrown rejection, and the other way round.
  calls = 0;
  const auto mixed = retry.execute([&]() -> result {
    if (++calls == 2) throw rejected({errc::bulkhead_full, "inner", {}});
    return failed(broken);
  });
  CHECK(mixed.error() == broken);
}

TEST_CASE("interval k is initial × factor^(k−1), capped last, and never overflows", "[retry]") {
  const retry_interval interval = plain(100ms, 2, 1s);
  CHECK(detail::back_off(interval, 1, 0) == 100ms);
  CHECK(detail::back_off(interval, 2, 0) == 200ms);
  CHECK(detail::back_off(interval, 4, 0) == 800ms);
  CHECK(detail::back_off(interval, 5, 0) == 1s);
  CHECK(detail::back_off(interval, std::numeric_limits<int>::max(), 0) == 1s);
  CHECK(detail::back_off(plain(1ns, 1e300, std::chrono::nanoseconds::max()), 3, 0) == std::chrono::nanoseconds::max());
  CHECK(detail::back_off(plain(0ns, 1e300, 1s), 5, 0) == 0ns);
  CHECK(detail::back_off(plain(3ns, 1.5, 1s), 2, 0) == 4ns);  // whole nanoseconds
}

TEST_CASE("jitter comes before the cap", "[retry]") {
  const retry_interval interval = exponential{.initial = 100ms, .factor = 2, .max = 1s};
  CHECK(detail::back_off(interval, 1, 0.25) == 25ms);
  // 1.6 s spread first: half of it is below the cap, most of it is not.
  CHECK(detail::back_off(interval, 5, 0.5) == 800ms);
  CHECK(detail::back_off(interval, 5, 0.75) == 1s);
  CHECK(detail::back_off(interval, 5000, 0.0) == 1s);  // 0 × ∞ is the cap, not nonsense
  const retry_interval spread = randomized{.base = 100ms, .ratio = 0.5};
  CHECK(detail::back_off(spread, 1, 0) == 50ms);
  CHECK(detail::back_off(spread, 9, 0.5) == 100ms);
  CHECK(detail::back_off(spread, 1, 1) == 150ms);
}

TEST_CASE("back-off with full jitter fills its range, and the generator can be repeated", "[retry]") {
  manual_clock clock;
  basic_retry retry{"stock", {.max_attempts = 2, .interval = exponential{.initial = 100ms}}, clock};
  const auto waits = [&](std::uint64_t seed) {
    detail::random_state() = seed;
    std::vector<std::chrono::nanoseconds> all;
    for (int i = 0; i < 1000; ++i) {
      const auto before = clock.now();
      retry.execute([] { return broken; });
      all.push_back(clock.now() - before);
    }
    return all;
  };
  const auto first = waits(42);
  CHECK(first == waits(42));
  const auto [low, high] = std::minmax_element(first.begin(), first.end());
  CHECK(*low >= 0ns);
  CHECK(*low < 2ms);
  CHECK(*high > 98ms);
  CHECK(*high < 100ms);
}

TEST_CASE("a function decides the interval from the attempt and its outcome; a negative one stops", "[retry]") {
  manual_clock clock;
  const auto began = clock.now();
  std::vector<int> attempts;
  std::vector<std::error_code> errors;
  basic_retry retry{"stock", quick(10), clock, [&](int attempt, const outcome& o) {
                      attempts.push_back(attempt);
                      errors.push_back(o.error);
                      return attempt == 3 ? -1ms : attempt * 1ms;
                    }};
  script call{{failed(broken), failed(unreachable), failed(broken), 1}};
  CHECK(retry.execute(call).error() == broken);
  CHECK(attempts == std::vector{1, 2, 3});
  CHECK(errors == std::vector{broken, unreachable, broken});
  CHECK(clock.now() - began == 3ms);

  bool has_exception = false;
  basic_retry looking{"stock", quick(2), clock, [&](int, const outcome& o) {
                        has_exception = o.exception != nullptr;
                        return 0ns;
                      }};
  CHECK_THROWS(looking.execute([]() -> int { throw std::runtime_error("x"); }));
  CHECK(has_exception);
}

TEST_CASE("function and budget go in either order", "[retry]") {
  manual_clock clock;
  const auto budget = std::make_shared<basic_retry_budget<manual_clock>>("stock", retry_budget_config{}, clock);
  const auto at_once = [](int, const outcome&) { return 0ns; };
  basic_retry one{"stock", quick(2), clock, at_once, budget};
  basic_retry two{"stock", quick(2), clock, budget, at_once};
  basic_retry three{"stock", quick(2), clock, budget};
  const auto began = clock.now();
  one.execute([] { return broken; });
  two.execute([] { return broken; });
  CHECK(clock.now() == began);
  three.execute([] { return broken; });
  CHECK(clock.now() == began + 10ms);
  CHECK(budget->metrics().first_attempts == 3);
  CHECK(budget->metrics().repetitions == 3);
}

TEST_CASE("without budget left there is no repetition and no wait, and the real error stands", "[retry]") {
  manual_clock clock;
  const auto budget = std::make_shared<basic_retry_budget<manual_clock>>(
      "stock", retry_budget_config{.ratio = percent{0}, .min = {3, 10s}}, clock);
  basic_retry retry{"stock", quick(2), clock, budget};
  for (int i = 0; i < 3; ++i) retry.execute([] { return broken; });
  const auto before = clock.now();
  int calls = 0;
  CHECK(retry
            .execute([&] {
              ++calls;
              return failed(unreachable);
            })
            .error() == unreachable);
  CHECK(calls == 1);
  CHECK(clock.now() == before);
  CHECK(budget->metrics().refused == 1);
}

TEST_CASE("no sleep reaches the deadline: then the last real error is returned", "[retry]") {
  manual_clock clock;
  basic_retry retry{"stock", quick(3), clock};
  for (const auto& [left, calls_made] :
       {std::pair<std::chrono::nanoseconds, int>{20ms, 2}, {20ms + 1ns, 3}, {10ms, 1}}) {
    const this_call::deadline_scope scope(clock.now() + left);
    const auto before = clock.now();
    int calls = 0;
    const auto answer = retry.execute([&]() -> result {
      ++calls;
      return failed(broken);
    });
    CHECK(calls == calls_made);
    CHECK(answer.error() == broken);
    CHECK(clock.now() - before == (calls_made - 1) * 10ms);
  }
}

TEST_CASE("no attempt starts at or past the deadline", "[retry]") {
  manual_clock clock;
  retry_config config = quick(3);
  config.interval = fixed{0ns};
  basic_retry retry{"stock", config, clock};
  for (const auto late : {0ns, 1ns}) {
    const this_call::deadline_scope scope(clock.now() - late);
    int calls = 0;
    CHECK(retry
              .execute([&]() -> result {
                ++calls;
                return 1;
              })
              .error() == errc::deadline_exceeded);
    CHECK(calls == 0);
    CHECK_THROWS_AS(retry.execute([] {}), rejected);
  }
  CHECK(retry.metrics().failed_without_retry == 4);
  // The attempt itself lasts until the deadline.
  const this_call::deadline_scope scope(clock.now() + 1ms);
  int calls = 0;
  CHECK(retry
            .execute([&]() -> result {
              ++calls;
              clock.advance(1ms);
              return failed(broken);
            })
            .error() == broken);
  CHECK(calls == 1);
}

TEST_CASE("each repetition is an event, and the last hundred events are kept", "[retry]") {
  manual_clock clock;
  basic_retry retry{"stock", quick(3), clock};
  std::vector<retry_event> seen;
  auto watching = retry.events().on_retry([&](const retry_event& e) { seen.push_back(e); });
  script call{{failed(broken), failed(unreachable), 1}};
  retry.execute(call);
  REQUIRE(seen.size() == 2);
  CHECK(seen[0].policy == "stock");
  CHECK(seen[0].attempts == 1);
  CHECK(seen[0].wait == 10ms);
  CHECK(seen[0].error == broken);
  CHECK(seen[1].attempts == 2);
  CHECK(seen[1].error == unreachable);
  const auto recent = retry.events().recent();
  REQUIRE(recent.size() == 3);
  CHECK(recent[2].type == retry_event_type::success);
  CHECK(recent[2].attempts == 3);
  watching.reset();
  for (int i = 0; i < 50; ++i) retry.execute([] { return broken; });
  CHECK(seen.size() == 2);
  CHECK(retry.events().recent().size() == 100);
  CHECK(retry.events().recent().back().type == retry_event_type::error);
}

TEST_CASE("new settings hold from the next decision on", "[retry]") {
  manual_clock clock;
  basic_retry retry{"stock", quick(5), clock};
  int calls = 0;
  retry.execute([&] {
    if (++calls == 2) retry.configure(quick(3));
    return broken;
  });
  CHECK(calls == 3);
}

TEST_CASE("step by step: the same decisions, counted once", "[retry]") {
  manual_clock clock;
  basic_retry retry{"stock", quick(3), clock};
  {
    auto attempts = retry.start();
    REQUIRE(attempts.begin());
    CHECK(attempts.made() == 1);
    CHECK(attempts.next({broken, nullptr}) == 10ms);
    REQUIRE(attempts.begin());
    CHECK(attempts.next({broken, nullptr}, 25ms) == 25ms);  // the target asked for more
    REQUIRE(attempts.begin());
    CHECK(attempts.next({broken, nullptr}) == std::nullopt);
    CHECK(attempts.stopped_by() == errc::attempts_exhausted);
    CHECK_FALSE(attempts.begin());
    CHECK(attempts.next({}) == std::nullopt);
  }
  CHECK(retry.metrics().failed_with_retry == 1);
  CHECK(retry.metrics().successful_with_retry == 0);
  {
    auto attempts = retry.start(clock.now() + 5ms);
    REQUIRE(attempts.begin());
    CHECK(attempts.next({broken, nullptr}) == std::nullopt);
    CHECK(attempts.stopped_by() == errc::deadline_exceeded);
  }
  CHECK(retry.metrics().failed_without_retry == 1);
  {
    auto attempts = retry.start(clock.now() + 15ms);
    REQUIRE(attempts.begin());
    REQUIRE(attempts.next({broken, nullptr}) == 10ms);
    clock.advance(15ms);  // the wait took longer than it should
    CHECK_FALSE(attempts.begin());
    CHECK(attempts.stopped_by() == errc::deadline_exceeded);
  }
  {
    auto attempts = retry.start();
    REQUIRE(attempts.begin());
    auto moved = std::move(attempts);
    moved.finish({broken, nullptr});  // of a kind that must not be repeated
  }
  CHECK(retry.metrics().failed_without_retry == 3);
  {
    auto abandoned = retry.start();
    REQUIRE(abandoned.begin());
  }
  const auto m = retry.metrics();
  CHECK(m.failed_with_retry + m.failed_without_retry + m.successful_with_retry + m.successful_without_retry == 4);
}

TEST_CASE("many threads share a retry and its budget", "[retry]") {
  const auto budget =
      std::make_shared<retry_budget>("stock", retry_budget_config{.ratio = percent{50}, .min = {1, 10s}});
  retry shared{"stock", {.max_attempts = 2, .interval = fixed{0ns}}, {}, budget};
  constexpr int threads = 4;
  constexpr int each = 500;
  std::atomic<int> calls = 0;
  {
    std::vector<std::jthread> all;
    for (int t = 0; t < threads; ++t) {
      all.emplace_back([&] {
        for (int i = 0; i < each; ++i) {
          shared.execute([&] {
            ++calls;
            return broken;
          });
        }
      });
    }
  }
  const auto m = shared.metrics();
  CHECK(m.failed_with_retry + m.failed_without_retry == threads * each);
  CHECK(calls == threads * each + m.failed_with_retry);
  CHECK(m.failed_with_retry <= threads * each / 2);
  CHECK(m.failed_with_retry > 0);
}
