#pragma once
/// Structured logs: one JSON object a line on stderr, `{"time","level","message", …fields}`.
///
///     common::log::info("listening", {{"address", address}, {"port", port}});

#include <boost/json/object.hpp>
#include <boost/json/value.hpp>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string_view>
#include <type_traits>
#include <utility>

namespace common::log {

enum class level : std::uint8_t { debug, info, warn, error };

/// Lines below `least` are dropped before they are formatted. `info` at start. Threads: any.
void set_level(level least) noexcept;
/// Whether a line of this level would be written.
bool enabled(level l) noexcept;
/// "debug", "info", "warn", "error"; nothing for another word.
std::optional<level> level_of(std::string_view word) noexcept;

/// One member of a line: its name and anything that a JSON value can be made of, text of every kind included.
struct field {
  template <class T>
  field(std::string_view field_name, T&& v) : name(field_name) {  // NOLINT: implicit from {name, value}
    if constexpr (std::is_convertible_v<T&&, std::string_view>) {
      const std::string_view text = std::forward<T>(v);
      value = boost::json::string_view(text.data(), text.size());
    } else {
      value = boost::json::value(std::forward<T>(v));
    }
  }
  std::string_view name;
  boost::json::value value;
};
using fields = std::initializer_list<field>;

/// Writes one line with a single system call, never mixed with another thread's. Threads: any. Text that is not UTF-8
/// is written with its stray bytes replaced.
void write(level l, std::string_view message, fields more = {});
/// The same for a line whose members are only known at run time.
void write(level l, std::string_view message, const boost::json::object& more);

inline void debug(std::string_view message, fields more = {}) { write(level::debug, message, more); }
inline void info(std::string_view message, fields more = {}) { write(level::info, message, more); }
inline void warn(std::string_view message, fields more = {}) { write(level::warn, message, more); }
inline void error(std::string_view message, fields more = {}) { write(level::error, message, more); }

}  // namespace common::log
