#include "sidecar/proxy/identity.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <random>

namespace sidecar {
namespace {

constexpr std::string_view digits = "0123456789abcdef";

bool is_hex(std::string_view text) noexcept {
  return std::ranges::all_of(text, [](char c) { return digits.contains(c); });
}
bool is_zero(std::string_view text) noexcept {
  return std::ranges::all_of(text, [](char c) { return c == '0'; });
}
bool is_id(std::string_view text) noexcept { return is_hex(text) && !is_zero(text); }

bool usable(std::string_view id) noexcept {
  return !id.empty() && id.size() <= 128 && std::ranges::all_of(id, [](char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
           std::string_view("-._:/+=@").contains(c);
  });
}

/// version-traceid-parentid-flags; a later version may say more after them.
bool valid_traceparent(std::string_view t) noexcept {
  if (t.size() < 55 || t[2] != '-' || t[35] != '-' || t[52] != '-') return false;
  if (!is_hex(t.substr(0, 2)) || t.starts_with("ff")) return false;
  if (t.size() > 55 && (t.starts_with("00") || t[55] != '-')) return false;
  return is_id(t.substr(3, 32)) && is_id(t.substr(36, 16)) && is_hex(t.substr(53, 2));
}

}  // namespace

random_bits::random_bits() {
  std::random_device device;
  for (std::uint64_t& word : state_) word = std::uint64_t{device()} << 32 | device();
  state_[0] |= 1;
}

// xoshiro256++ (Blackman and Vigna).
std::uint64_t random_bits::next() noexcept {
  const std::uint64_t result = std::rotl(state_[0] + state_[3], 23) + state_[0];
  const std::uint64_t t = state_[1] << 17;
  state_[2] ^= state_[0];
  state_[3] ^= state_[1];
  state_[1] ^= state_[2];
  state_[0] ^= state_[3];
  state_[2] ^= t;
  state_[3] = std::rotl(state_[3], 45);
  return result;
}

void random_bits::hex16(char* to) noexcept {
  // Spread the nibbles over sixteen bytes, then turn each into its digit without a table.
  const std::uint64_t bits = next() | 1;
  const auto spread = [](std::uint64_t x) {
    x = (x | x << 16) & 0x0000ffff0000ffff;
    x = (x | x << 8) & 0x00ff00ff00ff00ff;
    x = (x | x << 4) & 0x0f0f0f0f0f0f0f0f;
    const std::uint64_t above_nine = ((x + 0x0606060606060606) >> 4) & 0x0101010101010101;
    return x + 0x3030303030303030 + above_nine * ('a' - '0' - 10);
  };
  const std::uint64_t low = spread(bits & 0xffffffff);
  const std::uint64_t high = spread(bits >> 32);
  std::memcpy(to, &low, 8);
  std::memcpy(to + 8, &high, 8);
}

void identity::make(random_bits& random) {
  request_id.resize(32);
  random.hex16(request_id.data());
  random.hex16(request_id.data() + 16);
  std::memcpy(traceparent.data(), "00-", 3);
  random.hex16(traceparent.data() + 3);
  random.hex16(traceparent.data() + 19);
  traceparent[35] = '-';
  random.hex16(traceparent.data() + 36);
  std::memcpy(traceparent.data() + 52, "-01", 3);
}

void identity::take(const request_head& request, random_bits& random) {
  std::string_view id, parent, b3, b3_trace, b3_sampled;
  for (const head_field& field : request.fields) {
    switch (field.id) {
      case field_id::request_id:
        id = field.value;
        break;
      case field_id::traceparent:
        parent = field.value;
        break;
      case field_id::b3:
        b3 = field.value;
        break;
      case field_id::b3_trace_id:
        b3_trace = field.value;
        break;
      case field_id::b3_sampled:
        b3_sampled = field.value;
        break;
      default:
        break;
    }
  }
  if (usable(id)) {
    request_id.assign(id);
  } else {
    request_id.resize(32);
    random.hex16(request_id.data());
    random.hex16(request_id.data() + 16);
  }

  char* const t = traceparent.data();
  std::memcpy(t, "00-", 3);
  std::memcpy(t + 52, "-01", 3);
  t[35] = '-';
  random.hex16(t + 36);
  if (valid_traceparent(parent)) {
    std::memcpy(t + 3, parent.data() + 3, 32);
    std::memcpy(t + 53, parent.data() + 53, 2);
    return;
  }
  if (const std::size_t dash = b3.find('-'); dash != std::string_view::npos) {
    b3_trace = b3.substr(0, dash);
    if (b3.size() > dash + 18 && b3[dash + 17] == '-') b3_sampled = b3.substr(dash + 18, 1);
  }
  if ((b3_trace.size() == 32 || b3_trace.size() == 16) && is_id(b3_trace)) {
    std::memset(t + 3, '0', 32);
    std::memcpy(t + 35 - b3_trace.size(), b3_trace.data(), b3_trace.size());
    if (b3_sampled == "0") t[54] = '0';
    return;
  }
  random.hex16(t + 3);
  random.hex16(t + 19);
}

}  // namespace sidecar
