#pragma once
/// What every service's `main` does: settings, logs, the HTTP server with health and metrics, signals, the end.

#include <prometheus/registry.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <resilience/health.hpp>
#include <resilience/prometheus.hpp>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "common/config.hpp"
#include "common/http/server.hpp"

namespace common {

/// Why a service cannot start, in a sentence for the operator. Exit code 1.
class startup_error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// How far a service is with what it must have before it serves; a unit is the service's own.
struct readiness {
  bool ready = true;
  std::int64_t restored = 0;
  std::int64_t to_restore = 0;
};

/// A running service. Threads: `ready`, `describe` and `drain` may be called by any.
class application {
 public:
  virtual ~application() = default;
  [[nodiscard]] virtual readiness ready() const { return {}; }
  /// Adds what it is made of to the answer of /health.
  virtual void describe(resilience::health_report& health) const { static_cast<void>(health); }
  /// The end has been asked for: requests that wait for something are to be answered now.
  virtual void drain() {}
};

/// What a service is made with. All of it outlives the application.
struct service_context {
  const config& settings;
  http::server& server;  ///< To add routes to.
  prometheus::Registry& metrics;
  resilience::prometheus_exporter& policies;
};

struct service_definition {
  std::string name;  ///< "catalog-service"
  std::uint16_t port = 0;
  std::string_view openapi;     ///< Served as /openapi.json.
  std::vector<option> options;  ///< Besides `service_options`.
  /// Throws startup_error, or std::invalid_argument for a mistake in the settings (exit code 2). Every route must be
  /// there when it returns; serving begins then.
  std::function<std::unique_ptr<application>(service_context&)> make;
};

/// The options of every service: address, port, workers, log.level, drain.delay-ms, drain.timeout-ms.
std::vector<option> service_options(std::uint16_t port);

/// Runs the service until SIGTERM or SIGINT. It then answers 503 (also /readyz) for drain.delay-ms and until no
/// request is left, at most drain.timeout-ms. A second signal ends it at once. Exit codes: 0; 1 when it could not start
/// or a request was cut; 2 for mistakes in the settings.
int run_service(const service_definition& service, int argc, const char* const* argv);

/// Adds /livez, /readyz, /health, /metrics and /openapi.json.
void add_standard_routes(http::router& routes, std::string_view openapi, const http::server& server,
                         std::function<const application*()> running, const prometheus::Registry& metrics,
                         const resilience::prometheus_exporter& policies);

}  // namespace common
