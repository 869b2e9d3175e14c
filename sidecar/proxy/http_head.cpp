#include "sidecar/proxy/http_head.hpp"

#include <algorithm>
#include <cstring>

#if defined(__SSE2__)
#include <emmintrin.h>

#include <bit>
#endif

namespace sidecar {
namespace {

enum : std::uint8_t { token_char = 1, value_char = 2, target_char = 4, host_char = 8 };

constexpr std::array<std::uint8_t, 256> make_classes() {
  std::array<std::uint8_t, 256> table{};
  for (int c = 0; c < 256; ++c) {
    const char ch = static_cast<char>(c);
    const bool alnum = (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
    std::uint8_t bits = 0;
    if (alnum || (c < 128 && std::string_view("!#$%&'*+-.^_`|~").contains(ch))) bits |= token_char;
    if (c == '\t' || (c >= 0x20 && c != 0x7f)) bits |= value_char;
    // A fragment never travels, and quotes, spaces and the like are not part of any URI.
    if (c > 0x20 && c < 0x7f && !std::string_view("#\"<>\\^`{|}").contains(ch)) bits |= target_char;
    if (alnum || (c < 128 && std::string_view("-._~%!$&'()*+,;=:[]").contains(ch))) bits |= host_char;
    table[static_cast<std::size_t>(c)] = bits;
  }
  return table;
}
constexpr std::array<std::uint8_t, 256> classes = make_classes();

bool is(std::uint8_t what, char c) noexcept { return (classes[static_cast<unsigned char>(c)] & what) != 0; }

bool all(std::uint8_t what, std::string_view text) noexcept {
  return std::ranges::all_of(text, [what](char c) { return is(what, c); });
}

/// The first byte that can't be part of a field's value.
const char* skip_value(const char* p, const char* end) noexcept {
#if defined(__SSE2__)
  const __m128i space = _mm_set1_epi8(0x20), del = _mm_set1_epi8(0x7f), tab = _mm_set1_epi8('\t');
  while (end - p >= 16) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    // Unsigned: below a space is what the maximum with a space changes.
    const __m128i printable = _mm_cmpeq_epi8(_mm_max_epu8(bytes, space), bytes);
    const __m128i good =
        _mm_andnot_si128(_mm_cmpeq_epi8(bytes, del), _mm_or_si128(printable, _mm_cmpeq_epi8(bytes, tab)));
    const unsigned mask = static_cast<unsigned>(_mm_movemask_epi8(good));
    if (mask != 0xffff) return p + std::countr_one(mask);
    p += 16;
  }
#endif
  while (p != end && is(value_char, *p)) ++p;
  return p;
}

/// The last bytes of a head may be a lone CR; anything else after a line must be CRLF.
enum class line_end : std::uint8_t { good, incomplete, bad };
line_end expect_crlf(const char*& p, const char* end) noexcept {
  if (p == end) return line_end::incomplete;
  if (*p != '\r') return line_end::bad;
  if (p + 1 == end) return line_end::incomplete;
  if (p[1] != '\n') return line_end::bad;
  p += 2;
  return line_end::good;
}

/// Field lines from `p` to the blank line.
head_status parse_fields(const char*& p, const char* end, const head_limits& limits, message_head& head) {
  head.fields.clear();
  const char* const begin = p;
  const auto too_large = [&](const char* at) { return static_cast<std::uint64_t>(at - begin) > limits.max_header; };
  for (;;) {
    if (p == end) return too_large(p) ? head_status::fields_too_large : head_status::incomplete;
    if (*p == '\r') {
      const line_end last = expect_crlf(p, end);
      if (last == line_end::bad) return head_status::bad;
      if (last == line_end::incomplete) return head_status::incomplete;
      return too_large(p - 2) ? head_status::fields_too_large : head_status::complete;
    }
    const char* const name = p;
    while (p != end && is(token_char, *p)) ++p;
    if (p == end) return too_large(p) ? head_status::fields_too_large : head_status::incomplete;
    if (*p != ':' || p == name) return head_status::bad;  // folding and space before the colon too
    const std::string_view name_view(name, static_cast<std::size_t>(p - name));
    ++p;
    while (p != end && (*p == ' ' || *p == '\t')) ++p;
    const char* const value = p;
    p = skip_value(p, end);
    const char* value_end = p;
    const line_end eol = expect_crlf(p, end);
    if (eol == line_end::bad) return head_status::bad;
    if (too_large(p)) return head_status::fields_too_large;
    if (eol == line_end::incomplete) return head_status::incomplete;
    while (value_end != value && (value_end[-1] == ' ' || value_end[-1] == '\t')) --value_end;
    if (head.fields.size() == static_cast<std::size_t>(limits.max_fields)) return head_status::fields_too_large;
    head.fields.push_back(
        {name_view, std::string_view(value, static_cast<std::size_t>(value_end - value)), p, identify(name_view)});
  }
}

/// Reads Connection, Content-Length and Transfer-Encoding. False: no two readers need agree where the message ends.
bool understand_framing(message_head& head, bool& chunked) {
  chunked = false;
  bool has_connection = false;
  for (const head_field& field : head.fields) {
    switch (field.id) {
      case field_id::content_length: {
        const auto length = parse_decimal(field.value);
        if (!length || head.has_length) return false;
        head.has_length = true;
        head.content_length = *length;
        break;
      }
      case field_id::transfer_encoding:
        if (chunked || !iequals(field.value, "chunked")) return false;
        chunked = true;
        break;
      case field_id::connection:
        has_connection = true;
        break;
      default:
        break;
    }
  }
  if (chunked && (head.has_length || head.minor == 0)) return false;
  if (!has_connection) return true;

  bool good = true;
  for (const head_field& field : head.fields) {
    if (field.id != field_id::connection) continue;
    for_each_element(field.value, [&](std::string_view option) {
      if (!all(token_char, option)) {
        good = false;
      } else if (iequals(option, "close")) {
        head.close = true;
      } else if (iequals(option, "keep-alive")) {
        head.keep_alive = true;
      } else {
        for (head_field& named : head.fields) {
          // Not even a sender can take away what frames and routes the message.
          const bool vital = named.id == field_id::host || named.id == field_id::content_length;
          if (!vital && iequals(named.name, option)) named.nominated = true;
        }
      }
    });
  }
  return good;
}

void reset(message_head& head) noexcept {
  head.fields.clear();
  head.size = 0;
  head.minor = 1;
  head.framing = body_framing::none;
  head.content_length = 0;
  head.has_length = head.close = head.keep_alive = false;
}

bool starts_with_http(std::string_view target) noexcept {
  return target.size() > 7 && iequals(target.substr(0, 7), "http://");
}

/// Splits the target into what is matched and forwarded. False: not a form a proxy like this serves.
bool understand_target(request_head& head) {
  const std::string_view target = head.target;
  if (target.front() == '/') {
    head.form = target_form::origin;
    head.path = target;
    return true;
  }
  if (target == "*") {
    head.form = target_form::asterisk;
    head.path = target;
    return head.method == "OPTIONS";
  }
  if (!starts_with_http(target)) return false;
  head.form = target_form::absolute;
  const std::string_view rest = target.substr(7);
  const std::size_t slash = rest.find_first_of("/?");
  head.host = rest.substr(0, slash);
  head.path = slash == std::string_view::npos ? std::string_view("/") : rest.substr(slash);
  // A query straight after the authority has no path to match.
  return !head.host.empty() && head.path.front() == '/';
}

/// HTTP/1.DIGIT at `p`; moves past it.
head_status parse_version(const char*& p, const char* end, int& minor) noexcept {
  static constexpr std::string_view prefix = "HTTP/1.";
  for (const char expected : prefix) {
    if (p == end) return head_status::incomplete;
    if (*p++ != expected) return head_status::bad;
  }
  if (p == end) return head_status::incomplete;
  if (*p != '0' && *p != '1') return head_status::bad;
  minor = *p++ - '0';
  return head_status::complete;
}

}  // namespace

bool iequals(std::string_view a, std::string_view b) noexcept {
  return a.size() == b.size() &&
         std::equal(a.begin(), a.end(), b.begin(), [](char x, char y) { return lower(x) == lower(y); });
}

std::optional<std::uint64_t> parse_decimal(std::string_view text) noexcept {
  if (text.empty() || text.size() > 18) return std::nullopt;
  std::uint64_t value = 0;
  for (const char c : text) {
    if (c < '0' || c > '9') return std::nullopt;
    value = value * 10 + static_cast<std::uint64_t>(c - '0');
  }
  return value;
}

field_id identify(std::string_view name) noexcept {
  const auto either = [&](std::string_view text, field_id id) { return iequals(name, text) ? id : field_id::other; };
  const char first = lower(name.front());
  switch (name.size()) {
    case 2:
      return first == 't' ? either("te", field_id::te) : first == 'b' ? either("b3", field_id::b3) : field_id::other;
    case 4:
      return first == 'h' ? either("host", field_id::host) : field_id::other;
    case 6:
      return first == 'e' ? either("expect", field_id::expect) : field_id::other;
    case 7:
      return first == 'u' ? either("upgrade", field_id::upgrade) : field_id::other;
    case 9:
      return first == 'r' ? either("ratelimit", field_id::rate_limit) : field_id::other;
    case 10:
      if (first == 'c') return either("connection", field_id::connection);
      return first == 'k' ? either("keep-alive", field_id::keep_alive) : field_id::other;
    case 11:
      if (first == 'r') return either("retry-after", field_id::retry_after);
      if (first == 'x') return either("x-b3-spanid", field_id::b3_span_id);
      return first == 't' ? either("traceparent", field_id::traceparent) : field_id::other;
    case 12:
      if (first != 'x') return field_id::other;
      if (lower(name[2]) == 'r') return either("x-request-id", field_id::request_id);
      return lower(name[5]) == 't' ? either("x-b3-traceid", field_id::b3_trace_id)
                                   : either("x-b3-sampled", field_id::b3_sampled);
    case 14:
      return first == 'c' ? either("content-length", field_id::content_length) : field_id::other;
    case 15:
      if (first == 'i') return either("idempotency-key", field_id::idempotency_key);
      return first == 'x' ? either("x-forwarded-for", field_id::forwarded_for) : field_id::other;
    case 16:
      if (first == 'x') return either("x-forwarded-host", field_id::forwarded_host);
      if (first == 'r') return either("ratelimit-policy", field_id::rate_limit_policy);
      return first == 'p' ? either("proxy-connection", field_id::proxy_connection) : field_id::other;
    case 17:
      if (first == 't') return either("transfer-encoding", field_id::transfer_encoding);
      return first == 'x' ? either("x-forwarded-proto", field_id::forwarded_proto) : field_id::other;
    case 18:
      return first == 'p' ? either("proxy-authenticate", field_id::proxy_authenticate) : field_id::other;
    case 19:
      return first == 'p' ? either("proxy-authorization", field_id::proxy_authorization) : field_id::other;
    default:
      return field_id::other;
  }
}

bool allowed_in_trailer(const head_field& field) noexcept {
  if (field.nominated || ends_here(field.id)) return false;
  switch (field.id) {
    case field_id::content_length:
    case field_id::host:
    case field_id::expect:
    case field_id::forwarded_for:
    case field_id::forwarded_host:
    case field_id::forwarded_proto:
    case field_id::idempotency_key:
    case field_id::request_id:
    case field_id::traceparent:
    case field_id::b3:
    case field_id::b3_trace_id:
    case field_id::b3_span_id:
    case field_id::b3_sampled:
    case field_id::rate_limit:
    case field_id::rate_limit_policy:
    case field_id::retry_after:
      return false;
    default:
      break;
  }
  static constexpr std::array<std::string_view, 7> forbidden{
      "authorization", "content-encoding", "content-range", "content-type", "cache-control", "set-cookie", "trailer"};
  return std::ranges::none_of(forbidden, [&](std::string_view name) { return iequals(name, field.name); });
}

const head_field* message_head::find(field_id id) const noexcept {
  for (const head_field& field : fields) {
    if (field.id == id) return &field;
  }
  return nullptr;
}

head_status parse(std::string_view bytes, const head_limits& limits, request_head& head) {
  reset(head);
  head.expect_continue = false;
  head.host = {};
  const char* p = bytes.data();
  const char* const end = p + bytes.size();
  if (p != end && *p == '\r') {
    const line_end blank = expect_crlf(p, end);
    if (blank == line_end::bad) return head_status::bad;
    if (blank == line_end::incomplete) return head_status::incomplete;
  }

  const char* const line = p;
  const auto too_long = [&](const char* at) { return static_cast<std::uint64_t>(at - line) > limits.max_line; };
  const auto unfinished = [&] { return too_long(end) ? head_status::line_too_long : head_status::incomplete; };
  while (p != end && is(token_char, *p)) ++p;
  if (p == end) return unfinished();
  if (p == line || *p != ' ') return head_status::bad;
  head.method = {line, static_cast<std::size_t>(p - line)};
  const char* const target = ++p;
  while (p != end && is(target_char, *p)) ++p;
  if (p == end) return unfinished();
  if (too_long(p)) return head_status::line_too_long;
  if (p == target || *p != ' ') return head_status::bad;
  head.target = {target, static_cast<std::size_t>(p - target)};
  ++p;
  if (const head_status version = parse_version(p, end, head.minor); version != head_status::complete) return version;
  const line_end eol = expect_crlf(p, end);
  if (eol == line_end::bad) return head_status::bad;
  if (eol == line_end::incomplete) return head_status::incomplete;
  if (too_long(p - 2)) return head_status::line_too_long;
  if (!understand_target(head)) return head_status::bad;

  if (const head_status fields = parse_fields(p, end, limits, head); fields != head_status::complete) return fields;
  head.size = static_cast<std::size_t>(p - bytes.data());

  bool chunked = false;
  if (!understand_framing(head, chunked)) return head_status::bad;
  const head_field* host = nullptr;
  for (const head_field& field : head.fields) {
    if (field.id == field_id::host) {
      if (host != nullptr) return head_status::bad;
      host = &field;
    } else if (field.id == field_id::expect) {
      if (!iequals(field.value, "100-continue")) return head_status::bad;
      head.expect_continue = head.minor >= 1;
    }
  }
  if (host == nullptr && head.minor >= 1) return head_status::bad;
  if (host != nullptr && !all(host_char, host->value)) return head_status::bad;
  if (head.form != target_form::absolute) {
    if (host != nullptr) head.host = host->value;
  } else if (!all(host_char, head.host)) {
    return head_status::bad;
  }

  head.framing = chunked ? body_framing::chunked : head.has_length ? body_framing::length : body_framing::none;
  return head_status::complete;
}

head_status parse(std::string_view bytes, const head_limits& limits, bool to_head, response_head& head) {
  reset(head);
  const char* p = bytes.data();
  const char* const end = p + bytes.size();
  const char* const line = p;
  if (const head_status version = parse_version(p, end, head.minor); version != head_status::complete) return version;
  if (p == end) return head_status::incomplete;
  if (*p++ != ' ') return head_status::bad;
  head.status = 0;
  for (int i = 0; i < 3; ++i, ++p) {
    if (p == end) return head_status::incomplete;
    if (*p < '0' || *p > '9') return head_status::bad;
    head.status = head.status * 10 + (*p - '0');
  }
  if (head.status < 100 || head.status > 599) return head_status::bad;
  if (p == end) return head_status::incomplete;
  const char* phrase = p;
  if (*p == ' ') {
    phrase = ++p;
    p = skip_value(p, end);
  }
  head.reason_phrase = {phrase, static_cast<std::size_t>(p - phrase)};
  const line_end eol = expect_crlf(p, end);
  if (static_cast<std::uint64_t>(p - line) > limits.max_line + 2) return head_status::line_too_long;
  if (eol == line_end::bad) return head_status::bad;
  if (eol == line_end::incomplete) return head_status::incomplete;

  if (const head_status fields = parse_fields(p, end, limits, head); fields != head_status::complete) return fields;
  head.size = static_cast<std::size_t>(p - bytes.data());

  bool chunked = false;
  if (!understand_framing(head, chunked)) return head_status::bad;
  const bool bodiless = to_head || head.status < 200 || head.status == 204 || head.status == 304;
  if (bodiless) {
    head.framing = body_framing::none;
  } else if (chunked) {
    head.framing = body_framing::chunked;
  } else {
    head.framing = head.has_length ? body_framing::length : body_framing::until_close;
  }
  return head_status::complete;
}

head_status parse_trailer(std::string_view bytes, const head_limits& limits, message_head& trailer) {
  reset(trailer);
  const char* p = bytes.data();
  const head_status status = parse_fields(p, bytes.data() + bytes.size(), limits, trailer);
  if (status == head_status::complete) trailer.size = static_cast<std::size_t>(p - bytes.data());
  return status;
}

}  // namespace sidecar
