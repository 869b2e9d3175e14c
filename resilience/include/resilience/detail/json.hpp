#pragma once
/// Enough of JSON to write what health.hpp reports: no reading, no document in memory.

#include <charconv>
#include <concepts>
#include <cstdio>
#include <string>
#include <string_view>

namespace resilience::detail {

/// Appends `text` to `out` as a JSON string. Bytes from 0x80 on are passed as they are: names are UTF-8.
inline void append_json_string(std::string& out, std::string_view text) {
  out += '"';
  for (const char c : text) {
    switch (c) {
      case '"':
        out += "\\\"";
        break;
      case '\\':
        out += "\\\\";
        break;
      case '\n':
        out += "\\n";
        break;
      case '\r':
        out += "\\r";
        break;
      case '\t':
        out += "\\t";
        break;
      default:
        if (static_cast<unsigned char>(c) < 0x20) {
          char escaped[8];
          std::snprintf(escaped, sizeof escaped, "\\u%04x", static_cast<unsigned>(c));
          out += escaped;
        } else {
          out += c;
        }
    }
  }
  out += '"';
}

/// One JSON object, written member by member: `json_object{}.add("status", "UP").text()`.
class json_object {
 public:
  json_object& add(std::string_view key, std::string_view value) {
    begin(key);
    append_json_string(text_, value);
    return *this;
  }
  json_object& add(std::string_view key, const char* value) { return add(key, std::string_view(value)); }
  json_object& add(std::string_view key, std::integral auto value) {
    begin(key);
    char digits[24];
    text_.append(digits, std::to_chars(digits, digits + sizeof digits, value).ptr);
    return *this;
  }
  /// A member whose value is JSON already.
  json_object& add_json(std::string_view key, std::string_view json) {
    begin(key);
    text_ += json;
    return *this;
  }

  [[nodiscard]] std::string text() const { return text_ + '}'; }

 private:
  void begin(std::string_view key) {
    if (text_.size() > 1) text_ += ',';
    append_json_string(text_, key);
    text_ += ':';
  }

  std::string text_ = "{";
};

/// `half_open` as HALF_OPEN.
inline std::string upper(std::string_view text) {
  std::string all(text);
  for (char& c : all) {
    if (c >= 'a' && c <= 'z') c = static_cast<char>(c - 'a' + 'A');
  }
  return all;
}

/// A rate as Spring Boot writes it: "50.0%", "33.3%", "-1.0%".
inline std::string percent_text(double percent) {
  char text[32];
  std::snprintf(text, sizeof text, "%.1f%%", percent);
  return text;
}

}  // namespace resilience::detail
