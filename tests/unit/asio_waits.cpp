// Calls that wait for a limiter's token or a bulkhead's place inside a coroutine, and those that are cancelled there.

#include <resilience/adaptive_rate_limiter.hpp>
#include <resilience/asio.hpp>
#include <resilience/bulkhead.hpp>
#include <resilience/rate_limiter.hpp>
#include <resilience/testing.hpp>

#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/thread_pool.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <catch2/catch.hpp>

namespace net = boost::asio;
using namespace resilience;
using namespace std::chrono_literals;

namespace {

using result = std::error_code;

/// A call that can be cancelled from outside; `ended` says what it came to.
struct call {
  net::cancellation_signal stop;
  std::optional<result> ended;
  std::exception_ptr error;

  template <class Policy, class F>
  void start(net::io_context& io, Policy& policy, F f) {
    net::co_spawn(io, policy.async_execute(std::move(f)),
                  net::bind_cancellation_slot(stop.slot(), [this](std::exception_ptr e, result r) {
                    error = e;
                    ended = r;
                  }));
  }
};

net::awaitable<result> succeed() { co_return result{}; }

net::awaitable<result> wait_for(net::steady_timer& timer) {
  boost::system::error_code ignored;
  co_await timer.async_wait(net::redirect_error(net::use_awaitable, ignored));
  co_return result{};
}

/// A timer that never expires by itself.
struct gate {
  net::steady_timer timer;
  explicit gate(net::io_context& io) : timer(io, time_point::max()) {}
  void open() { timer.expires_at(time_point::min()); }
};

}  // namespace

TEST_CASE("an asynchronous call waits for its token, and one cancelled meanwhile gives it back", "[asio]") {
  net::io_context io;
  // The policy's clock stands still, so what is owed stays owed; only the executor's timers run.
  manual_clock clock;
  basic_rate_limiter limiter{"stock", {.limit = per_second(100), .burst = 1, .max_wait = 1h}, clock};
  call first, second, third;
  first.start(io, limiter, succeed);
  second.start(io, limiter, succeed);
  io.run();
  CHECK(first.ended == result{});
  CHECK(second.ended == result{});
  CHECK_FALSE(second.error);
  CHECK(limiter.metrics().waited == 10ms);
  CHECK(limiter.available() == -1);

  limiter.set_limit({1, 1h});
  clock.advance(1h);
  io.restart();
  third.start(io, limiter, succeed);
  while (limiter.metrics().waiting == 0) io.run_one();
  CHECK(limiter.available() == -1);
  third.stop.emit(net::cancellation_type::terminal);
  io.run();
  CHECK(third.error);
  CHECK(limiter.available() == 0);
  CHECK(limiter.metrics().waiting == 0);
}

TEST_CASE("an asynchronous call that may not wait long enough is refused by value", "[asio]") {
  net::io_context io;
  rate_limiter limiter{"stock", {.limit = {1, 1h}, .max_wait = 1s}};
  bulkhead places{"stock", {.max_concurrent = 0, .max_wait = 1h}};
  adaptive_rate_limiter adaptive{"stock", {{1, 1h}, {1, 1h}, {1, 1h}}};
  std::array<call, 5> calls;
  calls[0].start(io, limiter, succeed);
  calls[1].start(io, limiter, succeed);
  calls[2].start(io, places, succeed);
  calls[3].start(io, adaptive, succeed);
  calls[4].start(io, adaptive, succeed);
  io.run();
  CHECK(calls[0].ended == result{});
  CHECK(calls[1].ended == make_error_code(errc::rate_limited));
  CHECK(calls[2].ended == make_error_code(errc::bulkhead_full));
  CHECK(calls[3].ended == result{});
  CHECK(calls[4].ended == make_error_code(errc::rate_limited));
}

TEST_CASE("an asynchronous call waits in a bulkhead's line and goes on when a place comes free", "[asio]") {
  net::io_context io;
  bulkhead places{"stock", {.max_concurrent = 1, .max_wait = 1h}};
  gate open(io);
  call running, waiting;
  running.start(io, places, [&] { return wait_for(open.timer); });
  waiting.start(io, places, succeed);
  while (places.metrics().waiting == 0) io.run_one();
  CHECK_FALSE(waiting.ended.has_value());
  open.open();
  io.run();
  CHECK(running.ended == result{});
  CHECK(waiting.ended == result{});
  CHECK(places.metrics().in_use == 0);
  CHECK(places.metrics().permitted == 2);
}

TEST_CASE("a wait in a bulkhead's line ends at max_wait", "[asio]") {
  net::io_context io;
  bulkhead places{"stock", {.max_concurrent = 1, .max_wait = 1ms}};
  const auto held = places.try_acquire();
  call waiting;
  waiting.start(io, places, succeed);
  io.run();
  CHECK(waiting.ended == make_error_code(errc::bulkhead_full));
  CHECK(places.metrics().waiting == 0);
  CHECK(places.metrics().rejected == 1);
}

TEST_CASE("a call cancelled in a bulkhead's line leaves it, one cancelled while it runs gives its place back",
          "[asio]") {
  net::io_context io;
  bulkhead places{"stock", {.max_concurrent = 1, .max_wait = 1h}};
  gate open(io);
  call running, waiting;
  const auto sleep = [&]() -> net::awaitable<result> {
    co_await open.timer.async_wait(net::use_awaitable);
    co_return result{};
  };
  running.start(io, places, sleep);
  waiting.start(io, places, succeed);
  while (places.metrics().waiting == 0) io.run_one();
  waiting.stop.emit(net::cancellation_type::terminal);
  while (!waiting.ended) io.run_one();
  CHECK(waiting.error);
  CHECK(places.metrics().waiting == 0);
  CHECK(places.metrics().in_use == 1);
  running.stop.emit(net::cancellation_type::terminal);
  io.run();
  CHECK(running.error);
  CHECK(places.metrics().in_use == 0);
}

TEST_CASE("a line that is destroyed with its executor leaves nothing behind", "[asio]") {
  bulkhead places{"stock", {.max_concurrent = 1, .max_wait = 1h}};
  rate_limiter limiter{"stock", {.limit = {1, 1h}, .max_wait = 2h}};
  const auto held = places.try_acquire();
  REQUIRE(limiter.try_acquire().has_value());
  call waiting, late;
  {
    net::io_context io;
    waiting.start(io, places, succeed);
    late.start(io, limiter, succeed);
    while (places.metrics().waiting == 0 || limiter.metrics().waiting == 0) io.run_one();
  }
  CHECK(places.metrics().waiting == 0);
  CHECK(limiter.metrics().waiting == 0);
  CHECK(limiter.available() == 0);
}

TEST_CASE("threads that give back and coroutines that wait and time out together lose no place", "[asio]") {
  bulkhead places{"stock", {.max_concurrent = 3, .max_wait = 200us}};
  std::atomic<int> running = 0, worst = 0, done = 0;
  constexpr int calls_out = 2000;
  net::thread_pool pool(4);
  const auto work = [&]() -> net::awaitable<result> {
    const int now = ++running;
    for (int seen = worst; now > seen && !worst.compare_exchange_weak(seen, now);) {
    }
    const auto executor = co_await net::this_coro::executor;
    co_await net::post(executor, net::use_awaitable);
    --running;
    co_return result{};
  };
  for (int n = 0; n < calls_out; ++n) {
    net::co_spawn(net::make_strand(pool), places.async_execute(work), [&](std::exception_ptr, result) { ++done; });
  }
  pool.join();
  CHECK(done == calls_out);
  CHECK(worst <= 3);
  CHECK(places.metrics().in_use == 0);
  CHECK(places.metrics().waiting == 0);
  CHECK(places.metrics().permitted + places.metrics().rejected == calls_out);
}
