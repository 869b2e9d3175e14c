#pragma once
/// The chunked transfer coding (RFC 9112, 7.1), read strictly and bit by bit.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

#include "sidecar/proxy/http_head.hpp"

namespace sidecar {

/// Takes the coding off a body, in place. Extensions are checked and dropped; the trailer is kept for whoever passes it
/// on. What it accepts has one reading only: CRLF ends every line, sizes are hexadecimal digits and nothing else.
class chunked_decoder {
 public:
  enum class status : std::uint8_t { more, done, bad };

  struct result {
    status state;
    std::size_t consumed;  ///< Bytes of the coding that were read.
    std::size_t decoded;   ///< Bytes of the body, moved to the start of the buffer.
  };

  /// Reads from `data`, which it overwrites with the decoded bytes. After `done`, the bytes from `consumed` on belong
  /// to the next message.
  result decode(char* data, std::size_t size) {
    std::size_t in = 0;
    std::size_t out = 0;
    while (in < size) {
      if (state_ == state::data) {
        const std::size_t n = static_cast<std::size_t>(std::min<std::uint64_t>(left_, size - in));
        if (in != out) std::memmove(data + out, data + in, n);
        in += n;
        out += n;
        left_ -= n;
        if (left_ == 0) state_ = state::data_cr;
        continue;
      }
      if (state_ == state::trailer) {
        if (!trailer_byte(data[in++])) return {status::bad, in, out};
      } else if (!step(data[in++])) {
        return {status::bad, in, out};
      }
      if (state_ == state::done) return {status::done, in, out};
    }
    return {status::more, in, out};
  }

  [[nodiscard]] bool done() const noexcept { return state_ == state::done; }
  /// The trailer's field lines with their blank line; only "\r\n" when there were none.
  [[nodiscard]] std::string_view trailer() const noexcept { return trailer_; }

  void reset() {
    state_ = state::size_first;
    left_ = 0;
    line_ = 0;
    trailer_.clear();
  }

 private:
  enum class state : std::uint8_t {
    size_first,
    size,
    extension,
    quoted,
    escaped,
    size_lf,
    data,
    data_cr,
    data_lf,
    trailer,
    done
  };

  static constexpr std::size_t max_line = 4096;      // of a size with its extensions
  static constexpr std::size_t max_trailer = 16384;  // bytes in all

  static int hex(char c) noexcept {
    if (c >= '0' && c <= '9') return c - '0';
    c = lower(c);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
  }

  bool step(char c) {
    switch (state_) {
      case state::size_first:
        line_ = 0;
        left_ = 0;
        state_ = state::size;
        return digit(c);
      case state::size:
        if (c == '\r') {
          state_ = state::size_lf;
          return true;
        }
        if (c == ';' || c == ' ' || c == '\t') {
          blank_ = c != ';';
          state_ = state::extension;
          return true;
        }
        return digit(c);
      case state::extension:
        if (++line_ > max_line) return false;
        if (c == '\r') {
          state_ = state::size_lf;
          return !blank_;  // white space belongs before a semicolon only
        }
        if (c == ';') blank_ = false;
        if (blank_ && c != ' ' && c != '\t') return false;
        if (c == '"') state_ = state::quoted;
        return visible(c);
      case state::quoted:
        if (++line_ > max_line) return false;
        if (c == '"') state_ = state::extension;
        if (c == '\\') state_ = state::escaped;
        return visible(c);
      case state::escaped:
        if (++line_ > max_line) return false;
        state_ = state::quoted;
        return visible(c);
      case state::size_lf:
        state_ = left_ == 0 ? state::trailer : state::data;
        return c == '\n';
      case state::data_cr:
        state_ = state::data_lf;
        return c == '\r';
      case state::data_lf:
        state_ = state::size_first;
        return c == '\n';
      default:
        return false;
    }
  }

  bool digit(char c) {
    const int value = hex(c);
    if (value < 0 || ++line_ > 15) return false;
    left_ = left_ * 16 + static_cast<std::uint64_t>(value);
    return true;
  }

  static bool visible(char c) noexcept { return c == '\t' || (static_cast<unsigned char>(c) >= 0x20 && c != 0x7f); }

  bool trailer_byte(char c) {
    if (trailer_.size() == max_trailer) return false;
    trailer_ += c;
    const std::size_t n = trailer_.size();
    if (c != '\n') return n < 2 || trailer_[n - 2] != '\r' || c == '\n';
    if (n < 2 || trailer_[n - 2] != '\r') return false;
    if (n == 2 || trailer_.ends_with("\r\n\r\n")) {
      state_ = state::done;
      return parse_trailer(trailer_, {.max_header = max_trailer}, fields_) == head_status::complete;
    }
    return true;
  }

 public:
  /// The fields of the trailer; views into `trailer()`.
  [[nodiscard]] const message_head& trailer_fields() const noexcept { return fields_; }

 private:
  std::uint64_t left_ = 0;
  std::size_t line_ = 0;
  state state_ = state::size_first;
  bool blank_ = false;
  std::string trailer_;
  message_head fields_;
};

}  // namespace sidecar
