#pragma once
/// What a sidecar's YAML file says, read and checked: plain values, no pointers into the file.
/// Every default stands here and nowhere else; policies' defaults are the library's.

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <variant>
#include <vector>

#include <resilience/adaptive_rate_limiter.hpp>
#include <resilience/bulkhead.hpp>
#include <resilience/circuit_breaker.hpp>
#include <resilience/rate_limiter.hpp>
#include <resilience/retry.hpp>
#include <resilience/retry_budget.hpp>

#include "sidecar/reason.hpp"

namespace sidecar {

using std::chrono::nanoseconds;
using namespace std::chrono_literals;

struct endpoint {
  std::string host;  ///< A name, an IPv4 address, or an IPv6 address without brackets.
  std::uint16_t port = 0;

  friend auto operator<=>(const endpoint&, const endpoint&) = default;
};

/// What a client may send. On `listen` for all, and a route may set any of them for itself.
struct request_limits {
  std::uint64_t max_line = 8 * 1024;      ///< Bytes of the request line; more is 414.
  std::uint64_t max_header = 64 * 1024;   ///< Bytes of all fields; more is 431.
  int max_fields = 100;                   ///< More is 431.
  std::optional<std::uint64_t> max_body;  ///< Bytes; more is 413. None: unlimited.
  nanoseconds header_timeout = 10s;       ///< From the first byte to the end of the fields; then 408.
  nanoseconds body_idle_timeout = 30s;    ///< Between two reads of a body; then 408.
  nanoseconds idle_timeout = 60s;         ///< A kept-alive connection without a request is closed.

  friend bool operator==(const request_limits&, const request_limits&) = default;
};

struct listen_settings {
  endpoint address;
  int max_connections = 10'000;
  int threads = 0;  ///< 0: one per CPU.
  request_limits limits;

  friend bool operator==(const listen_settings&, const listen_settings&) = default;
};

struct health_check_settings {
  std::string path;
  nanoseconds interval = 2s;

  friend bool operator==(const health_check_settings&, const health_check_settings&) = default;
};

struct upstream_settings {
  std::vector<endpoint> targets;
  nanoseconds connect_timeout = 1s;
  nanoseconds idle_timeout = 4s;  ///< A pooled connection older than this is not used again.
  std::optional<health_check_settings> health_check;
  resilience::retry_budget_config retry_budget;

  friend bool operator==(const upstream_settings&, const upstream_settings&) = default;
};

/// What the sidecar's retry knows beyond the library's.
struct retry_rules {
  bool on_connect_failure = true;
  bool on_reset = true;
  std::set<int> on_status{502, 503, 504};
  std::set<std::string> methods{"GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"};
  bool honour_retry_after = true;
  std::uint64_t replay_buffer = 64 * 1024;  ///< Bytes of body kept for a repetition.

  friend bool operator==(const retry_rules&, const retry_rules&) = default;
};

/// Every policy instance of the file by (kind, name), those written inline in a route under the route's name.
struct policy_settings {
  std::map<std::string, resilience::circuit_breaker_config> circuit_breaker;
  std::map<std::string, resilience::rate_limiter_config> rate_limiter;
  std::map<std::string, resilience::adaptive_rate_limiter_config> adaptive_rate_limiter;
  std::map<std::string, resilience::bulkhead_config> bulkhead;
  std::map<std::string, resilience::retry_config> retry;
  std::map<std::string, retry_rules> retry_rules_of;  ///< Same names as `retry`.
};

struct path_match {
  enum class kind_type : std::uint8_t { exact, prefix, regex } kind = kind_type::prefix;
  std::string text = "/";

  friend bool operator==(const path_match&, const path_match&) = default;
};

struct route_match {
  path_match path;
  std::set<std::string> methods;               ///< Empty: all.
  std::map<std::string, std::string> headers;  ///< Each must be there with this value (names lower-case).
  std::string host;                            ///< Empty: any; without port, lower-case.

  friend bool operator==(const route_match&, const route_match&) = default;
};

/// A fixed answer.
struct fallback_respond {
  int status = 503;
  std::map<std::string, std::string> headers;  ///< Names lower-case.
  std::string body;

  friend bool operator==(const fallback_respond&, const fallback_respond&) = default;
};
/// Another upstream, asked once.
struct fallback_alternate {
  std::string upstream;
  friend bool operator==(const fallback_alternate&, const fallback_alternate&) = default;
};
/// A stored answer.
struct fallback_stale {
  nanoseconds at_most{};
  friend bool operator==(const fallback_stale&, const fallback_stale&) = default;
};

struct fallback_settings {
  using respond = fallback_respond;
  using alternate = fallback_alternate;
  using stale = fallback_stale;

  std::set<reason> when;  ///< Never empty once read: an omitted `when` is every reason it may take.
  std::variant<respond, alternate, stale> action;

  friend bool operator==(const fallback_settings&, const fallback_settings&) = default;
};

struct chaos_settings {
  resilience::percent rate;
  nanoseconds latency{};
  std::optional<int> status;

  friend bool operator==(const chaos_settings&, const chaos_settings&) = default;
};

struct route_settings {
  std::string name;
  route_match match;
  std::string upstream;
  nanoseconds timeout = 15s;
  std::optional<nanoseconds> per_try_timeout;
  request_limits limits;  ///< The listener's, with what the route sets for itself.

  /// Instance names; none where the route has no such policy. At most one of the two limiters.
  std::optional<std::string> circuit_breaker, rate_limiter, adaptive_rate_limiter, bulkhead, retry;
  std::optional<fallback_settings> fallback;
  std::optional<chaos_settings> chaos;

  friend bool operator==(const route_settings&, const route_settings&) = default;
};

struct drain_settings {
  nanoseconds delay = 5s;
  nanoseconds timeout = 60s;

  friend bool operator==(const drain_settings&, const drain_settings&) = default;
};

struct access_log_settings {
  std::string path = "stdout";  ///< stdout, none, or a file.

  friend bool operator==(const access_log_settings&, const access_log_settings&) = default;
};

/// Spans are exported by a later part of the project; the keys are read and checked.
struct tracing_settings {
  std::string otlp, zipkin;
  resilience::percent sample{100};

  friend bool operator==(const tracing_settings&, const tracing_settings&) = default;
};

struct settings {
  listen_settings listen;
  endpoint admin;
  std::map<std::string, upstream_settings> upstreams;
  policy_settings policies;
  std::vector<route_settings> routes;  ///< In file order; the first that matches wins.
  drain_settings drain;
  std::vector<std::string> trusted_proxies;  ///< Addresses or CIDR blocks.
  access_log_settings access_log;
  tracing_settings tracing;
};

}  // namespace sidecar
