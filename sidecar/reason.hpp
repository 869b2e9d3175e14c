#pragma once
/// Why the sidecar itself answered: one word for bodies, headers, logs and metrics.

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>

namespace sidecar {

enum class reason : std::uint8_t {
  circuit_open,
  rate_limited,
  bulkhead_full,
  timed_out,
  connect_failure,
  upstream_reset,
  upstream_protocol_error,
  no_route,
  too_many_connections,
  draining,
  bad_request,
  uri_too_long,
  fields_too_large,
  header_timeout,
  body_timeout,
  body_too_large,
};

/// How a reason is told to a client: its word, status, title, and `Proxy-Status` error type (RFC 9209, 2.3).
struct reason_text {
  std::string_view token;
  int status;
  std::string_view proxy_status;
  std::string_view title;
};

inline constexpr std::array<reason_text, 16> reason_texts{{
    {"circuit_open", 503, "destination_unavailable", "The circuit breaker is open"},
    {"rate_limited", 429, "http_request_denied", "The rate limit is reached"},
    {"bulkhead_full", 503, "connection_limit_reached", "Too many requests are in flight"},
    {"timed_out", 504, "http_response_timeout", "The upstream did not answer in time"},
    {"connect_failure", 502, "connection_refused", "The upstream cannot be reached"},
    {"upstream_reset", 502, "connection_terminated", "The upstream closed the connection"},
    {"upstream_protocol_error", 502, "http_protocol_error", "The upstream's answer is not valid HTTP"},
    {"no_route", 404, "destination_not_found", "No route matches"},
    {"too_many_connections", 503, "connection_limit_reached", "Too many connections"},
    {"draining", 503, "destination_unavailable", "Shutting down"},
    {"bad_request", 400, "http_request_error", "The request is not valid HTTP"},
    {"uri_too_long", 414, "http_request_error", "The request line is too long"},
    {"fields_too_large", 431, "http_request_error", "The header fields are too large"},
    {"header_timeout", 408, "http_request_error", "The header fields came too slowly"},
    {"body_timeout", 408, "http_request_error", "The body came too slowly"},
    {"body_too_large", 413, "http_request_error", "The body is too large"},
}};

constexpr const reason_text& text_of(reason r) noexcept { return reason_texts[static_cast<std::size_t>(r)]; }
constexpr std::string_view to_string(reason r) noexcept { return text_of(r).token; }

/// Whether a fallback may answer it: every reason but those that the client's own request is to blame for.
constexpr bool may_fall_back(reason r) noexcept { return r < reason::bad_request; }

constexpr std::optional<reason> reason_of(std::string_view token) noexcept {
  for (std::size_t i = 0; i < reason_texts.size(); ++i) {
    if (reason_texts[i].token == token) return static_cast<reason>(i);
  }
  return std::nullopt;
}

}  // namespace sidecar
