#pragma once
/// The living state behind the configuration: policy instances, upstreams and counters by name. A reload keeps every
/// one whose (kind, name) remains, and publishes a new immutable snapshot; requests finish on the one they began with.

#include <netinet/in.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "sidecar/config/settings.hpp"
#include "sidecar/metrics/counters.hpp"
#include "sidecar/proxy/router.hpp"

namespace sidecar {

template <class T>
using instances = std::map<std::string, std::shared_ptr<T>>;

/// Every policy instance by kind and name.
struct policies {
  instances<resilience::circuit_breaker> circuit_breaker;
  instances<resilience::rate_limiter> rate_limiter;
  instances<resilience::adaptive_rate_limiter> adaptive_rate_limiter;
  instances<resilience::bulkhead> bulkhead;
  instances<resilience::retry> retry;
};

/// An address ready for connect().
struct socket_address {
  sockaddr_storage storage{};
  socklen_t size = 0;
};

/// One address of an upstream and whether its health checks succeed. Lives as long as something refers to it; a
/// reload that keeps the endpoint keeps the target.
class target {
 public:
  target(endpoint where, std::size_t slot);

  const endpoint where;
  const std::size_t slot;  ///< Unique in the process: workers index their connection pools by it.

  /// What the name resolved to last; empty when it never did.
  [[nodiscard]] std::vector<socket_address> addresses() const;
  /// Looks the name up again (blocking; a numeric address costs nothing). Keeps the old answer on failure.
  void resolve();
  [[nodiscard]] bool numeric() const noexcept { return numeric_; }

  std::atomic<bool> up = true;
  std::atomic<int> failed_checks = 0;

 private:
  mutable std::mutex mutex_;
  std::vector<socket_address> addresses_;
  bool numeric_ = false;
};

/// An upstream as one snapshot sees it; its targets, budget and counters are shared with the snapshots before.
struct upstream {
  std::string name;
  upstream_settings settings;
  std::vector<std::shared_ptr<target>> targets;
  std::shared_ptr<resilience::retry_budget> budget;
  std::shared_ptr<upstream_counters> counters;

  /// Without a health check always up; else while any target is.
  [[nodiscard]] bool up() const noexcept;
};

/// A route and everything a request on it touches, found once at reload.
struct route {
  route_settings settings;
  retry_rules retrying;
  std::shared_ptr<const sidecar::upstream> upstream, alternate;  ///< The second is the fallback's.
  std::shared_ptr<resilience::circuit_breaker> circuit_breaker;
  std::shared_ptr<resilience::rate_limiter> rate_limiter;
  std::shared_ptr<resilience::adaptive_rate_limiter> adaptive_rate_limiter;
  std::shared_ptr<resilience::bulkhead> bulkhead;
  std::shared_ptr<resilience::retry> retry;
  std::shared_ptr<route_counters> counters;
  std::string rate_limit_policy;  ///< The `RateLimit-Policy` line of its answers; empty without a limiter.

  /// What is left of its limiter. Only for routes that have one.
  [[nodiscard]] resilience::limiter_level limiter_level() const noexcept {
    return rate_limiter ? rate_limiter->level() : adaptive_rate_limiter->level();
  }
};

/// What one generation of the configuration comes to. Immutable.
struct snapshot {
  std::uint64_t generation = 0;
  settings config;
  std::vector<route> routes;  ///< In file order.
  std::map<std::string, std::shared_ptr<const upstream>> upstreams;
  std::shared_ptr<const sidecar::router> router;
  std::shared_ptr<const trusted_networks> trusted;
};

/// Owns what must survive a reload. Threads: any; `apply` calls are serialised.
class runtime {
 public:
  /// `workers`: how many threads will count.
  explicit runtime(std::size_t workers);
  ~runtime();
  runtime(const runtime&) = delete;
  runtime& operator=(const runtime&) = delete;

  /// Makes `config` the current configuration. Blocks while names are looked up. The settings have been checked.
  std::shared_ptr<const snapshot> apply(settings config);

  /// Makes the present configuration a snapshot again, after a policy instance was changed by hand.
  std::shared_ptr<const snapshot> refresh();

  [[nodiscard]] std::shared_ptr<const snapshot> current() const;
  /// Policy instances in use by the current snapshot.
  [[nodiscard]] policies all_policies() const;
  /// Counters of every route the process has had, "" (requests that met no route) first.
  [[nodiscard]] std::vector<std::shared_ptr<const route_counters>> routes() const;
  [[nodiscard]] std::vector<std::shared_ptr<const upstream_counters>> upstreams() const;
  [[nodiscard]] const sharded<connection_shard>& connections() const noexcept { return connections_; }

  [[nodiscard]] std::size_t workers() const noexcept { return workers_; }
  [[nodiscard]] sharded<connection_shard>& connections() noexcept { return connections_; }
  [[nodiscard]] const std::shared_ptr<route_counters>& no_route() const noexcept { return no_route_; }

 private:
  struct state;

  std::size_t workers_;
  std::shared_ptr<route_counters> no_route_;
  sharded<connection_shard> connections_;
  mutable std::mutex mutex_;
  std::mutex applying_;
  std::unique_ptr<state> state_;
};

}  // namespace sidecar
