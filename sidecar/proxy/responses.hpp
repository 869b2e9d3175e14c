#pragma once
/// The answers made here, and the lines added to those that pass through.

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "sidecar/proxy/runtime.hpp"
#include "sidecar/reason.hpp"

namespace sidecar {

/// Why an answer is made here and not by the upstream.
struct refusal {
  reason why;
  int status = 0;                   ///< 0: the reason's own.
  std::string_view proxy_status{};  ///< Empty: the reason's own.
  std::string_view details{};
  std::optional<std::chrono::nanoseconds> retry_after{};  ///< When asking again may succeed.

  [[nodiscard]] int code() const noexcept { return status != 0 ? status : text_of(why).status; }
};

/// What the client's side of an answer looks like.
struct answer_shape {
  std::string_view request_id;
  const route* matched = nullptr;
  bool head_only = false;   ///< To a HEAD request: the fields, but no body.
  bool close = false;       ///< Say `Connection: close`.
  bool keep_alive = false;  ///< Say `Connection: keep-alive`, as HTTP/1.0 clients need.
};

void append_number(std::string& to, std::uint64_t n);

/// RateLimit-Policy and RateLimit of a limited route; nothing for others.
void append_rate_limit(std::string& to, const route& r);
/// `x-resilience-reason` and `Proxy-Status`.
void append_reason(std::string& to, const refusal& r);
void append_connection(std::string& to, const answer_shape& shape);

/// A whole problem+json answer.
void append_problem(std::string& to, const refusal& r, const answer_shape& shape);
/// A fallback's fixed answer.
void append_fallback(std::string& to, const refusal& r, const fallback_settings::respond& respond,
                     const answer_shape& shape);

/// Whole seconds, rounded up, at least 1.
std::int64_t retry_after_seconds(std::chrono::nanoseconds d) noexcept;

/// Retry-After as a number of seconds or an HTTP date; nothing when it is neither.
std::optional<std::chrono::nanoseconds> parse_retry_after(std::string_view value);

}  // namespace sidecar
