#pragma once
/// Which handler answers which method and path.

#include <boost/asio/awaitable.hpp>
#include <functional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "common/http/message.hpp"

namespace common::http {

/// A response without an end: a handler pushes text to it until the client leaves. Server-sent events are such text.
class event_stream {
 public:
  /// Sends `text` as it stands, after the header at the first call. False once the client has left or the server stops:
  /// the handler then ends. An empty text sends just the header.
  virtual boost::asio::awaitable<bool> send(std::string text) = 0;
  /// What goes out first; to be changed before the first `send`. text/event-stream, not to be cached.
  response head;

 protected:
  event_stream();
  ~event_stream() = default;
};

/// Runs on a worker thread, so it may block. An exception becomes a 500 and a line in the log.
using sync_handler = std::function<response(const request&)>;
/// Runs on the server's I/O thread, so it must not block; the request lives until it has ended.
using async_handler = std::function<boost::asio::awaitable<response>(const request&)>;
/// The same, for a response that is pushed. Cancelled (its awaits end with operation_aborted) when the client leaves.
using stream_handler = std::function<boost::asio::awaitable<void>(const request&, event_stream&)>;

struct route {
  std::string method;
  std::string pattern;  ///< `/orders/{id}/saga`: a parameter is a whole segment, and never empty.
  std::variant<sync_handler, async_handler, stream_handler> handler;
  /// What its 2xx answers are; a client that accepts neither this nor anything gets 406.
  std::string produces = "application/json";
  /// Bodies must be JSON if they name their type at all: another Content-Type is 415.
  bool takes_json = false;
  /// Answered while the server drains too: health.
  bool while_draining = false;
  /// Path segments, made from the pattern.
  std::vector<std::string> segments{};
};

class router {
 public:
  /// Adds a route; a handler is told by what it returns and takes. GET serves HEAD too; POST, PUT and PATCH take JSON.
  /// The returned reference, for `produces` and the rest, holds until the next `add`.
  template <class Handler>
  route& add(std::string method, std::string pattern, Handler handler) {
    if constexpr (std::is_invocable_v<Handler&, const request&, event_stream&>) {
      return add_route(std::move(method), std::move(pattern), stream_handler(std::move(handler)));
    } else if constexpr (std::is_same_v<std::invoke_result_t<Handler&, const request&>, response>) {
      return add_route(std::move(method), std::move(pattern), sync_handler(std::move(handler)));
    } else {
      return add_route(std::move(method), std::move(pattern), async_handler(std::move(handler)));
    }
  }

  /// A route and its parameters; or none, with the methods that the path does take (none: no such path).
  struct match {
    const route* found = nullptr;
    pairs parameters;
    std::vector<std::string> allowed;
  };
  /// `segments` are decoded. Where several patterns fit, the one whose first difference is a literal wins.
  [[nodiscard]] match find(std::string_view method, const std::vector<std::string>& segments) const;

  [[nodiscard]] const std::vector<route>& routes() const noexcept { return routes_; }

 private:
  route& add_route(std::string method, std::string pattern,
                   std::variant<sync_handler, async_handler, stream_handler> handler);

  std::vector<route> routes_;
};

}  // namespace common::http
