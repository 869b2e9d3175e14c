#pragma once
/// How a request is recognised in logs and traces: its X-Request-Id and its W3C trace context.

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

#include "sidecar/proxy/http_head.hpp"

namespace sidecar {

/// Random bits for identifiers and choices; not for secrets. One per thread.
class random_bits {
 public:
  random_bits();
  std::uint64_t next() noexcept;
  /// Appends 16 lower-case hexadecimal digits, not all zero.
  void hex16(char* to) noexcept;

 private:
  std::array<std::uint64_t, 4> state_;
};

struct identity {
  std::string request_id;  ///< The client's where it is usable, else a new one.
  std::array<char, 55>
      traceparent;  ///< For the upstream: the client's trace (W3C, else B3) or a new one, and a new span.

  [[nodiscard]] std::string_view trace_id() const noexcept { return {traceparent.data() + 3, 32}; }
  [[nodiscard]] std::string_view traceparent_text() const noexcept { return {traceparent.data(), traceparent.size()}; }

  void take(const request_head& request, random_bits& random);
  void make(random_bits& random);
};

}  // namespace sidecar
