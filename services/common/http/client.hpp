#pragma once
/// A small HTTP/1.1 client: calls to one other service, over connections that are kept for the next call.

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <chrono>
#include <cstddef>
#include <expected>
#include <memory>
#include <string>
#include <string_view>
#include <system_error>

#include "common/http/message.hpp"

namespace common::http {

struct client_settings {
  std::chrono::nanoseconds connect_timeout = std::chrono::seconds(1);
  std::chrono::nanoseconds response_timeout = std::chrono::seconds(5);  ///< From the request to the body's end.
  std::chrono::nanoseconds idle_timeout = std::chrono::seconds(4);      ///< Older kept connections are not used again.
  std::size_t max_idle = 32;                                            ///< More are closed.
  std::size_t max_body = 8 * 1024 * 1024;                               ///< Bytes; more is an error.
};

/// What is asked of the other service. `target` is encoded already (see encode).
struct client_request {
  std::string method = "GET";
  std::string target;
  pairs fields{};
  std::string body{};
};

/// `text` as part of a path or of a query's value: all but unreserved characters escaped.
std::string encode(std::string_view text);

class client {
 public:
  /// `base` is http://HOST:PORT, HOST a name or an address; throws std::invalid_argument when it is not.
  /// Runs on `where`, which must outlive it, and is one thread.
  client(boost::asio::any_io_executor where, std::string_view base, client_settings settings = {});
  ~client();
  client(const client&) = delete;
  client& operator=(const client&) = delete;

  /// Any response is a value, also 503. The error tells a connection that cannot be made from one that broke
  /// (std::errc::timed_out for time that ran out). A kept connection that turns out closed before a byte of the answer
  /// has come is replaced once. Call on `where`.
  /// Cancellation: terminal and total; the connection is closed, and the error is operation_canceled.
  boost::asio::awaitable<std::expected<response, std::error_code>> send(client_request what);

 private:
  struct state;
  std::shared_ptr<state> state_;
};

}  // namespace common::http
