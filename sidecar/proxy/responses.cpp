#include "sidecar/proxy/responses.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <ctime>

#include "common/http/status.hpp"
#include "sidecar/metrics/access_log.hpp"
#include "sidecar/proxy/http_head.hpp"

namespace sidecar {

void append_number(std::string& to, std::uint64_t n) {
  std::array<char, 20> digits;
  to.append(digits.data(), std::to_chars(digits.data(), digits.data() + digits.size(), n).ptr);
}

std::int64_t retry_after_seconds(std::chrono::nanoseconds d) noexcept {
  return std::max<std::int64_t>(std::chrono::ceil<std::chrono::seconds>(d).count(), 1);
}

std::optional<std::chrono::nanoseconds> parse_retry_after(std::string_view value) {
  if (const auto seconds = parse_decimal(value)) {
    return std::chrono::seconds{static_cast<std::int64_t>(std::min<std::uint64_t>(*seconds, 1'000'000'000))};
  }
  tm parts{};
  const std::string text(value);
  const char* end = ::strptime(text.c_str(), "%a, %d %b %Y %H:%M:%S GMT", &parts);
  if (end == nullptr || *end != '\0') return std::nullopt;
  const std::int64_t left = ::timegm(&parts) - ::time(nullptr);
  return std::chrono::seconds{std::clamp<std::int64_t>(left, 0, 1'000'000'000)};
}

void append_rate_limit(std::string& to, const route& r) {
  if (r.rate_limit_policy.empty()) return;
  to += r.rate_limit_policy;
  const resilience::limiter_level level = r.limiter_level();
  to += "RateLimit: ";
  // The policy's name stands quoted between its first colon and the first semicolon outside the quotes.
  const std::string_view policy = r.rate_limit_policy;
  to += policy.substr(18, policy.rfind(";q=") - 18);
  to += ";r=";
  append_number(to, static_cast<std::uint64_t>(std::max(level.tokens, 0)));
  to += ";t=";
  append_number(to, static_cast<std::uint64_t>(
                        std::max<std::int64_t>(std::chrono::ceil<std::chrono::seconds>(level.until_full).count(), 0)));
  to += "\r\n";
}

void append_reason(std::string& to, const refusal& r) {
  const reason_text& text = text_of(r.why);
  to += "x-resilience-reason: ";
  to += text.token;
  to += "\r\nProxy-Status: resilience-sidecar; error=";
  to += r.proxy_status.empty() ? text.proxy_status : r.proxy_status;
  to += "; details=\"";
  to += r.details.empty() ? text.title : r.details;
  to += "\"\r\n";
}

void append_connection(std::string& to, const answer_shape& shape) {
  if (shape.close) {
    to += "Connection: close\r\n";
  } else if (shape.keep_alive) {
    to += "Connection: keep-alive\r\n";
  }
}

namespace {

void append_status_line(std::string& to, int status) {
  to += "HTTP/1.1 ";
  append_number(to, static_cast<std::uint64_t>(status));
  to += ' ';
  to += common::http::reason_phrase(status);
  to += "\r\n";
}

void append_common(std::string& to, const refusal& r, const answer_shape& shape) {
  if (r.retry_after) {
    to += "Retry-After: ";
    append_number(to, static_cast<std::uint64_t>(retry_after_seconds(*r.retry_after)));
    to += "\r\n";
  }
  append_reason(to, r);
  to += "X-Request-Id: ";
  to += shape.request_id;
  to += "\r\n";
  if (shape.matched) append_rate_limit(to, *shape.matched);
  append_connection(to, shape);
}

}  // namespace

void append_problem(std::string& to, const refusal& r, const answer_shape& shape) {
  const reason_text& text = text_of(r.why);
  std::string body = R"({"type":"urn:resilience:)";
  body += text.token;
  body += R"(","title":")";
  body += text.title;
  body += R"(","status":)";
  append_number(body, static_cast<std::uint64_t>(r.code()));
  body += R"(,"reason":")";
  body += text.token;
  body += R"(","route":")";
  if (shape.matched) append_json(body, shape.matched->settings.name);
  body += R"(","request_id":")";
  append_json(body, shape.request_id);
  body += '"';
  if (!r.details.empty()) {
    body += R"(,"detail":")";
    append_json(body, r.details);
    body += '"';
  }
  if (r.retry_after) {
    body += R"(,"retry_after":)";
    append_number(body, static_cast<std::uint64_t>(retry_after_seconds(*r.retry_after)));
  }
  body += "}";

  append_status_line(to, r.code());
  to += "Content-Type: application/problem+json\r\nContent-Length: ";
  append_number(to, body.size());
  to += "\r\n";
  append_common(to, r, shape);
  to += "\r\n";
  if (!shape.head_only) to += body;
}

void append_fallback(std::string& to, const refusal& r, const fallback_settings::respond& respond,
                     const answer_shape& shape) {
  append_status_line(to, respond.status);
  const bool bodiless = respond.status == 204 || respond.status == 304;
  bool typed = false;
  for (const auto& [name, value] : respond.headers) {
    // How the message ends is for this proxy to say.
    if (ends_here(identify(name)) || iequals(name, "content-length")) continue;
    typed = typed || iequals(name, "content-type");
    to += name;
    to += ": ";
    to += value;
    to += "\r\n";
  }
  if (!typed && !respond.body.empty()) {
    const char first = respond.body.front();
    to += first == '{' || first == '[' ? "Content-Type: application/json\r\n"
                                       : "Content-Type: text/plain; charset=utf-8\r\n";
  }
  if (!bodiless) {
    to += "Content-Length: ";
    append_number(to, respond.body.size());
    to += "\r\n";
  }
  append_common(to, r, shape);
  to += "\r\n";
  if (!shape.head_only && !bodiless) to += respond.body;
}

}  // namespace sidecar
