#include <resilience/circuit_breaker.hpp>

#include <catch2/catch.hpp>
#include <stdexcept>
#include <string>
#include <vector>

#include <resilience/testing.hpp>

using namespace resilience;
using namespace std::chrono_literals;

namespace {

using breaker = basic_circuit_breaker<manual_clock>;
using state = breaker_state;

/// Calls once and reports: F failed, S succeeded, I ignored, A abandoned; lower case s and f are slow.
bool call(breaker& b, char what, std::chrono::nanoseconds slow = 61s) {
  auto p = b.try_acquire();
  if (!p.has_value()) return false;
  switch (what) {
    case 'F':
      p->failure();
      break;
    case 'S':
      p->success();
      break;
    case 'f':
      p->failure(slow);
      break;
    case 's':
      p->success(slow);
      break;
    case 'I':
      p->ignore();
      break;
    default:
      break;
  }
  return true;
}

void calls_of(breaker& b, std::string_view what) {
  for (const char c : what) call(b, c);
}

/// Writes down what a breaker tells.
struct journal {
  explicit journal(breaker& b) {
    held.push_back(b.events().on_transition([this](const breaker_transition& t) {
      told.push_back(std::string(to_string(t.from)) + ">" + std::string(to_string(t.to)));
      policy = t.policy;
      last = t.at;
    }));
    held.push_back(b.events().on_failure_rate_exceeded([this](const breaker_rate_exceeded& e) {
      told.push_back("failures");
      rate = e.rate;
    }));
    held.push_back(b.events().on_slow_call_rate_exceeded([this](const breaker_rate_exceeded& e) {
      told.push_back("slow");
      rate = e.rate;
    }));
    held.push_back(b.events().on_not_permitted([this](const breaker_not_permitted&) { told.push_back("refused"); }));
    held.push_back(b.events().on_reset([this](const breaker_reset&) { told.push_back("reset"); }));
  }
  std::vector<std::string> take() { return std::exchange(told, {}); }

  std::vector<std::string> told;
  std::string policy;
  double rate = 0;
  time_point last{};
  std::vector<subscription> held;
};
using lines = std::vector<std::string>;

constexpr circuit_breaker_config four{.window = calls{4}, .min_calls = 4};

}  // namespace

TEST_CASE("the defaults are those documented", "[circuit_breaker]") {
  constexpr circuit_breaker_config c;
  CHECK(c.failure_rate == percent{50});
  CHECK(c.slow_call_rate == percent{100});
  CHECK(c.slow_call == 60s);
  CHECK(c.window == sliding_window{calls{10}});
  CHECK(c.min_calls == 10);
  CHECK(c.open_for == 5s);
  CHECK(c.half_open_calls == 3);
  CHECK(c.half_open_for == 0s);
  CHECK_FALSE(c.automatic_half_open);
  CHECK(c.initial_state == state::closed);
}

TEST_CASE("a bound broken is named with field, value and bounds", "[circuit_breaker]") {
  const auto broken = [](const circuit_breaker_config& c) -> std::string {
    const auto e = check(c);
    try {
      circuit_breaker b{"stock", c};
    } catch (const std::invalid_argument& thrown) {
      CHECK(e.has_value());
      CHECK(e->message() == thrown.what());
      return std::string(e->field);
    }
    CHECK_FALSE(e.has_value());
    return "";
  };
  CHECK(broken({.failure_rate = percent{0}}) == "failure_rate");
  CHECK(broken({.failure_rate = percent{0.001}}) == "");
  CHECK(broken({.failure_rate = percent{100}}) == "");
  CHECK(broken({.failure_rate = percent{100.001}}) == "failure_rate");
  CHECK(broken({.failure_rate = percent{std::nan("")}}) == "failure_rate");
  CHECK(broken({.slow_call_rate = percent{0}}) == "slow_call_rate");
  CHECK(broken({.slow_call_rate = percent{100.1}}) == "slow_call_rate");
  CHECK(broken({.slow_call = 0ns}) == "slow_call");
  CHECK(broken({.slow_call = 1ns}) == "");
  CHECK(broken({.window = calls{0}}) == "window");
  CHECK(broken({.window = calls{-1}}) == "window");
  CHECK(broken({.window = calls{1}}) == "");
  CHECK(broken({.window = calls{131'072}}) == "");
  CHECK(broken({.window = calls{131'073}}) == "window");
  CHECK(broken({.window = seconds_window{0}}) == "window");
  CHECK(broken({.window = seconds_window{1}}) == "");
  CHECK(broken({.min_calls = 0}) == "min_calls");
  CHECK(broken({.min_calls = 1}) == "");
  CHECK(broken({.open_for = 0ns}) == "open_for");
  CHECK(broken({.open_for = 1ns}) == "");
  CHECK(broken({.open_for = exponential{.initial = 0ns}}) == "open_for");
  CHECK(broken({.open_for = exponential{.factor = 0.5}}) == "open_for");
  CHECK(broken({.open_for = exponential{.initial = 2s, .max = 1s}}) == "open_for");
  CHECK(broken({.half_open_calls = 0}) == "half_open_calls");
  CHECK(broken({.half_open_calls = 1}) == "");
  CHECK(broken({.half_open_for = -1ns}) == "half_open_for");
  CHECK(broken({.half_open_for = 0ns}) == "");
  CHECK(broken({.initial_state = static_cast<state>(6)}) == "initial_state");
  CHECK(check(circuit_breaker_config{.failure_rate = percent{0}})->message() ==
        "failure_rate must be more than 0 and at most 100, not 0");

  breaker b{"stock"};
  CHECK_THROWS_AS(b.configure({.min_calls = 0}), std::invalid_argument);
  CHECK(b.config().min_calls == 10);
}

TEST_CASE("the tenth call decides: four failures and five successes leave it closed, one more failure opens it",
          "[circuit_breaker]") {
  breaker b{"stock"};
  calls_of(b, "FFFFSSSSS");
  CHECK(b.state() == state::closed);
  CHECK(b.metrics().failure_rate == -1);
  CHECK(b.metrics().slow_call_rate == -1);
  CHECK(b.metrics().calls == 9);
  call(b, 'F');
  CHECK(b.state() == state::open);
  CHECK(b.metrics().failure_rate == 50);
  CHECK(b.metrics().slow_call_rate == 0);
  CHECK(b.metrics().failed_calls == 5);
}

TEST_CASE("below the threshold it stays closed", "[circuit_breaker]") {
  breaker b{"stock"};
  calls_of(b, "FFFFSSSSSS");
  CHECK(b.state() == state::closed);
  CHECK(b.metrics().failure_rate == 40);
  calls_of(b, "FFFF");  // pushes the first four out
  CHECK(b.state() == state::closed);
  CHECK(b.metrics().failed_calls == 4);
}

TEST_CASE("a success can be the call that opens it", "[circuit_breaker]") {
  breaker b{"stock"};
  calls_of(b, "FFFFFFFFF");
  CHECK(b.state() == state::closed);
  call(b, 'S');
  CHECK(b.state() == state::open);
  CHECK(b.metrics().failure_rate == 90);
}

TEST_CASE("a window of calls caps min_calls to its size", "[circuit_breaker]") {
  breaker b{"stock", {.window = calls{4}, .min_calls = 100}};
  calls_of(b, "FFF");
  CHECK(b.state() == state::closed);
  call(b, 'F');
  CHECK(b.state() == state::open);
}

TEST_CASE("min_calls below the window's size decides early", "[circuit_breaker]") {
  const int size = GENERATE(10, 100);
  breaker b{"stock", {.window = calls{size}, .min_calls = 3}};
  calls_of(b, "FF");
  CHECK(b.state() == state::closed);
  CHECK(b.metrics().failure_rate == -1);
  call(b, 'S');
  CHECK(b.state() == state::open);
  CHECK(b.metrics().failure_rate == Approx(100.0 * 2 / 3));
}

TEST_CASE("the threshold is met exactly, whatever the size and the decimals", "[circuit_breaker]") {
  const int size = GENERATE(3, 7, 10, 20, 21, 30, 100, 1000);
  for (int failures = 1; failures <= size; failures += 1 + size / 50) {
    CAPTURE(size, failures);
    breaker b{"stock", {.failure_rate = percent{100.0 * failures / size}, .window = calls{size}, .min_calls = size}};
    for (int n = 0; n < failures - 1; ++n) call(b, 'F');
    for (int n = 0; n < size - failures + 1; ++n) call(b, 'S');
    CHECK(b.state() == state::closed);
    b.reset();
    for (int n = 0; n < failures; ++n) call(b, 'F');
    for (int n = 0; n < size - failures; ++n) call(b, 'S');
    CHECK(b.state() == state::open);
  }
}

TEST_CASE("a window of seconds neither caps min_calls nor waits for its span", "[circuit_breaker]") {
  manual_clock clock;
  breaker b{"stock", {.window = seconds_window{5}, .min_calls = 8}, clock};
  calls_of(b, "FFFFFFF");
  CHECK(b.state() == state::closed);
  CHECK(b.metrics().failure_rate == -1);
  call(b, 'F');
  CHECK(b.state() == state::open);
  CHECK(b.metrics().calls == 8);
}

TEST_CASE("a window of N seconds counts ages up to N - 1 s and none from N s on", "[circuit_breaker]") {
  const auto phase = GENERATE(0ns, 1ns, 250ms, 500ms, 999ms, 1s - 1ns);
  const int n = GENERATE(1, 2, 10);
  manual_clock clock;
  clock.advance(phase);
  breaker b{"stock", {.window = seconds_window{n}, .min_calls = 100}, clock};
  auto p = b.try_acquire();
  clock.advance(700ms);  // the age is that of the verdict
  p->failure();
  clock.advance(std::chrono::seconds{n - 1});
  CHECK(b.metrics().calls == 1);
  CHECK(b.metrics().failed_calls == 1);
  clock.advance(1s);
  CHECK(b.metrics().calls == 0);  // with no traffic
  CHECK(b.metrics().failed_calls == 0);
  clock.advance(1h);
  CHECK(b.metrics().calls == 0);
}

TEST_CASE("a window of seconds slides", "[circuit_breaker]") {
  manual_clock clock;
  breaker b{"stock", {.window = seconds_window{3}, .min_calls = 2}, clock};
  calls_of(b, "SSSS");
  clock.advance(1s);
  call(b, 'f');
  clock.advance(1s);
  CHECK(b.metrics().failure_rate == 20);
  CHECK(b.metrics().slow_failed_calls == 1);
  clock.advance(1s);  // the successes are too old
  CHECK(b.metrics().calls == 1);
  CHECK(b.metrics().failure_rate == -1);
  call(b, 'F');
  CHECK(b.state() == state::open);
  CHECK(b.metrics().failure_rate == 100);
}

TEST_CASE("slow is strictly longer than slow_call, and counts whatever came of the call", "[circuit_breaker]") {
  manual_clock clock;
  breaker b{"stock", {.slow_call_rate = percent{75}, .slow_call = 2s, .window = calls{4}, .min_calls = 4}, clock};
  const auto lasting = [&](std::chrono::nanoseconds d, bool fail) {
    auto p = b.try_acquire();
    clock.advance(d);
    fail ? p->failure() : p->success();
  };
  lasting(2s, false);
  CHECK(b.metrics().slow_calls == 0);
  lasting(2s + 1ns, false);
  lasting(3s, true);
  CHECK(b.metrics().slow_calls == 2);
  CHECK(b.metrics().slow_failed_calls == 1);
  CHECK(b.metrics().failed_calls == 1);
  lasting(0s, false);
  CHECK(b.state() == state::closed);
  CHECK(b.metrics().slow_call_rate == 50);
  lasting(5s, false);  // takes the place of one that was not slow
  CHECK(b.state() == state::open);
  CHECK(b.metrics().slow_call_rate == 75);
  CHECK(b.metrics().failure_rate == 25);
}

TEST_CASE("a duration given is the one that counts", "[circuit_breaker]") {
  manual_clock clock;
  breaker b{"stock", four, clock};
  auto p = b.try_acquire();
  clock.advance(61s);
  p->success(1s);
  CHECK(b.metrics().slow_calls == 0);
  auto q = b.try_acquire();
  q->failure(61s);
  CHECK(b.metrics().slow_failed_calls == 1);
}

namespace {
struct counting_clock {
  static inline int reads = 0;
  static time_point now() noexcept {
    ++reads;
    return time_point{} + std::chrono::hours{1};
  }
};
}  // namespace

TEST_CASE("with slow calls switched off the closed path reads no clock, unless somebody watches calls",
          "[circuit_breaker]") {
  const int size = GENERATE(10, 100);
  basic_circuit_breaker<counting_clock> b{"stock",
                                          {.slow_call = std::chrono::nanoseconds::max(), .window = calls{size}}};
  counting_clock::reads = 0;
  for (int n = 0; n < 300; ++n) b.execute([&] { return n % 3 ? std::error_code{} : make_error_code(errc::timed_out); });
  CHECK(counting_clock::reads == 0);
  const auto watching = b.events().on_call([](const breaker_call&) {});
  b.execute([] {});
  CHECK(counting_clock::reads == 2);
}

TEST_CASE("open refuses until exactly open_for has passed, and says how long that is", "[circuit_breaker]") {
  manual_clock clock;
  breaker b{"stock", {.window = calls{4}, .min_calls = 4, .open_for = 5s}, clock};
  calls_of(b, "FFFF");
  auto refused = b.try_acquire();
  REQUIRE_FALSE(refused.has_value());
  CHECK(refused.error() == rejection{errc::circuit_open, "stock", 5s});
  CHECK(std::error_code(refused.error()) == condition::not_attempted);
  clock.advance(5s - 1ns);
  refused = b.try_acquire();
  REQUIRE_FALSE(refused.has_value());
  CHECK(refused.error().retry_after == 1ns);
  clock.advance(1ns);
  CHECK(b.state() == state::open);  // it changes when somebody asks
  const auto probe = b.try_acquire();
  CHECK(probe.has_value());
  CHECK(b.state() == state::half_open);
}

TEST_CASE("open_for may grow with the openings since last closed", "[circuit_breaker]") {
  manual_clock clock;
  breaker b{"stock",
            {.window = calls{1},
             .min_calls = 1,
             .open_for = exponential{.initial = 1s, .factor = 3, .max = 5s},
             .half_open_calls = 1},
            clock};
  const auto wait = [&] { return b.try_acquire().error().retry_after; };
  call(b, 'F');
  CHECK(wait() == 1s);
  clock.advance(1s);
  call(b, 'F');
  CHECK(wait() == 3s);
  clock.advance(3s);
  call(b, 'F');
  CHECK(wait() == 5s);
  b.transition_to(state::open);
  CHECK(wait() == 5s);  // the same opening
  clock.advance(5s);
  call(b, 'S');
  CHECK(b.state() == state::closed);
  call(b, 'F');
  CHECK(wait() == 1s);
}

TEST_CASE("half-open admits half_open_calls, and a verdict does not make room for another", "[circuit_breaker]") {
  breaker b{"stock", {.min_calls = 10, .half_open_calls = 3, .initial_state = state::half_open}};
  auto one = b.try_acquire();
  auto two = b.try_acquire();
  one->success();
  auto three = b.try_acquire();
  REQUIRE(three.has_value());
  const auto four_ = b.try_acquire();
  REQUIRE_FALSE(four_.has_value());
  CHECK(four_.error() == rejection{errc::circuit_open, "stock", 0s});
  CHECK(b.metrics().not_permitted_calls == 1);
  CHECK(b.metrics().calls == 1);
  two->success();
  CHECK(b.metrics().failure_rate == -1);
  CHECK(b.state() == state::half_open);
  three->success();
  CHECK(b.state() == state::closed);
  CHECK(b.metrics().calls == 0);
}

TEST_CASE("an ignored or abandoned probe gives its place back and records nothing", "[circuit_breaker]") {
  breaker b{"stock", {.half_open_calls = 1, .initial_state = state::half_open}};
  for (int n = 0; n < 5; ++n) {
    CHECK(call(b, 'I'));
    CHECK(call(b, 'A'));
  }
  CHECK(b.metrics().calls == 0);
  {
    auto held = b.try_acquire();
    CHECK_FALSE(b.try_acquire().has_value());
    auto moved = std::move(*held);
    CHECK_FALSE(b.try_acquire().has_value());
    held->success();  // moved from: says nothing
    CHECK(b.state() == state::half_open);
  }
  CHECK(call(b, 'S'));
  CHECK(b.state() == state::closed);
}

TEST_CASE("half-open decides after the smaller of min_calls and half_open_calls", "[circuit_breaker]") {
  const auto opened_by = [](circuit_breaker_config c, std::string_view probes) {
    c.initial_state = state::half_open;
    c.window = calls{10};
    breaker b{"stock", c};
    calls_of(b, probes.substr(0, probes.size() - 1));
    CHECK(b.state() == state::half_open);
    call(b, probes.back());
    return b.state();
  };
  CHECK(opened_by({.min_calls = 2, .half_open_calls = 5}, "SS") == state::closed);
  CHECK(opened_by({.min_calls = 2, .half_open_calls = 5}, "SF") == state::open);
  CHECK(opened_by({.min_calls = 10, .half_open_calls = 4}, "FSSS") == state::closed);
  CHECK(opened_by({.min_calls = 10, .half_open_calls = 4}, "FFSS") == state::open);
  CHECK(opened_by({.slow_call_rate = percent{50}, .half_open_calls = 4}, "sSsS") == state::open);
  CHECK(opened_by({.slow_call_rate = percent{50}, .half_open_calls = 4}, "sSSS") == state::closed);
}

TEST_CASE("open keeps the numbers that opened it, every other state starts without", "[circuit_breaker]") {
  manual_clock clock;
  const auto window = GENERATE(sliding_window{calls{4}}, sliding_window{calls{40}}, sliding_window{seconds_window{9}});
  breaker b{"stock", {.window = window, .min_calls = 4, .open_for = 5s}, clock};
  calls_of(b, "SfFF");
  CHECK(b.state() == state::open);
  CHECK(b.metrics().calls == 4);
  CHECK(b.metrics().failure_rate == 75);
  CHECK(b.metrics().slow_failed_calls == 1);
  clock.advance(5s);
  calls_of(b, "S");
  CHECK(b.state() == state::half_open);
  CHECK(b.metrics().calls == 1);
  CHECK(b.metrics().failed_calls == 0);
  calls_of(b, "FF");
  CHECK(b.state() == state::open);
  CHECK(b.metrics().calls == 3);
  CHECK(b.metrics().failed_calls == 2);
  CHECK(b.metrics().failure_rate == Approx(100.0 * 2 / 3));
  b.transition_to(state::closed);
  CHECK(b.metrics().calls == 0);
  calls_of(b, "FFF");
  b.transition_to(state::open);
  CHECK(b.metrics().calls == 3);
  CHECK(b.metrics().failure_rate == -1);
  b.transition_to(state::forced_open);
  CHECK(b.metrics().calls == 0);
}

TEST_CASE("not_permitted_calls counts since a state other than open was last entered", "[circuit_breaker]") {
  manual_clock clock;
  breaker b{"stock", {.window = calls{1}, .min_calls = 1, .open_for = 5s, .half_open_calls = 1}, clock};
  call(b, 'F');
  calls_of(b, "SS");
  CHECK(b.metrics().not_permitted_calls == 2);
  b.transition_to(state::open);
  calls_of(b, "S");
  CHECK(b.metrics().not_permitted_calls == 3);
  clock.advance(5s);
  auto probe = b.try_acquire();
  CHECK(b.metrics().not_permitted_calls == 0);
  calls_of(b, "S");
  CHECK(b.metrics().not_permitted_calls == 1);
  probe->failure();
  CHECK(b.state() == state::open);
  calls_of(b, "S");
  CHECK(b.metrics().not_permitted_calls == 2);
  b.transition_to(state::forced_open);
  CHECK(b.metrics().not_permitted_calls == 0);
  calls_of(b, "SSS");
  CHECK(b.metrics().not_permitted_calls == 3);
  b.reset();
  CHECK(b.metrics().not_permitted_calls == 0);
}

TEST_CASE("a verdict of an older epoch changes neither state, numbers nor permits", "[circuit_breaker]") {
  manual_clock clock;
  const auto window = GENERATE(sliding_window{calls{2}}, sliding_window{calls{30}}, sliding_window{seconds_window{9}});
  breaker b{"stock", {.window = window, .min_calls = 2, .open_for = 5s, .half_open_calls = 1}, clock};
  auto before = b.try_acquire();
  auto dropped = b.try_acquire();
  calls_of(b, "FF");
  clock.advance(5s);
  auto probe = b.try_acquire();
  before->success();
  CHECK(b.state() == state::half_open);
  CHECK(b.metrics().calls == 0);
  {
    const auto gone = std::move(*dropped);
  }
  CHECK_FALSE(b.try_acquire().has_value());

  b.transition_to(state::open);
  clock.advance(5s);
  auto second = b.try_acquire();
  REQUIRE(second.has_value());
  probe->failure();
  CHECK(b.state() == state::half_open);
  CHECK_FALSE(b.try_acquire().has_value());
  second->success();
  CHECK(b.state() == state::closed);

  auto early = b.try_acquire();
  b.reset();
  early->failure();
  CHECK(b.metrics().calls == 0);
}

TEST_CASE("the first verdict stands", "[circuit_breaker]") {
  breaker b{"stock", four};
  auto p = b.try_acquire();
  p->success();
  p->failure();
  p->ignore();
  p->settle({.error = errc::timed_out});
  CHECK(b.metrics().calls == 1);
  CHECK(b.metrics().failed_calls == 0);
  auto q = b.try_acquire();
  q->ignore();
  q->failure();
  CHECK(b.metrics().calls == 1);
}

TEST_CASE("forced_open refuses for ever, counts that and tells nobody", "[circuit_breaker]") {
  manual_clock clock;
  breaker b{"stock", {.automatic_half_open = true, .initial_state = state::forced_open}, clock};
  journal j{b};
  clock.advance(24h * 365);
  const auto refused = b.try_acquire();
  REQUIRE_FALSE(refused.has_value());
  CHECK(refused.error() == rejection{errc::circuit_open, "stock", 0s});
  CHECK(b.state() == state::forced_open);
  CHECK(b.metrics().not_permitted_calls == 1);
  CHECK(j.take().empty());
  CHECK(b.events().recent().empty());
}

TEST_CASE("disabled admits and records nothing", "[circuit_breaker]") {
  breaker b{"stock", {.window = calls{2}, .min_calls = 2, .initial_state = state::disabled}};
  int heard = 0;
  const auto watching = b.events().on_call([&](const breaker_call&) { ++heard; });
  calls_of(b, "FFFFFFFF");
  CHECK(b.state() == state::disabled);
  CHECK(b.metrics().calls == 0);
  CHECK(b.metrics().failure_rate == -1);
  CHECK(heard == 0);
}

TEST_CASE("metrics_only records, never opens, and tells each rate once until reset", "[circuit_breaker]") {
  const auto window = GENERATE(sliding_window{calls{4}}, sliding_window{calls{30}}, sliding_window{seconds_window{9}});
  breaker b{"stock", {.window = window, .min_calls = 4, .initial_state = state::metrics_only}};
  journal j{b};
  calls_of(b, "SSFF");
  CHECK(b.state() == state::metrics_only);
  CHECK(b.metrics().failure_rate == 50);
  CHECK(j.take() == lines{"failures"});
  CHECK(j.rate == 50);
  b.reset();
  CHECK(j.take() == lines{"metrics_only>closed", "reset"});
  b.transition_to(state::metrics_only);
  j.take();
  calls_of(b, "ssss");
  CHECK(j.take() == lines{"slow"});
  CHECK(j.rate == 100);
  calls_of(b, "ffffff");
  CHECK(j.take() == lines{"failures"});
  b.transition_to(state::metrics_only);  // the same state: as if nothing had been said
  calls_of(b, "ff");
  CHECK(j.take().empty());
}

TEST_CASE("reset closes, empties and cancels the wait", "[circuit_breaker]") {
  manual_clock clock;
  breaker b{"stock", {.window = calls{4}, .min_calls = 4, .automatic_half_open = true}, clock};
  journal j{b};
  calls_of(b, "FFFF");
  CHECK(j.take() == lines{"failures", "closed>open"});
  b.reset();
  CHECK(j.take() == lines{"open>closed", "reset"});
  CHECK(b.metrics().calls == 0);
  clock.advance(1h);
  CHECK(b.state() == state::closed);
  b.reset();
  CHECK(j.take() == lines{"reset"});
}

TEST_CASE("the same state is no event; open waits anew, closed keeps its window", "[circuit_breaker]") {
  manual_clock clock;
  breaker b{"stock", {.window = calls{4}, .min_calls = 4, .open_for = 5s, .half_open_for = 7s}, clock};
  journal j{b};
  calls_of(b, "FF");
  b.transition_to(state::closed);
  CHECK(b.metrics().calls == 2);
  calls_of(b, "FF");
  j.take();
  clock.advance(3s);
  b.transition_to(state::open);
  CHECK(j.take().empty());
  CHECK(b.try_acquire().error().retry_after == 5s);
  j.take();
  clock.advance(5s);
  auto probe = b.try_acquire();
  j.take();
  clock.advance(6s);
  b.transition_to(state::half_open);
  clock.advance(6s);
  CHECK(b.state() == state::half_open);
  probe->success();  // still of this epoch
  CHECK(b.metrics().calls == 1);
  clock.advance(1s);
  CHECK(b.state() == state::open);
  for (const auto s : {state::disabled, state::forced_open, state::metrics_only}) {
    b.transition_to(s);
    j.take();
    b.transition_to(s);
    CHECK(j.take().empty());
    CHECK(b.state() == s);
  }
}

TEST_CASE("every transition by hand is allowed but three", "[circuit_breaker]") {
  constexpr state all[] = {state::closed,   state::open,        state::half_open,
                           state::disabled, state::forced_open, state::metrics_only};
  for (const state from : all) {
    for (const state to : all) {
      CAPTURE(to_string(from), to_string(to));
      breaker b{"stock", {.initial_state = from}};
      journal j{b};
      const bool refused = (from == state::closed && to == state::half_open) ||
                           (from == state::metrics_only && (to == state::half_open || to == state::open));
      if (refused) {
        CHECK_THROWS_AS(b.transition_to(to), std::logic_error);
        CHECK(b.state() == from);
        CHECK(j.take().empty());
      } else {
        b.transition_to(to);
        CHECK(b.state() == to);
        CHECK(j.take().size() == (from == to ? 0u : 1u));
      }
    }
  }
}

TEST_CASE("automatic_half_open holds from its instant for whoever looks", "[circuit_breaker]") {
  manual_clock clock;
  breaker b{"stock", {.window = calls{1}, .min_calls = 1, .open_for = 5s, .automatic_half_open = true}, clock};
  journal j{b};
  call(b, 'F');
  j.take();
  const time_point opened = clock.now();
  clock.advance(5s - 1ns);
  CHECK(b.state() == state::open);
  clock.advance(1ns);
  SECTION("as state") { CHECK(b.state() == state::half_open); }
  SECTION("as numbers") { CHECK(b.metrics().calls == 0); }
  SECTION("as a call") { CHECK(b.try_acquire().has_value()); }
  SECTION("late") {
    clock.advance(1h);
    CHECK(b.state() == state::half_open);
  }
  CHECK(j.take() == lines{"open>half_open"});
  CHECK(j.last == opened + 5s);
}

TEST_CASE("half_open_for ends in open, whose wait counts from there", "[circuit_breaker]") {
  manual_clock clock;
  breaker b{"stock", {.window = calls{1}, .min_calls = 1, .open_for = 5s, .half_open_for = 2s}, clock};
  journal j{b};
  call(b, 'F');
  clock.advance(6s);
  auto probe = b.try_acquire();
  j.take();
  const time_point half = clock.now();
  clock.advance(2s - 1ns);
  CHECK(b.state() == state::half_open);
  clock.advance(1ns);
  SECTION("seen at once") { CHECK(b.state() == state::open); }
  SECTION("seen by the probe, which comes too late") {
    probe->success();
    CHECK(b.state() == state::open);
  }
  SECTION("seen later") {
    clock.advance(4s);
    CHECK(b.try_acquire().error().retry_after == 1s);
    j.told.pop_back();
  }
  CHECK(j.take() == lines{"half_open>open"});
  CHECK(j.last == half + 2s);
  clock.advance(5s);
  CHECK(b.state() == state::open);
  CHECK(b.try_acquire().has_value());
}

TEST_CASE("rounds of open and half-open that nobody saw are caught up at their own times", "[circuit_breaker]") {
  const auto late = GENERATE(0s, 1s, 24h * 365 * 10);
  manual_clock clock;
  breaker b{"stock",
            {.window = calls{1}, .min_calls = 1, .open_for = 5s, .half_open_for = 2s, .automatic_half_open = true},
            clock};
  call(b, 'F');
  const auto rounds = (late / 7s) * 7s;
  clock.advance(rounds);
  CHECK(b.state() == state::open);
  clock.advance(5s - 1ns);
  CHECK(b.state() == state::open);
  clock.advance(1ns);
  CHECK(b.state() == state::half_open);
  clock.advance(2s - 1ns);
  CHECK(b.state() == state::half_open);
  clock.advance(1ns);
  CHECK(b.state() == state::open);
}

TEST_CASE("catching up ends soon with the smallest times and with a wait that hardly grows", "[circuit_breaker]") {
  const auto open_for =
      GENERATE(open_interval{1ns}, open_interval{exponential{.initial = 1ns, .factor = 1.000001, .max = 10s}});
  manual_clock clock;
  breaker b{
      "stock",
      {.window = calls{1}, .min_calls = 1, .open_for = open_for, .half_open_for = 1ns, .automatic_half_open = true},
      clock};
  call(b, 'F');
  clock.advance(24h * 365 * 100);
  const state s = b.state();
  CHECK((s == state::open || s == state::half_open));
}

TEST_CASE("execute: an exception, an unexpected and an error code are failures", "[circuit_breaker]") {
  breaker b{"stock", {.window = calls{100}, .min_calls = 100}};
  const auto failed = [&] { return b.metrics().failed_calls; };
  CHECK_THROWS_AS(b.execute([]() -> int { throw std::runtime_error("no"); }), std::runtime_error);
  CHECK(failed() == 1);
  CHECK_FALSE(b.execute([]() -> std::expected<int, std::string> { return std::unexpected("no"); }).has_value());
  CHECK(failed() == 2);
  CHECK(b.execute([] { return make_error_code(errc::timed_out); }) == errc::timed_out);
  CHECK(failed() == 3);
  CHECK(b.execute([] { return 7; }) == 7);
  CHECK(b.execute([]() -> std::expected<int, std::error_code> { return 8; }).value() == 8);
  b.execute([] {});
  CHECK_FALSE(b.execute([] { return std::error_code{}; }));
  CHECK(failed() == 3);
  CHECK(b.metrics().calls == 7);
}

TEST_CASE("execute: our own rejections and cancellations say nothing, whatever the classifier thinks",
          "[circuit_breaker]") {
  breaker b{"stock", {.window = calls{100}}, {}, [](const outcome&) { return verdict::failure; }};
  for (const auto e : {errc::circuit_open, errc::rate_limited, errc::bulkhead_full, errc::cancelled}) {
    b.execute([&] { return make_error_code(e); });
    CHECK_THROWS_AS(b.execute([&] { throw rejected({.reason = e, .policy = "inner"}); }), rejected);
  }
  b.execute([] { return std::make_error_code(std::errc::operation_canceled); });
  CHECK(b.metrics().calls == 0);
  for (const auto e : {errc::timed_out, errc::attempts_exhausted, errc::budget_exhausted, errc::deadline_exceeded}) {
    b.execute([&] { return make_error_code(e); });
  }
  b.execute([] {});
  CHECK(b.metrics().failed_calls == 5);
}

TEST_CASE("a classifier decides what is a failure, and not a failure is a success", "[circuit_breaker]") {
  breaker b{"stock", {.window = calls{100}}, {}, [](const outcome& o) {
              if (o.error == std::errc::no_such_file_or_directory) return verdict::success;
              if (o.error == std::errc::invalid_argument) return verdict::ignore;
              if (o.exception) return verdict::success;
              return classify(o);
            }};
  b.execute([] { return std::make_error_code(std::errc::no_such_file_or_directory); });
  b.execute([] { return std::make_error_code(std::errc::invalid_argument); });
  CHECK_THROWS(b.execute([] { throw 1; }));
  CHECK(b.metrics().calls == 2);
  CHECK(b.metrics().failed_calls == 0);
  b.execute([] { return std::make_error_code(std::errc::timed_out); });
  CHECK(b.metrics().failed_calls == 1);
  auto p = b.try_acquire();
  p->settle({.error = std::make_error_code(std::errc::timed_out)}, 61s);
  CHECK(b.metrics().slow_failed_calls == 1);
}

TEST_CASE("a classifier that throws leaves the call abandoned", "[circuit_breaker]") {
  breaker b{"stock", {.half_open_calls = 1, .initial_state = state::half_open}, {}, [](const outcome&) -> verdict {
              throw std::logic_error("no");
            }};
  CHECK_THROWS_AS(b.execute([] { return 1; }), std::logic_error);
  CHECK(b.metrics().calls == 0);
  CHECK(b.try_acquire().has_value());
}

TEST_CASE("a refused execute returns the rejection where the result can carry it, else throws", "[circuit_breaker]") {
  breaker b{"stock", {.initial_state = state::open}};
  bool called = false;
  const auto value = b.execute([&]() -> std::expected<int, std::error_code> {
    called = true;
    return 1;
  });
  CHECK(value.error() == errc::circuit_open);
  CHECK(b.execute([&] { return std::error_code{}; }) == errc::circuit_open);
  try {
    b.execute([&] { called = true; });
    FAIL("it was let through");
  } catch (const rejected& e) {
    CHECK(e.why() == rejection{errc::circuit_open, "stock", 5s});
    CHECK(e.why().policy.data() == b.name().data());
  }
  CHECK_FALSE(called);
}

TEST_CASE("events tell policy, states and rates, once per opening, and the ring keeps them", "[circuit_breaker]") {
  manual_clock clock;
  breaker b{"stock",
            {.slow_call_rate = percent{50}, .window = calls{2}, .min_calls = 2, .open_for = 5s, .half_open_calls = 2},
            clock};
  journal j{b};
  calls_of(b, "ff");
  CHECK(j.take() == lines{"failures", "slow", "closed>open"});
  CHECK(j.policy == "stock");
  call(b, 'S');
  CHECK(j.take() == lines{"refused"});
  clock.advance(5s);
  calls_of(b, "FF");
  CHECK(j.take() == lines{"open>half_open", "failures", "half_open>open"});
  const auto recent = b.events().recent();
  REQUIRE(recent.size() == 7);
  CHECK(recent[0] ==
        breaker_event{.type = breaker_event_type::failure_rate_exceeded, .rate = 100, .at = clock.now() - 5s});
  CHECK(recent[2] ==
        breaker_event{
            .type = breaker_event_type::transition, .from = state::closed, .to = state::open, .at = clock.now() - 5s});
  CHECK(recent[3].type == breaker_event_type::not_permitted);
  for (int n = 0; n < 150; ++n) call(b, 'S');
  CHECK(b.events().recent().size() == 100);
}

TEST_CASE("a consumer may use the breaker, and one that throws disturbs nothing", "[circuit_breaker]") {
  breaker b{"stock", {.window = calls{1}, .min_calls = 1}};
  state seen{};
  const auto bad = b.events().on_transition([](const auto&) { throw 1; });
  const auto good = b.events().on_transition([&](const breaker_transition& t) {
    seen = b.state();
    if (t.to == state::open) b.reset();
    CHECK(b.metrics().calls == 0);
  });
  call(b, 'F');
  CHECK(seen == state::closed);
  CHECK(b.state() == state::closed);
}

TEST_CASE("on_call tells every verdict with duration and error", "[circuit_breaker]") {
  manual_clock clock;
  breaker b{"stock", {.slow_call = std::chrono::nanoseconds::max()}, clock};
  std::vector<breaker_call> heard;
  const auto watching = b.events().on_call([&](const breaker_call& c) { heard.push_back(c); });
  auto p = b.try_acquire();
  clock.advance(3s);
  p->settle({.error = errc::timed_out});
  auto q = b.try_acquire();
  q->ignore(1s);
  call(b, 'A');
  REQUIRE(heard.size() == 2);
  CHECK(heard[0].policy == "stock");
  CHECK(heard[0].verdict == verdict::failure);
  CHECK(heard[0].duration == 3s);
  CHECK(heard[0].error == errc::timed_out);
  CHECK(heard[1].verdict == verdict::ignore);
  CHECK(heard[1].duration == 1s);
}

TEST_CASE("a breaker may start in any state", "[circuit_breaker]") {
  manual_clock clock;
  breaker b{"stock", {.open_for = 5s, .automatic_half_open = true, .initial_state = state::open}, clock};
  CHECK(b.state() == state::open);
  CHECK(b.events().recent().empty());
  clock.advance(5s);
  CHECK(b.state() == state::half_open);
}

TEST_CASE("configure keeps the state, the wait, permits out and the newest outcomes", "[circuit_breaker]") {
  manual_clock clock;
  breaker b{"stock", {.failure_rate = percent{100}, .window = calls{4}, .min_calls = 4}, clock};
  journal j{b};
  auto out = b.try_acquire();
  calls_of(b, "FFSf");  // oldest first
  const auto resized = [&](int size) {
    b.configure({.failure_rate = percent{100}, .window = calls{size}, .min_calls = size, .open_for = 9s});
    return b.metrics();
  };
  auto m = resized(3);
  CHECK(m.calls == 3);
  CHECK(m.failed_calls == 2);
  m = resized(50);  // to a ring
  CHECK(m.calls == 3);
  CHECK(m.failed_calls == 2);
  CHECK(m.slow_failed_calls == 1);
  CHECK(m.failure_rate == -1);
  m = resized(200);  // a larger ring
  CHECK(m.calls == 3);
  calls_of(b, std::string(197, 'S'));
  m = b.metrics();
  CHECK(m.calls == 200);
  CHECK(m.failure_rate == 1);
  CHECK(m.slow_failed_calls == 1);
  m = resized(100);  // in the same ring
  CHECK(m.calls == 100);
  CHECK(m.failed_calls == 0);
  calls_of(b, "Ffs");
  m = resized(150);
  CHECK(m.calls == 100);
  CHECK(m.slow_calls == 2);
  CHECK(m.slow_failed_calls == 1);
  m = resized(2);
  CHECK(m.calls == 2);
  CHECK(m.slow_calls == 2);
  CHECK(m.failed_calls == 1);
  out->failure();
  CHECK(b.metrics().failed_calls == 1);
  CHECK(b.state() == state::closed);
  CHECK(j.take().empty());
  call(b, 'F');
  CHECK(b.state() == state::open);
  clock.advance(4s);
  b.configure({.open_for = 1s});
  CHECK(b.state() == state::open);
  CHECK(b.try_acquire().error().retry_after == 5s);
  CHECK(b.metrics().calls == 2);
  CHECK(b.config().open_for == 1s);
}

TEST_CASE("configure between windows of calls and of seconds", "[circuit_breaker]") {
  manual_clock clock;
  breaker b{"stock", {}, clock};
  calls_of(b, "FFSS");
  b.configure({.window = seconds_window{5}, .min_calls = 3});
  CHECK(b.metrics().calls == 0);
  call(b, 'S');
  clock.advance(3s);
  call(b, 'F');
  b.configure({.window = seconds_window{2}, .min_calls = 3});
  CHECK(b.metrics().calls == 1);
  CHECK(b.metrics().failed_calls == 1);
  b.configure({.window = seconds_window{60}, .min_calls = 3});
  CHECK(b.metrics().calls == 1);
  b.configure({.window = calls{30}, .min_calls = 3});
  CHECK(b.metrics().calls == 0);
  calls_of(b, "FF");
  CHECK(b.metrics().calls == 2);
  call(b, 'F');
  CHECK(b.state() == state::open);
}

TEST_CASE("configure in half-open decides if enough probes have come back", "[circuit_breaker]") {
  breaker b{"stock", {.half_open_calls = 5, .initial_state = state::half_open}};
  calls_of(b, "SSS");
  CHECK(b.state() == state::half_open);
  b.configure({.half_open_calls = 4});
  CHECK(b.state() == state::half_open);
  b.configure({.half_open_calls = 3});
  CHECK(b.state() == state::closed);
}

TEST_CASE("a lowered threshold bites with the next outcome, whatever that is", "[circuit_breaker]") {
  const int size = GENERATE(4, 40);
  breaker b{"stock", {.window = calls{size}, .min_calls = 4}};
  calls_of(b, "SSSF");
  b.configure({.failure_rate = percent{20}, .window = calls{size}, .min_calls = 4});
  CHECK(b.state() == state::closed);
  call(b, 'S');
  CHECK(b.state() == state::open);
}

TEST_CASE("the largest window counts", "[circuit_breaker]") {
  constexpr int size = 131'072;
  breaker b{"stock", {.window = calls{size}, .min_calls = size, .initial_state = state::metrics_only}};
  for (int n = 0; n < size; ++n) call(b, 'f');
  CHECK(b.metrics().slow_failed_calls == size);
  for (int n = 0; n < size; ++n) call(b, n % 2 ? 'S' : 's');
  CHECK(b.metrics().calls == size);
  CHECK(b.metrics().failed_calls == 0);
  CHECK(b.metrics().slow_calls == size / 2);
  CHECK(b.metrics().slow_failed_calls == 0);
}
