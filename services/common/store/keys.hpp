#pragma once
/// Parts of keys whose bytes sort as the values do.

#include <cstdint>
#include <string>
#include <string_view>

#include "common/store/store.hpp"

namespace common::store {

namespace detail {
template <class Unsigned>
void append_big_endian(std::string& key, Unsigned value) {
  for (int shift = static_cast<int>(sizeof value) * 8 - 8; shift >= 0; shift -= 8) {
    key.push_back(static_cast<char>((value >> static_cast<unsigned>(shift)) & 0xFFU));
  }
}
template <class Unsigned>
Unsigned take_big_endian(std::string_view& key) {
  if (key.size() < sizeof(Unsigned)) throw store_error("a key or value is too short");
  Unsigned value = 0;
  for (std::size_t i = 0; i < sizeof value; ++i) {
    value = static_cast<Unsigned>((value << 8U) | static_cast<unsigned char>(key[i]));
  }
  key.remove_prefix(sizeof value);
  return value;
}
}  // namespace detail

inline void append_u32(std::string& key, std::uint32_t value) { detail::append_big_endian(key, value); }
inline void append_u64(std::string& key, std::uint64_t value) { detail::append_big_endian(key, value); }
/// Takes the number off the front; throws store_error when there is too little.
inline std::uint32_t take_u32(std::string_view& key) { return detail::take_big_endian<std::uint32_t>(key); }
inline std::uint64_t take_u64(std::string_view& key) { return detail::take_big_endian<std::uint64_t>(key); }

/// Text followed by more: "a" sorts before "ab" whatever follows either, also where a text has zero bytes in it.
inline void append_text(std::string& key, std::string_view text) {
  for (const char c : text) {
    key.push_back(c);
    if (c == '\0') key.push_back('\xFF');
  }
  key.append(2, '\0');
}

}  // namespace common::store
