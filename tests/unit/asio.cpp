#include <resilience/asio.hpp>

#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/cancellation_signal.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/strand.hpp>
#include <boost/asio/thread_pool.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/use_future.hpp>
#include <catch2/catch.hpp>

#include <atomic>
#include <expected>
#include <functional>
#include <future>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include <resilience/resilience.hpp>
#include <resilience/testing.hpp>

using namespace resilience;
using namespace std::chrono_literals;
namespace net = boost::asio;

namespace {

using result = std::expected<int, std::error_code>;
using traits = detail::async_traits<net::awaitable<void>>;
const std::error_code broken = std::make_error_code(std::errc::io_error);
const retry_config quick{.max_attempts = 3, .interval = fixed{1ms}};

/// How a coroutine ended.
template <class T>
struct ending {
  bool ended = false;
  std::exception_ptr error{};
  std::optional<T> value{};

  [[nodiscard]] bool aborted() const {
    if (!error) return false;
    try {
      std::rethrow_exception(error);
    } catch (const boost::system::system_error& e) {
      return e.code() == net::error::operation_aborted;
    } catch (...) {
      return false;
    }
  }
  [[nodiscard]] std::string what() const {
    try {
      if (error) std::rethrow_exception(error);
    } catch (const std::exception& e) {
      return e.what();
    }
    return "";
  }
};

/// Starts a coroutine that a signal can cancel.
template <class T>
std::shared_ptr<ending<T>> start(net::io_context& io, net::awaitable<T> work,
                                 net::cancellation_signal* signal = nullptr) {
  auto end = std::make_shared<ending<T>>();
  auto done = [end](std::exception_ptr e, T value) {
    end->ended = true;
    end->error = std::move(e);
    if (!end->error) end->value = std::move(value);
  };
  if (signal != nullptr) {
    net::co_spawn(io, std::move(work), net::bind_cancellation_slot(signal->slot(), std::move(done)));
  } else {
    net::co_spawn(io, std::move(work), std::move(done));
  }
  return end;
}

template <class T>
std::shared_ptr<ending<T>> run(net::awaitable<T> work) {
  net::io_context io;
  auto end = start(io, std::move(work));
  io.run();
  return end;
}

net::awaitable<void> sleep(std::chrono::nanoseconds d) { return traits::sleep_for(d); }

}  // namespace

TEST_CASE("asynchronous calls go through the same pipeline as blocking ones", "[asio]") {
  manual_clock clock;
  basic_retry retry{"stock", quick, clock};
  basic_circuit_breaker breaker{"stock", {.window = calls{10}}, clock};
  basic_bulkhead bulkhead{"stock", {.max_concurrent = 1}, clock};
  basic_rate_limiter limiter{"stock", {}, clock};
  basic_time_limiter total{"stock", {.timeout = 1h}, clock};
  const pipeline inner{retry, breaker};
  const pipeline guarded{limiter, bulkhead, total, inner};
  int made = 0;
  auto call = [&]() -> net::awaitable<result> {
    co_await sleep(1us);
    if (++made < 3) co_return std::unexpected(broken);
    co_return 5;
  };
  const auto end = run(guarded.async_execute(call));
  CHECK(made == 3);
  CHECK(end->value.value().value() == 5);
  CHECK(retry.metrics().successful_with_retry == 1);
  CHECK(breaker.metrics().calls == 3);
  CHECK(breaker.metrics().failed_calls == 2);
  CHECK(total.metrics().successful == 1);
  CHECK(bulkhead.metrics().in_use == 0);
}

TEST_CASE("an awaitable of nothing, and one of something that only moves", "[asio]") {
  manual_clock clock;
  basic_retry retry{"stock", quick, clock};
  basic_time_limiter total{"stock", {.timeout = 1h}, clock};
  const pipeline guarded{total, retry};
  int made = 0;
  auto nothing = [&]() -> net::awaitable<void> {
    if (++made < 3) throw std::runtime_error("not yet");
    co_return;
  };
  auto both = [&]() -> net::awaitable<int> {
    co_await guarded.async_execute(nothing);
    auto owned = [&]() -> net::awaitable<std::unique_ptr<int>> { co_return std::make_unique<int>(made); };
    const auto value = co_await guarded.async_execute(owned);
    co_return *value;
  };
  CHECK(run(both())->value == 3);
}

TEST_CASE("the call is kept alive while it is awaited", "[asio]") {
  manual_clock clock;
  basic_retry retry{"stock", quick, clock};
  const pipeline guarded{retry};
  const pipeline<> empty;
  auto alive = std::make_shared<int>(7);
  const std::weak_ptr<int> watch = alive;
  auto call = [held = std::move(alive)]() -> net::awaitable<int> {
    co_await sleep(1us);
    co_return *held;
  };
  auto all = [&]() -> net::awaitable<int> {
    // Made here and dropped before it is awaited.
    auto waiting = [&] { return guarded.async_execute(std::move(call)); }();
    const int value = co_await std::move(waiting);
    auto other = [p = std::make_shared<int>(1)]() -> net::awaitable<int> {
      co_await sleep(1us);
      co_return *p;
    };
    auto second = [&] { return empty.async_execute(std::move(other)); }();
    const int one = co_await std::move(second);
    co_return value + one;
  };
  CHECK(run(all())->value == 8);
  CHECK(watch.expired());
}

TEST_CASE("exceptions of Boost have their codes", "[asio]") {
  manual_clock clock;
  std::vector<std::error_code> seen;
  basic_retry retry{"stock", quick, clock, [&](int, const outcome& o) {
                      seen.push_back(o.error);
                      return 0ns;
                    }};
  auto refused = []() -> net::awaitable<int> {
    throw boost::system::system_error(make_error_code(net::error::connection_refused));
    co_return 0;
  };
  const auto end = run(retry.async_execute(refused));
  REQUIRE(seen.size() == 2);
  CHECK(seen[0] == std::errc::connection_refused);
  CHECK(end->error);
  // Asio's abort is a cancellation: neither repeated nor counted.
  int made = 0;
  auto aborted = [&]() -> net::awaitable<int> {
    ++made;
    throw boost::system::system_error(net::error::operation_aborted);
    co_return 0;
  };
  CHECK(run(retry.async_execute(aborted))->aborted());
  CHECK(made == 1);
  CHECK(retry.metrics().failed_with_retry == 1);
  CHECK(retry.metrics().failed_without_retry == 0);
}

TEST_CASE("a later attempt that is refused ends with the last real error, awaited too", "[asio]") {
  manual_clock clock;
  basic_retry retry{"stock", quick, clock};
  int made = 0;
  auto call = [&]() -> net::awaitable<result> {
    ++made;
    if (made == 2) co_return std::unexpected(make_error_code(errc::circuit_open));
    co_return std::unexpected(broken);
  };
  CHECK(run(retry.async_execute(call))->value->error() == broken);
  CHECK(made == 2);
}

TEST_CASE("a timeout cancels the operation itself, then is a value or thrown", "[asio]") {
  time_limiter limiter{"stock", {.timeout = 5ms}};
  bool cleaned = false;
  bool aborted = false;
  auto hanging = [&]() -> net::awaitable<result> {
    struct at_end {
      bool& flag;
      ~at_end() { flag = true; }
    } const end{cleaned};
    try {
      co_await sleep(1h);
    } catch (const boost::system::system_error& e) {
      aborted = e.code() == net::error::operation_aborted;
      throw;
    }
    co_return 1;
  };
  auto value = [&]() -> net::awaitable<bool> {
    const result got = co_await limiter.async_execute(hanging);
    const bool ended_before = cleaned;
    co_return ended_before&& got.error() == errc::timed_out;
  };
  CHECK(run(value())->value == true);
  CHECK(aborted);
  auto thrown = []() -> net::awaitable<int> {
    co_await sleep(1h);
    co_return 1;
  };
  const auto end = run(limiter.async_execute(thrown));
  REQUIRE(end->error);
  CHECK_THROWS_AS(std::rethrow_exception(end->error), rejected);
  CHECK(limiter.metrics().timed_out == 2);
  CHECK(limiter.metrics().failed == 0);
  CHECK(limiter.events().recent().size() == 2);
}

TEST_CASE("an operation that ends in time gives its value or its exception", "[asio]") {
  time_limiter limiter{"stock", {.timeout = 1h}};
  auto good = []() -> net::awaitable<int> {
    co_await sleep(1us);
    co_return 4;
  };
  auto bad = []() -> net::awaitable<int> {
    co_await sleep(1us);
    throw std::runtime_error("its own");
  };
  CHECK(run(limiter.async_execute(good))->value == 4);
  CHECK(run(limiter.async_execute(bad))->what() == "its own");
  CHECK(limiter.metrics().successful == 1);
  CHECK(limiter.metrics().failed == 1);
}

TEST_CASE("a timeout counts as a failure of the target, and each try has its own time", "[asio]") {
  manual_clock clock;
  basic_retry retry{"stock", quick, clock};
  basic_circuit_breaker breaker{"stock", {}, clock};
  time_limiter per_try{"stock", {.timeout = 2ms}};
  const pipeline guarded{retry, breaker, per_try};
  int made = 0;
  auto call = [&]() -> net::awaitable<result> {
    if (++made < 3) co_await sleep(1h);
    co_return made;
  };
  CHECK(run(guarded.async_execute(call))->value->value() == 3);
  CHECK(breaker.metrics().failed_calls == 2);
}

TEST_CASE("the deadline passes inwards: no back-off starts that would reach it", "[asio]") {
  manual_clock clock;
  basic_time_limiter total{"total", {.timeout = 10s}, clock};
  basic_retry retry{"stock", {.max_attempts = 3, .interval = fixed{1h}}, clock};
  const pipeline guarded{total, retry};
  int made = 0;
  auto call = [&]() -> net::awaitable<result> {
    ++made;
    co_return std::unexpected(broken);
  };
  CHECK(run(guarded.async_execute(call))->value->error() == broken);
  CHECK(made == 1);
}

TEST_CASE("without cancel the caller goes on at the timeout and the operation by itself", "[asio]") {
  time_limiter limiter{"stock", {.timeout = 2ms, .cancel = false}};
  retry retry{"stock", {.max_attempts = 1}};
  const pipeline guarded{limiter, retry};
  net::io_context io;
  net::steady_timer gate(io, net::steady_timer::time_point::max());
  bool finished = false;
  auto call = [&]() -> net::awaitable<result> {
    boost::system::error_code opened;
    co_await gate.async_wait(net::redirect_error(net::use_awaitable, opened));
    finished = true;
    co_return 1;
  };
  auto all = [&]() -> net::awaitable<bool> {
    const result got = co_await guarded.async_execute(call);
    const bool still_running = !finished;
    gate.cancel();
    co_return still_running&& got.error() == errc::timed_out;
  };
  const auto end = start(io, all());
  io.run();
  CHECK(end->what() == "");
  CHECK(end->value == true);
  CHECK(finished);
  CHECK(limiter.metrics().timed_out == 1);
  CHECK(limiter.metrics().successful == 0);
}

TEST_CASE("fallbacks may be awaited", "[asio]") {
  auto failing = []() -> net::awaitable<result> { co_return std::unexpected(broken); };
  auto throwing = []() -> net::awaitable<int> {
    co_await sleep(1us);
    throw rejected({errc::circuit_open, "payment", 2s});
  };
  fallback plain{[](std::error_code) { return 1; }};
  CHECK(run(plain.async_execute(failing))->value->value() == 1);
  std::chrono::nanoseconds after{};
  fallback awaited{[&](const rejection& why) -> net::awaitable<int> {
    after = why.retry_after;
    co_await sleep(1us);
    co_return 2;
  }};
  CHECK(run(awaited.async_execute(throwing))->value == 2);
  CHECK(after == 2s);
  CHECK(run(awaited.async_execute(failing))->value->error() == broken);
  int used = 0;
  fallback nothing{[&]() -> net::awaitable<void> {
    ++used;
    co_return;
  }};
  auto empty = []() -> net::awaitable<void> {
    throw std::runtime_error("x");
    co_return;
  };
  auto both = [&]() -> net::awaitable<int> {
    co_await nothing.async_execute(empty);
    co_return used;
  };
  CHECK(run(both())->value == 1);
  // Nobody waits for the answer of a cancelled call.
  auto aborted = []() -> net::awaitable<int> {
    throw boost::system::system_error(net::error::operation_aborted);
    co_return 0;
  };
  CHECK(run(plain.async_execute(aborted))->aborted());
}

TEST_CASE("suspend_until: granted at once, later, never, or as the time runs out", "[asio]") {
  std::function<void()> wake;
  int cancelled = 0;
  bool withdrawn = true;
  auto keep = [&](std::function<void()> w) {
    wake = std::move(w);
    return true;
  };
  auto cancel = [&] {
    ++cancelled;
    wake = nullptr;
    return withdrawn;
  };
  SECTION("at once") {
    auto granted = [](const std::function<void()>&) { return false; };
    CHECK(run(traits::suspend_until(granted, cancel, 1h))->value == true);
    CHECK(cancelled == 0);
  }
  SECTION("inside start") {
    auto inside = [](const std::function<void()>& w) {
      w();
      return true;
    };
    CHECK(run(traits::suspend_until(inside, cancel, 1h))->value == true);
    CHECK(cancelled == 0);
  }
  SECTION("later, by another thread") {
    std::jthread other;
    auto elsewhere = [&](std::function<void()> w) {
      other = std::jthread([w = std::move(w)] { w(); });
      return true;
    };
    CHECK(run(traits::suspend_until(elsewhere, cancel, 1h))->value == true);
    CHECK(cancelled == 0);
  }
  SECTION("never") {
    CHECK(run(traits::suspend_until(keep, cancel, 1ms))->value == false);
    CHECK(cancelled == 1);
  }
  SECTION("as the time runs out") {
    withdrawn = false;
    CHECK(run(traits::suspend_until(keep, cancel, 1ms))->value == true);
    CHECK(cancelled == 1);
  }
  SECTION("any length of time") {
    net::io_context io;
    const auto end = start(io, traits::suspend_until(keep, cancel, std::chrono::nanoseconds::max()));
    io.poll();
    CHECK_FALSE(end->ended);
    wake();
    wake();  // later than it matters
    io.run();
    CHECK(end->value == true);
    const auto late = std::move(wake);
    late();
  }
  SECTION("cancelled while it waits") {
    net::io_context io;
    net::cancellation_signal signal;
    const auto end = start(io, traits::suspend_until(keep, cancel, 1h), &signal);
    io.poll();
    signal.emit(net::cancellation_type::terminal);
    io.run();
    CHECK(end->aborted());
    CHECK(cancelled == 1);
  }
  SECTION("the context goes while it waits") {
    {
      net::io_context io;
      start(io, traits::suspend_until(keep, cancel, 1h));
      io.poll();
      CHECK(wake);
    }
    CHECK(cancelled == 1);
    CHECK_FALSE(wake);
  }
}

TEST_CASE("a context that goes away under all policies leaves nothing behind", "[asio]") {
  time_limiter total{"total"};
  time_limiter unbound{"unbound", {.timeout = 1h, .cancel = false}};
  retry retry{"stock", {.interval = fixed{1h}}};
  bulkhead bulkhead{"stock", {.max_concurrent = 1, .max_wait = 1h}};
  circuit_breaker breaker{"stock"};
  const pipeline guarded{unbound, retry, total, bulkhead, breaker};
  auto alive = std::make_shared<int>(0);
  {
    net::io_context io;
    auto call = [alive]() -> net::awaitable<int> {
      co_await sleep(1h);
      co_return *alive;
    };
    start(io, guarded.async_execute(call));
    start(io, guarded.async_execute(call));  // waits in the bulkhead
    io.poll();
    CHECK(alive.use_count() > 1);
    CHECK(bulkhead.metrics().in_use == 1);
    CHECK(bulkhead.metrics().waiting == 1);
  }
  CHECK(alive.use_count() == 1);
  CHECK(bulkhead.metrics().in_use == 0);
  CHECK(bulkhead.metrics().waiting == 0);
  CHECK(breaker.metrics().calls == 0);
}

namespace {

/// Suspends the coroutine where told to, counts how often, and lets the test go on or cancel at each.
class stations {
 public:
  explicit stations(net::io_context& io) : timer_(io, net::steady_timer::time_point::max()) {}
  net::awaitable<void> stop() {
    ++reached;
    boost::system::error_code e;
    co_await timer_.async_wait(net::redirect_error(net::use_awaitable, e));
    const auto state = co_await net::this_coro::cancellation_state;
    if (state.cancelled() != net::cancellation_type::none) {
      throw boost::system::system_error(net::error::operation_aborted);
    }
  }
  void go() { timer_.cancel(); }
  int reached = 0;

 private:
  net::steady_timer timer_;
};

}  // namespace

TEST_CASE("a call cancelled at any of its suspensions leaves no permit and no count behind", "[asio]") {
  int suspensions = 0;
  bool completed = false;
  for (int cancel_at = 1; !completed; ++cancel_at) {
    REQUIRE(cancel_at < 20);
    net::io_context io;
    stations road(io);
    rate_limiter limiter{"stock"};
    bulkhead bulkhead{"stock", {.max_concurrent = 1, .max_wait = 1h}};
    time_limiter total{"total", {.timeout = 1h}};
    // Back-off, too, is a suspension: long enough to be cancelled in, and woken by nothing else.
    retry retry{"stock", {.max_attempts = 3, .interval = fixed{1ms}}};
    circuit_breaker breaker{"stock", {.initial_state = breaker_state::closed}};
    time_limiter per_try{"try", {.timeout = 1h}};
    int answered = 0;
    fallback answer{[&](std::error_code) {
      ++answered;
      return -1;
    }};
    const pipeline guarded{answer, limiter, bulkhead, total, retry, breaker, per_try};

    std::optional<basic_bulkhead<>::permit> first;
    if (auto taken = bulkhead.try_acquire()) first = std::move(*taken);
    REQUIRE(first.has_value());
    int made = 0;
    auto call = [&]() -> net::awaitable<result> {
      ++made;
      co_await road.stop();
      co_await road.stop();
      if (made < 3) co_return std::unexpected(broken);
      co_return made;
    };
    net::cancellation_signal signal;
    const auto end = start(io, guarded.async_execute(call), &signal);
    int step = 0;
    bool cancelled = false;
    int failures_before = 0;
    while (!end->ended) {
      io.restart();
      io.poll();
      if (end->ended) break;
      const int failures = made == 0 ? 0 : breaker.metrics().failed_calls;
      if (++step == cancel_at) {
        cancelled = true;
        failures_before = failures;
        signal.emit(net::cancellation_type::terminal);
        io.restart();
        io.run_for(10s);
        break;
      }
      if (first) {
        first.reset();  // the first suspension: waiting for its turn
      } else if (failures > 0 && road.reached == 2 * made) {
        // In back-off: its own timer ends it.
        io.restart();
        road.go();
        io.run_one();
      } else {
        road.go();
      }
    }
    INFO("cancelled at suspension " << cancel_at << " of " << step);
    REQUIRE(end->ended);
    suspensions = std::max(suspensions, step);
    first.reset();
    CHECK(bulkhead.metrics().in_use == 0);
    CHECK(bulkhead.metrics().waiting == 0);
    CHECK(answered == 0);
    if (cancelled) {
      CHECK(end->aborted());
      CHECK(breaker.metrics().failed_calls == failures_before);
      CHECK(breaker.metrics().calls == failures_before);
      const auto m = retry.metrics();
      CHECK(m.successful_without_retry + m.successful_with_retry + m.failed_without_retry + m.failed_with_retry == 0);
      CHECK(total.metrics().successful + total.metrics().failed + total.metrics().timed_out == 0);
      CHECK(per_try.metrics().successful + per_try.metrics().timed_out == 0);
    } else {
      completed = true;
      CHECK(end->value->value() == 3);
      CHECK(retry.metrics().successful_with_retry == 1);
    }
  }
  CHECK(suspensions >= 8);  // one for the bulkhead, two in each attempt, one in at least one back-off
}

TEST_CASE("a half-open probe that is cancelled gives its place back", "[asio]") {
  circuit_breaker breaker{"stock", {.half_open_calls = 1, .initial_state = breaker_state::half_open}};
  net::io_context io;
  net::cancellation_signal signal;
  auto call = []() -> net::awaitable<int> {
    co_await sleep(1h);
    co_return 1;
  };
  const auto end = start(io, breaker.async_execute(call), &signal);
  io.poll();
  CHECK_FALSE(breaker.try_acquire().has_value());
  signal.emit(net::cancellation_type::terminal);
  io.run();
  CHECK(end->aborted());
  CHECK(breaker.try_acquire().has_value());
}

TEST_CASE("timeouts, cancellations and waits hold on many threads", "[asio]") {
  net::thread_pool threads(4);
  time_limiter limiter{"stock", {.timeout = 1ms}};
  bulkhead bulkhead{"stock", {.max_concurrent = 3, .max_wait = 2ms}};
  retry retry{"stock", {.max_attempts = 2, .interval = fixed{100us}}};
  const pipeline guarded{retry, bulkhead, limiter};
  std::atomic<int> ended = 0;
  constexpr int count = 300;
  {
    std::vector<std::future<void>> all;
    for (int i = 0; i < count; ++i) {
      auto call = [i]() -> net::awaitable<result> {
        co_await sleep(std::chrono::microseconds((i * 37) % 2000));
        if (i % 5 == 0) co_return std::unexpected(broken);
        co_return i;
      };
      auto work = [&guarded, &ended, call]() -> net::awaitable<void> {
        auto answer = co_await guarded.async_execute(call);
        if (answer || answer.error()) ++ended;
      };
      all.push_back(net::co_spawn(threads, work, net::use_future));
    }
    for (auto& one : all) one.get();
  }
  threads.join();
  CHECK(ended == count);
  CHECK(bulkhead.metrics().in_use == 0);
  CHECK(bulkhead.metrics().waiting == 0);
}

TEST_CASE("awaitables of a concrete executor, and of a strand", "[asio]") {
  using executor = net::io_context::executor_type;
  time_limiter limiter{"stock", {.timeout = 2ms}};
  retry retry{"stock", quick};
  const pipeline guarded{retry, limiter};
  net::io_context io;
  int made = 0;
  auto call = [&made]() -> net::awaitable<result, executor> {
    if (++made == 1) co_await detail::async_traits<net::awaitable<void, executor>>::sleep_for(1h);
    co_return made;
  };
  std::optional<result> got;
  net::co_spawn(io.get_executor(), guarded.async_execute(call), [&](const std::exception_ptr& e, result r) {
    if (!e) got = r;
  });
  io.run();
  REQUIRE(got.has_value());
  CHECK(got->value() == 2);

  io.restart();
  made = 0;
  got.reset();
  auto on_strand = [&made]() -> net::awaitable<result> {
    if (++made == 1) co_await sleep(1h);
    co_return made;
  };
  net::co_spawn(net::make_strand(io), guarded.async_execute(on_strand), [&](const std::exception_ptr& e, result r) {
    if (!e) got = r;
  });
  io.run();
  REQUIRE(got.has_value());
  CHECK(got->value() == 2);
}
