#pragma once
/// Sends what happens to everyone who listens at `/events`, as server-sent events.

#include <atomic>
#include <boost/asio.hpp>
#include <cstddef>
#include <set>
#include <string>
#include <string_view>

#include "common/http/router.hpp"

namespace sidecar {

/// Belongs to the I/O thread of the server that serves it, which must end before; `publish` may be called from any.
class feed {
 public:
  /// Before the first `publish` and `serve`.
  void run_on(boost::asio::any_io_executor io) { io_ = std::move(io); }

  /// `data` is one line of JSON. Cost where nobody listens: one relaxed load.
  void publish(std::string_view event, std::string_view data);

  /// Serves one listener until it leaves. One that reads too slowly is left behind and cut off.
  boost::asio::awaitable<void> serve(common::http::event_stream& out);

  [[nodiscard]] std::size_t listeners() const noexcept { return listening_.load(std::memory_order_relaxed); }

 private:
  struct listener {
    explicit listener(const boost::asio::any_io_executor& io) : news(io) {}
    boost::asio::steady_timer news;
    std::string unsent;
    bool overrun = false;
  };

  void deliver(const std::string& text);

  boost::asio::any_io_executor io_;
  std::set<listener*> all_;
  std::atomic<std::size_t> listening_ = 0;
};

}  // namespace sidecar
