#pragma once
/// Amounts of money: whole minor units (cents) in 64 bits, exact in every step.

#include <compare>
#include <cstdint>
#include <expected>
#include <limits>
#include <optional>
#include <string>
#include <string_view>

namespace common {

struct money {
  std::int64_t minor = 0;
  friend auto operator<=>(const money&, const money&) = default;
};

/// Reads the text of a JSON number: `10`, `1.5`, `1.500`, `1e1`. No double in between, and nothing is rounded.
/// The error says what an amount must: have at most two decimals, or be within the 64 bits.
std::expected<money, std::string_view> parse_money(std::string_view literal);

/// With exactly two decimals, as JSON has it: `0.30`, `-10.00`.
std::string to_string(money amount);

/// The sum; nothing where it overflows.
constexpr std::optional<money> add(money a, money b) noexcept {
  money sum;
  if (__builtin_add_overflow(a.minor, b.minor, &sum.minor)) return std::nullopt;
  return sum;
}

/// `count` times `each`; nothing where it overflows.
constexpr std::optional<money> times(std::int64_t count, money each) noexcept {
  money product;
  if (__builtin_mul_overflow(count, each.minor, &product.minor)) return std::nullopt;
  return product;
}

}  // namespace common
