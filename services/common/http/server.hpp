#pragma once
/// A small HTTP/1.1 server: one I/O thread for every connection, worker threads for handlers that block.

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <expected>
#include <functional>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>

#include "common/http/router.hpp"

namespace common::http {

struct server_settings {
  std::string address = "127.0.0.1";
  std::uint16_t port = 0;              ///< 0: the system chooses one.
  int workers = 16;                    ///< Threads for sync handlers; at most as many of them run at once.
  int max_connections = 1024;          ///< More are answered 503 and closed.
  std::size_t max_line = 8 * 1024;     ///< Bytes of the target; more is 414.
  std::size_t max_header = 48 * 1024;  ///< Bytes of all fields; more is 431. With max_line below 64 KiB.
  std::size_t max_fields = 100;        ///< More is 431.
  std::size_t max_body = 1024 * 1024;  ///< Bytes; more is 413.
  std::chrono::nanoseconds header_timeout = std::chrono::seconds(10);  ///< From a request's first byte; then 408.
  std::chrono::nanoseconds body_timeout = std::chrono::seconds(30);    ///< For a whole body; then 408.
  std::chrono::nanoseconds idle_timeout = std::chrono::seconds(60);    ///< Between requests; then closed.
  std::chrono::nanoseconds write_timeout = std::chrono::seconds(30);   ///< For a whole response or pushed text.
};

/// A request that has been answered, for metrics and logs. `pattern` is empty when no route was reached.
struct exchange {
  std::string_view method;
  std::string_view path;
  std::string_view pattern;
  std::string_view correlation_id;
  int status = 0;
  std::size_t request_bytes = 0;   ///< Of the body.
  std::size_t response_bytes = 0;  ///< Of the body.
  std::chrono::nanoseconds duration{};
};

/// Every error it answers itself is a problem (problem.hpp): 400, 404, 405 with Allow, 406, 408, 413, 414, 415, 431,
/// 500, 503. X-Correlation-Id is echoed. Fill `routes()`, then `start()`. Not copyable, not movable.
class server {
 public:
  explicit server(server_settings settings = {});
  /// Stops as `stop` does.
  ~server();
  server(const server&) = delete;
  server& operator=(const server&) = delete;

  /// To be filled before `start`, and left alone from then on.
  router& routes() noexcept;
  /// Called on the I/O thread just before the last byte of every answer is written. Set before `start`.
  void on_exchange(std::function<void(const exchange&)> observe);

  /// Binds, listens, and serves from its own threads. The bound port; or why not: "127.0.0.1:80: Permission denied".
  std::expected<std::uint16_t, std::string> start();
  [[nodiscard]] std::uint16_t port() const noexcept;

  /// From now on requests get 503, but for routes marked `while_draining`; pushed responses end. Threads: any.
  void begin_drain();
  [[nodiscard]] bool draining() const noexcept;
  /// Waits until no request is being answered, at most `limit`. Whether that came true.
  bool wait_idle(std::chrono::nanoseconds limit);
  /// Closes every connection and ends every thread, after the handlers that run on workers. Idempotent.
  void stop();

  /// Where connections and asynchronous handlers run: one thread.
  [[nodiscard]] boost::asio::any_io_executor executor() noexcept;
  /// Where handlers that block run.
  [[nodiscard]] boost::asio::any_io_executor workers() noexcept;

 private:
  struct state;
  class connection;
  std::shared_ptr<state> state_;
};

namespace detail {
template <class F>
boost::asio::awaitable<std::invoke_result_t<F&>> call(F f) {
  co_return f();
}
}  // namespace detail

/// Runs `f`, which may block, on `workers`, and comes back to the caller's executor with what it returned or threw.
template <class F>
boost::asio::awaitable<std::invoke_result_t<F&>> offload(boost::asio::any_io_executor workers, F f) {
  return boost::asio::co_spawn(workers, detail::call(std::move(f)), boost::asio::use_awaitable);
}

}  // namespace common::http
