#pragma once
/// Heads of HTTP/1 messages, read in one pass and without allocating: validated (RFC 9110, 9112), split into fields,
/// and their framing decided. Stricter than the RFC where it leaves a choice: what two readers might frame differently
/// is an error. Views point into the bytes given.

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace sidecar {

/// Fields that mean something to a proxy.
enum class field_id : std::uint8_t {
  other,
  connection,
  content_length,
  expect,
  forwarded_for,
  forwarded_host,
  forwarded_proto,
  host,
  idempotency_key,
  keep_alive,
  proxy_authenticate,
  proxy_authorization,
  proxy_connection,
  rate_limit,
  rate_limit_policy,
  request_id,
  retry_after,
  te,
  traceparent,
  b3,
  b3_trace_id,
  b3_span_id,
  b3_sampled,
  transfer_encoding,
  upgrade,
};

field_id identify(std::string_view name) noexcept;

/// ASCII only, whatever the locale.
bool iequals(std::string_view a, std::string_view b) noexcept;
constexpr char lower(char c) noexcept { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; }

struct head_field {
  std::string_view name;
  std::string_view value;  ///< Without white space around it.
  const char* end;         ///< After the line's CRLF.
  field_id id;
  bool nominated = false;  ///< A `Connection` option names it: it ends here.
};

enum class head_status : std::uint8_t {
  complete,
  incomplete,       ///< All bytes so far are good; more are needed.
  bad,              ///< Not HTTP, or ambiguous.
  line_too_long,    ///< The first line is longer than allowed.
  fields_too_large  ///< Too many fields, or too many bytes of them.
};

struct head_limits {
  std::uint64_t max_line = 8 * 1024;
  std::uint64_t max_header = 64 * 1024;
  int max_fields = 100;
};

enum class body_framing : std::uint8_t { none, length, chunked, until_close };

/// What requests and responses share. Made to be used again: its vector keeps its memory.
struct message_head {
  std::vector<head_field> fields;
  std::size_t size = 0;  ///< Bytes of the head, blank line included.
  int minor = 1;         ///< Of the version: HTTP/1.minor.
  body_framing framing = body_framing::none;
  std::uint64_t content_length = 0;
  bool has_length = false;  ///< A Content-Length was there (it frames nothing in an answer to HEAD).
  bool close = false;       ///< `Connection: close`.
  bool keep_alive = false;  ///< `Connection: keep-alive`.

  [[nodiscard]] const head_field* find(field_id id) const noexcept;
};

enum class target_form : std::uint8_t { origin, absolute, asterisk };

struct request_head : message_head {
  std::string_view method;
  std::string_view target;  ///< As written.
  std::string_view path;    ///< Path and query in origin form, `*` for an asterisk; what is matched and forwarded.
  std::string_view host;    ///< Of the target in absolute form, else of the field.
  target_form form = target_form::origin;
  bool expect_continue = false;
};

struct response_head : message_head {
  int status = 0;
  std::string_view reason_phrase;
};

/// Reads a request's head from the start of `bytes`. One empty line before it is skipped (and counts in `size`).
head_status parse(std::string_view bytes, const head_limits& limits, request_head& head);

/// Reads a response's head. `to_head`: it answers a HEAD request, so it has no body whatever its fields say.
head_status parse(std::string_view bytes, const head_limits& limits, bool to_head, response_head& head);

/// Reads field lines up to and with the blank line: the trailer of a chunked body. `size` is set.
head_status parse_trailer(std::string_view bytes, const head_limits& limits, message_head& trailer);

/// Whether a field belongs to this hop, or is one that this proxy writes itself.
constexpr bool ends_here(field_id id) noexcept {
  switch (id) {
    case field_id::connection:
    case field_id::keep_alive:
    case field_id::proxy_authenticate:
    case field_id::proxy_authorization:
    case field_id::proxy_connection:
    case field_id::te:
    case field_id::transfer_encoding:
    case field_id::upgrade:
      return true;
    default:
      return false;
  }
}

/// Whether a trailer may carry it on: framing, routing and what a proxy writes may not (RFC 9110, 6.5.1).
bool allowed_in_trailer(const head_field& field) noexcept;

/// A whole number without sign, at most 19 digits.
std::optional<std::uint64_t> parse_decimal(std::string_view text) noexcept;

/// Calls `each(element)` for the comma-separated elements of a list, empty ones left out.
template <class Each>
void for_each_element(std::string_view list, Each each) {
  while (!list.empty()) {
    const std::size_t comma = list.find(',');
    std::string_view element = list.substr(0, comma);
    list = comma == std::string_view::npos ? std::string_view{} : list.substr(comma + 1);
    while (!element.empty() && (element.front() == ' ' || element.front() == '\t')) element.remove_prefix(1);
    while (!element.empty() && (element.back() == ' ' || element.back() == '\t')) element.remove_suffix(1);
    if (!element.empty()) each(element);
  }
}

}  // namespace sidecar
