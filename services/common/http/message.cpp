#include "common/http/message.hpp"

#include <algorithm>
#include <chrono>

#include "common/http/problem.hpp"
#include "common/http/status.hpp"
#include "common/json_writer.hpp"
#include "common/text.hpp"

namespace common::http {
namespace {

char lower(char c) noexcept { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + ('a' - 'A')) : c; }

constexpr std::size_t rejected_characters = 256;

}  // namespace

std::optional<std::string_view> find(const pairs& in, std::string_view name) noexcept {
  const auto it = std::ranges::find(in, name, &pairs::value_type::first);
  if (it == in.end()) return std::nullopt;
  return it->second;
}

std::optional<std::string_view> find_field(const pairs& in, std::string_view name) noexcept {
  const auto it = std::ranges::find_if(
      in, [name](const std::string& other) { return std::ranges::equal(other, name, {}, lower, lower); },
      &pairs::value_type::first);
  if (it == in.end()) return std::nullopt;
  return it->second;
}

response json(std::string body, int status) {
  response answer;
  answer.status = status;
  answer.body = std::move(body);
  return answer;
}

std::string rejected_text(std::string_view text) {
  const std::string valid = to_utf8(text);
  std::string json;
  append_json_string(json, first_characters(valid, rejected_characters));
  return json;
}

response problem(const request& about, int status, std::string_view detail, violations wrong) {
  std::ranges::sort(wrong, [](const violation& a, const violation& b) {
    return a.field != b.field ? a.field < b.field : a.message < b.message;
  });
  json_writer w;
  w.begin_object();
  w.member("type", "about:blank").member("title", reason_phrase(status)).member("status", status);
  w.member("detail", to_utf8(detail)).member("instance", to_utf8(about.path));
  w.member("timestamp", rfc3339(std::chrono::system_clock::now()));
  w.member("correlationId", to_utf8(about.correlation_id));
  w.key("violations").begin_array();
  for (const violation& v : wrong) {
    w.begin_object();
    w.member("object", v.object).member("field", v.field);
    w.raw_member("rejectedValue", v.rejected).member("message", v.message);
    w.end_object();
  }
  w.end_array().end_object();
  response answer = json(std::move(w).text(), status);
  answer.content_type = "application/problem+json";
  return answer;
}

response bad_request(const request& about, violations wrong) {
  const std::string detail =
      wrong.size() == 1 && wrong.front().field.empty()
          ? wrong.front().message
          : "The request breaks " + std::to_string(wrong.size()) + (wrong.size() == 1 ? " rule" : " rules");
  return problem(about, 400, detail, std::move(wrong));
}

}  // namespace common::http
