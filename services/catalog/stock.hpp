#pragma once
/// What inventory says is in stock, asked through a retry, a circuit breaker and a time limiter of our own.

#include <boost/asio/awaitable.hpp>
#include <chrono>
#include <expected>
#include <map>
#include <resilience/asio.hpp>
#include <resilience/circuit_breaker.hpp>
#include <resilience/health.hpp>
#include <resilience/pipeline.hpp>
#include <resilience/prometheus.hpp>
#include <resilience/retry.hpp>
#include <resilience/time_limiter.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "common/http/client.hpp"

namespace catalog {

class stock {
 public:
  /// `inventory_url` is http://HOST:PORT; throws std::invalid_argument. `timeout` bounds each attempt, more than zero.
  /// Calls run on `where`, one thread.
  stock(boost::asio::any_io_executor where, std::string_view inventory_url, std::chrono::milliseconds timeout);
  stock(const stock&) = delete;
  stock& operator=(const stock&) = delete;

  /// Whether each of the codes is in stock; a code that inventory does not know is not. Nothing when inventory cannot
  /// be asked. Must be awaited on the executor that was given.
  boost::asio::awaitable<std::optional<std::map<std::string, bool>>> in_stock(std::vector<std::string> codes);

  void describe(resilience::health_report& health) const;
  /// Shows the policies' numbers as long as this lives.
  void export_to(resilience::prometheus_exporter& exporter);

 private:
  using reply = std::expected<common::http::response, std::error_code>;
  boost::asio::awaitable<reply> ask(std::string target);

  common::http::client client_;
  resilience::retry retry_;
  resilience::circuit_breaker breaker_;
  resilience::time_limiter limiter_;
  resilience::pipeline<resilience::retry&, resilience::circuit_breaker&, resilience::time_limiter&> guarded_;
  std::vector<resilience::subscription> exported_;
};

}  // namespace catalog
