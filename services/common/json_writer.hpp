#pragma once
/// Writes JSON text member by member, so that numbers keep the form they must have (money has two decimals).

#include <concepts>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include <resilience/detail/json.hpp>

namespace common {

/// Appends `text`, which is UTF-8, as a JSON string.
using resilience::detail::append_json_string;

/// Commas are its business, balance is the caller's:
///
///     json_writer w;
///     w.begin_object().member("id", 7).member("name", name).end_object();
///     return std::move(w).text();
class json_writer {
 public:
  json_writer& begin_object() { return open('{'); }
  json_writer& end_object() { return close('}'); }
  json_writer& begin_array() { return open('['); }
  json_writer& end_array() { return close(']'); }

  json_writer& key(std::string_view name) {
    separate();
    append_json_string(text_, name);
    text_ += ':';
    first_ = true;
    return *this;
  }
  json_writer& value(std::string_view text) {
    separate();
    append_json_string(text_, text);
    return *this;
  }
  json_writer& value(const char* text) { return value(std::string_view(text)); }
  json_writer& value(std::same_as<bool> auto truth) { return raw(truth ? "true" : "false"); }
  json_writer& value(std::integral auto number)
    requires(!std::same_as<decltype(number), bool>)
  {
    return raw(std::to_string(number));
  }
  json_writer& null() { return raw("null"); }
  /// `json` stands in the text as it is.
  json_writer& raw(std::string_view json) {
    separate();
    text_ += json;
    return *this;
  }

  template <class T>
  json_writer& member(std::string_view name, const T& v) {
    key(name);
    return value(v);
  }
  json_writer& raw_member(std::string_view name, std::string_view json) {
    key(name);
    return raw(json);
  }

  [[nodiscard]] const std::string& text() const& noexcept { return text_; }
  [[nodiscard]] std::string text() && noexcept { return std::move(text_); }

 private:
  json_writer& open(char bracket) {
    separate();
    text_ += bracket;
    first_ = true;
    return *this;
  }
  json_writer& close(char bracket) {
    text_ += bracket;
    first_ = false;
    return *this;
  }
  void separate() {
    if (!first_) text_ += ',';
    first_ = false;
  }

  std::string text_;
  bool first_ = true;
};

}  // namespace common
