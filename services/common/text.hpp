#pragma once
/// Text as the outside world sends it: UTF-8 that may be anything but that, times, and letters in two cases.

#include <chrono>
#include <cstddef>
#include <string>
#include <string_view>

namespace common {

/// Whether `text` is well-formed UTF-8.
bool is_utf8(std::string_view text) noexcept;
/// `text` with every byte that is not part of well-formed UTF-8 replaced by U+FFFD.
std::string to_utf8(std::string_view text);
/// How many characters (code points) well-formed UTF-8 has.
std::size_t characters(std::string_view utf8) noexcept;
/// The first `count` characters of well-formed UTF-8.
std::string_view first_characters(std::string_view utf8, std::size_t count) noexcept;
/// Whether there is nothing but white space (ASCII's) in it.
bool is_blank(std::string_view text) noexcept;
/// Lower case, letter by letter, for comparing without regard to case. `utf8` is well-formed.
std::string fold_case(std::string_view utf8);

/// RFC 3339 in UTC with milliseconds: 2024-05-31T12:00:00.250Z.
std::string rfc3339(std::chrono::system_clock::time_point at);

}  // namespace common
