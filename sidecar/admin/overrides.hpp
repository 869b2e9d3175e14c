#pragma once
/// States that operators give to breakers by hand, for a time or until they take them back.

#include <boost/asio.hpp>
#include <chrono>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>

#include "sidecar/proxy/runtime.hpp"

namespace sidecar {

enum class override_state : std::uint8_t { close, force_open, disable, metrics_only };
/// CLOSE, FORCE_OPEN, DISABLE or METRICS_ONLY.
std::optional<override_state> override_of(std::string_view word) noexcept;

/// Threads: any. Every change writes a log line `audit`.
class overrides {
 public:
  explicit overrides(boost::asio::any_io_executor io) : io_(std::move(io)) {}

  /// Puts the breaker in `state` until `ttl` is over, or another override comes; then it is closed and empty. `by` says
  /// in the log who asked for it. Nothing for `close` but an end of what was there.
  void set(const std::shared_ptr<resilience::circuit_breaker>& breaker, override_state state,
           std::optional<std::chrono::nanoseconds> ttl, std::string_view by);

 private:
  void end(const std::shared_ptr<resilience::circuit_breaker>& breaker, std::uint64_t number);

  boost::asio::any_io_executor io_;
  std::mutex mutex_;
  struct timed {
    std::uint64_t number;
    std::unique_ptr<boost::asio::steady_timer> timer;
  };
  std::map<std::string, timed> ends_;
  std::uint64_t last_ = 0;
};

}  // namespace sidecar
