// How do I guard a coroutine, so that a slow call is really cancelled?

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <cstdio>
#include <exception>
#include <string>

#include <resilience/asio.hpp>
#include <resilience/resilience.hpp>

namespace asio = boost::asio;
using namespace std::chrono_literals;

namespace {

/// Stands for a page that takes an hour the first two times.
asio::awaitable<std::string> fetch() {
  static int calls = 0;
  asio::steady_timer work(co_await asio::this_coro::executor);
  work.expires_after(++calls <= 2 ? std::chrono::nanoseconds(1h) : 1ms);
  co_await work.async_wait(asio::use_awaitable);  // the timeout ends this wait
  co_return "the page";
}

asio::awaitable<void> read_page() {
  resilience::retry retry{"pages", {.max_attempts = 3, .interval = 1ms}};
  resilience::time_limiter per_try{"pages", {.timeout = 20ms}};
  resilience::fallback instead{[](const resilience::rejection&) { return std::string("an old copy"); }};
  resilience::pipeline guarded{instead, retry, per_try};

  const std::string page = co_await guarded.async_execute(fetch);
  std::printf("%s, after %d timeouts\n", page.c_str(), static_cast<int>(per_try.metrics().timed_out));
}

}  // namespace

int main() {
  asio::io_context io;
  asio::co_spawn(io, read_page(), [](const std::exception_ptr& error) {
    if (error) std::rethrow_exception(error);
  });
  io.run();
}
