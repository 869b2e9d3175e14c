#pragma once
/// How each type of value is written: its unit, how it is read, shown, and described in a JSON Schema.

#include <algorithm>
#include <array>
#include <charconv>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <expected>
#include <limits>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <resilience/detail/json.hpp>
#include <resilience/detail/yaml/node.hpp>
#include <resilience/units.hpp>

namespace resilience::detail::yaml {

/// JSON text of a string.
inline std::string json_string(std::string_view text) {
  std::string out;
  append_json_string(out, text);
  return out;
}

/// A string as one would write it in a file: bare where that is safe, else in single quotes.
inline std::string yaml_string(std::string_view text) {
  const bool bare = !text.empty() &&
                    text.find_first_not_of("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-./:%") ==
                        std::string_view::npos &&
                    text.front() != '-' && text.front() != '%' && text.front() != ':' && text.back() != ':';
  if (bare) return std::string(text);
  const auto control = [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; };
  if (std::ranges::any_of(text, control)) return json_string(text);
  std::string out = "'";
  for (const char c : text) out += c == '\'' ? "''" : std::string(1, c);
  return out + "'";
}

/// A number without trailing zeros: 12.5, 50.
inline std::string number(double v) {
  char digits[32];
  const auto end = std::to_chars(digits, digits + sizeof digits, v).ptr;
  return {digits, end};
}

/// Splits "50ms" into a whole number and what follows it. Nothing when it doesn't begin with one, or it is too large.
inline std::optional<std::pair<std::int64_t, std::string_view>> split_number(std::string_view text) noexcept {
  std::int64_t n = 0;
  const auto [rest, failed] = std::from_chars(text.data(), text.data() + text.size(), n);
  if (failed != std::errc{}) return std::nullopt;
  return std::pair{n, std::string_view(rest, text.data() + text.size())};
}

struct unit_of_time {
  std::string_view word;
  std::int64_t nanoseconds;
};
inline constexpr std::array<unit_of_time, 6> units_of_time{{{"ns", 1},
                                                            {"us", 1'000},
                                                            {"ms", 1'000'000},
                                                            {"s", 1'000'000'000},
                                                            {"m", 60'000'000'000},
                                                            {"h", 3'600'000'000'000}}};
/// The longest time a file may give: a year, so that sums of times can't overflow.
inline constexpr std::chrono::nanoseconds longest_time = std::chrono::hours{24 * 365};

inline std::optional<std::chrono::nanoseconds> unit_of(std::string_view word) noexcept {
  for (const unit_of_time& u : units_of_time) {
    if (u.word == word) return std::chrono::nanoseconds{u.nanoseconds};
  }
  return std::nullopt;
}

/// What a codec answers for a text that is not its own: the end of "`open_for` must …" or "`open_for` …".
using wrong = std::unexpected<std::string>;
template <class T>
using parsed = std::expected<T, std::string>;

/// Reads and writes one type. Each has: `unit` (for people), `parse(text)`, `show(value)`, `schema()`.
template <class T>
struct codec;

template <>
struct codec<std::chrono::nanoseconds> {
  static constexpr std::string_view unit = "duration: `50ms` `2s` `5m`";
  static parsed<std::chrono::nanoseconds> parse(std::string_view text) {
    const auto split = split_number(text);
    if (!split) return wrong("must be a duration such as 50ms, 2s or 5m, not " + ticked(text));
    const auto [n, word] = *split;
    if (word.empty()) return wrong("needs a unit: " + std::string(text) + "ms, " + std::string(text) + "s, …");
    if (word.starts_with('.')) return wrong("must be whole: 1500ms instead of 1.5s, not " + ticked(text));
    const auto one = unit_of(word);
    if (!one) return wrong("has the unknown unit " + ticked(word) + "; the units are ns, us, ms, s, m and h");
    if (n > longest_time / *one || n < -(longest_time / *one))
      return wrong("must be at most a year (8760h), not " + ticked(text));
    return n * *one;
  }
  static std::string show(std::chrono::nanoseconds d) {
    if (d.count() == 0) return "0ms";
    if (d == std::chrono::nanoseconds::max()) return "unlimited";
    const unit_of_time* best = &units_of_time[0];
    for (const unit_of_time& u : units_of_time) {
      if (d.count() % u.nanoseconds == 0) best = &u;
    }
    // 60s reads better than 1m, and is what is written mostly; from two minutes on the minute does.
    if (best->word == "m" && d < std::chrono::minutes{2}) best -= 1;
    return std::to_string(d.count() / best->nanoseconds) + std::string(best->word);
  }
  static std::string json(std::chrono::nanoseconds d) { return json_string(show(d)); }
  static std::string schema() {
    return R"({"type":"string","pattern":"^[0-9]+(ns|us|ms|s|m|h)$","examples":["50ms","2s"]})";
  }
};

template <>
struct codec<percent> {
  static constexpr std::string_view unit = "percent: `50%`";
  static parsed<percent> parse(std::string_view text) {
    double v = 0;
    const auto [rest, failed] = std::from_chars(text.data(), text.data() + text.size(), v, std::chars_format::fixed);
    const std::string_view word(rest, text.data() + text.size());
    if (failed != std::errc{} || !std::isfinite(v))
      return wrong("must be a percentage such as 50%, not " + ticked(text));
    if (word.empty()) return wrong("needs a unit: " + std::string(text) + "%");
    if (word != "%") return wrong("must be a percentage such as 50%, not " + ticked(text));
    return percent{v};
  }
  static std::string show(percent p) { return number(p.value) + "%"; }
  static std::string json(percent p) { return json_string(show(p)); }
  static std::string schema() { return R"({"type":"string","pattern":"^[0-9]+([.][0-9]+)?%$","examples":["50%"]})"; }
};

template <>
struct codec<int> {
  static constexpr std::string_view unit = "whole number";
  static parsed<int> parse(std::string_view text) {
    const auto split = split_number(text);
    if (!split || !split->second.empty()) return wrong("must be a whole number, not " + ticked(text));
    if (split->first > std::numeric_limits<int>::max() || split->first < std::numeric_limits<int>::min())
      return wrong("must be at most 2147483647, not " + ticked(text));
    return static_cast<int>(split->first);
  }
  static std::string show(int v) { return std::to_string(v); }
  static std::string json(int v) { return show(v); }
  static std::string schema() { return R"({"type":"integer"})"; }
};

template <>
struct codec<double> {
  static constexpr std::string_view unit = "number";
  static parsed<double> parse(std::string_view text) {
    double v = 0;
    const auto [rest, failed] = std::from_chars(text.data(), text.data() + text.size(), v, std::chars_format::fixed);
    if (failed != std::errc{} || rest != text.data() + text.size() || !std::isfinite(v))
      return wrong("must be a number, not " + ticked(text));
    return v;
  }
  static std::string show(double v) { return number(v); }
  static std::string json(double v) { return number(v); }
  static std::string schema() { return R"({"type":"number"})"; }
};

template <>
struct codec<bool> {
  static constexpr std::string_view unit = "`true` or `false`";
  static parsed<bool> parse(std::string_view text) {
    if (text == "true") return true;
    if (text == "false") return false;
    return wrong("must be true or false, not " + ticked(text));
  }
  static std::string show(bool v) { return v ? "true" : "false"; }
  static std::string json(bool v) { return show(v); }
  static std::string schema() { return R"({"type":"boolean"})"; }
};

template <>
struct codec<std::string> {
  static constexpr std::string_view unit = "text";
  static parsed<std::string> parse(std::string_view text) { return std::string(text); }
  static std::string show(const std::string& v) { return yaml_string(v); }
  static std::string json(const std::string& v) { return json_string(v); }
  static std::string schema() { return R"({"type":"string"})"; }
};

/// Bytes: the one use of this type in a configuration.
template <>
struct codec<std::uint64_t> {
  static constexpr std::string_view unit = "size: `64KiB` `10MiB`";
  static constexpr std::array<std::pair<std::string_view, int>, 4> words{
      {{"B", 0}, {"KiB", 10}, {"MiB", 20}, {"GiB", 30}}};
  static parsed<std::uint64_t> parse(std::string_view text) {
    const auto split = split_number(text);
    if (!split || split->first < 0) return wrong("must be a size such as 64KiB, not " + ticked(text));
    const auto [n, word] = *split;
    if (word.empty()) return wrong("needs a unit: " + std::string(text) + "KiB, " + std::string(text) + "MiB, …");
    for (const auto& [name, shift] : words) {
      if (name != word) continue;
      if (n > (std::int64_t{1} << 50) >> shift) return wrong("must be at most 1048576GiB, not " + ticked(text));
      return static_cast<std::uint64_t>(n) << shift;
    }
    return wrong("has the unknown unit " + ticked(word) + "; the units are B, KiB, MiB and GiB");
  }
  static std::string show(std::uint64_t bytes) {
    auto best = words[0];
    for (const auto& w : words) {
      if (bytes != 0 && bytes % (std::uint64_t{1} << w.second) == 0) best = w;
    }
    return std::to_string(bytes >> best.second) + std::string(best.first);
  }
  static std::string json(std::uint64_t bytes) { return json_string(show(bytes)); }
  static std::string schema() {
    return R"({"type":"string","pattern":"^[0-9]+(B|KiB|MiB|GiB)$","examples":["64KiB"]})";
  }
};

template <>
struct codec<rate> {
  static constexpr std::string_view unit = "calls over a time: `10/s` `60/m` `20/10s`";
  static parsed<rate> parse(std::string_view text) {
    const auto split = split_number(text);
    if (!split) return wrong("must be a rate such as 10/s, 60/m or 20/10s, not " + ticked(text));
    const auto [n, rest] = *split;
    if (rest.empty()) return wrong("needs a unit: " + std::string(text) + "/s, " + std::string(text) + "/m, …");
    if (n > std::numeric_limits<int>::max() || n < std::numeric_limits<int>::min())
      return wrong("must be at most 2147483647 calls, not " + ticked(text));
    if (!rest.starts_with('/')) return wrong("must be a rate such as 10/s, 60/m or 20/10s, not " + ticked(text));
    const std::string_view span = rest.substr(1);
    if (const auto one = unit_of(span)) return rate{static_cast<int>(n), *one};
    const auto period = codec<std::chrono::nanoseconds>::parse(span);
    if (!period) return wrong("must be a rate such as 10/s, 60/m or 20/10s, not " + ticked(text));
    return rate{static_cast<int>(n), *period};
  }
  static std::string show(const rate& r) {
    std::string span = r.period == std::chrono::minutes{1} ? "1m" : codec<std::chrono::nanoseconds>::show(r.period);
    if (span.starts_with('1') && span.size() > 1 && (span[1] < '0' || span[1] > '9')) span.erase(0, 1);
    return std::to_string(r.calls) + "/" + span;
  }
  static std::string json(const rate& r) { return json_string(show(r)); }
  static std::string schema() {
    return R"({"type":"string","pattern":"^[0-9]+/([0-9]*)(ns|us|ms|s|m|h)$","examples":["10/s","20/10s"]})";
  }
};

template <>
struct codec<sliding_window> {
  static constexpr std::string_view unit = "`100 calls` or whole seconds: `10s`";
  static parsed<sliding_window> parse(std::string_view text) {
    const auto split = split_number(text);
    if (!split) return wrong("must be a window such as `100 calls` or 10s, not " + ticked(text));
    const auto [n, word] = *split;
    if (word.empty()) return wrong("needs a unit: `" + std::string(text) + " calls`, or " + std::string(text) + "s");
    if (word == " calls" || word == " call") {
      if (n > std::numeric_limits<int>::max() || n < std::numeric_limits<int>::min())
        return wrong("must be at most 2147483647 calls, not " + ticked(text));
      return sliding_window(calls{static_cast<int>(n)});
    }
    const auto span = codec<std::chrono::nanoseconds>::parse(text);
    if (!span) return wrong("must be a window such as `100 calls` or 10s, not " + ticked(text));
    if (*span % std::chrono::seconds{1} != std::chrono::nanoseconds::zero())
      return wrong("must be calls or whole seconds, not " + ticked(text));
    return sliding_window(seconds_window{static_cast<int>(*span / std::chrono::seconds{1})});
  }
  static std::string show(const sliding_window& w) {
    if (!w.by_time()) return std::to_string(w.size()) + (w.size() == 1 ? " call" : " calls");
    return codec<std::chrono::nanoseconds>::show(std::chrono::seconds{w.size()});
  }
  static std::string json(const sliding_window& w) { return json_string(show(w)); }
  static std::string schema() {
    return R"({"type":"string","pattern":"^[0-9]+( calls?|s|m|h)$","examples":["100 calls","10s"]})";
  }
};

/// The words of an enumeration, in one list: `static constexpr auto all = std::to_array<std::pair<std::string_view,
/// E>>`.
template <class E>
struct words_of;

template <class E>
  requires requires { words_of<E>::all; }
struct codec<E> {
  static constexpr std::string_view unit = words_of<E>::unit;
  static parsed<E> parse(std::string_view text) {
    std::vector<std::string_view> known;
    std::string list;
    for (const auto& [word, value] : words_of<E>::all) {
      if (word == text) return value;
      known.push_back(word);
      list += (list.empty() ? "" : ", ") + std::string(word);
    }
    return wrong("must be one of " + list + ", not " + ticked(text) + did_you_mean(text, known));
  }
  static std::string show(E v) {
    for (const auto& [word, value] : words_of<E>::all) {
      if (value == v) return std::string(word);
    }
    return "unknown";
  }
  static std::string json(E v) { return json_string(show(v)); }
  static std::string schema() {
    std::string list;
    for (const auto& [word, value] : words_of<E>::all) list += (list.empty() ? "" : ",") + json_string(word);
    return R"({"enum":[)" + list + "]}";
  }
};

template <>
struct words_of<jitter> {
  static constexpr std::string_view unit = "`full` or `none`";
  static constexpr auto all =
      std::to_array<std::pair<std::string_view, jitter>>({{"full", jitter::full}, {"none", jitter::none}});
};

/// Something that may be left out.
template <class T>
struct codec<std::optional<T>> {
  static constexpr std::string_view unit = codec<T>::unit;
  static parsed<std::optional<T>> parse(std::string_view text) {
    auto value = codec<T>::parse(text);
    if (!value) return wrong(value.error());
    return std::optional<T>(std::move(*value));
  }
  static std::string show(const std::optional<T>& v) { return v ? codec<T>::show(*v) : "none"; }
  static std::string json(const std::optional<T>& v) { return v ? codec<T>::json(*v) : "null"; }
  static std::string schema() { return codec<T>::schema(); }
};

}  // namespace resilience::detail::yaml
