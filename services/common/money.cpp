#include "common/money.hpp"

#include <algorithm>
#include <charconv>

namespace common {
namespace {

constexpr std::string_view too_fine = "must have at most two decimals";
constexpr std::string_view too_large = "must be between -92233720368547758.08 and 92233720368547758.07";
constexpr std::string_view not_a_number = "must be a number";

// Exponents are held here, far beyond what any digits of a bounded body can make up for.
constexpr std::int64_t exponent_bound = 1'000'000'000'000;

// The digits of "[+-]123"; nothing else may follow.
std::optional<std::int64_t> parse_exponent(std::string_view text) {
  const bool negative = text.starts_with('-');
  if (text.starts_with('-') || text.starts_with('+')) text.remove_prefix(1);
  if (text.empty() || text.find_first_not_of("0123456789") != std::string_view::npos) return std::nullopt;
  std::int64_t value = 0;
  for (const char c : text) value = std::min(value * 10 + (c - '0'), exponent_bound);
  return negative ? -value : value;
}

}  // namespace

std::expected<money, std::string_view> parse_money(std::string_view literal) {
  const bool negative = literal.starts_with('-');
  if (negative) literal.remove_prefix(1);
  std::int64_t exponent = 0;
  if (const std::size_t e = literal.find_first_of("eE"); e != std::string_view::npos) {
    const auto written = parse_exponent(literal.substr(e + 1));
    if (!written) return std::unexpected(not_a_number);
    exponent = *written;
    literal = literal.substr(0, e);
  }
  const std::size_t point = literal.find('.');
  std::string digits(literal.substr(0, point));
  const bool whole_part = !digits.empty();
  if (point != std::string_view::npos) {
    const std::string_view decimals = literal.substr(point + 1);
    if (decimals.empty()) return std::unexpected(not_a_number);
    digits += decimals;
    exponent -= static_cast<std::int64_t>(decimals.size());
  }
  if (!whole_part || digits.find_first_not_of("0123456789") != std::string::npos) return std::unexpected(not_a_number);

  // Now the value is digits × 10^exponent; bare of zeros at both ends it has just its significant digits.
  const std::size_t last = digits.find_last_not_of('0');
  if (last == std::string::npos) return money{};
  exponent += static_cast<std::int64_t>(digits.size() - 1 - last);
  digits.erase(last + 1);
  digits.erase(0, digits.find_first_not_of('0'));

  const std::int64_t zeros = exponent + 2;
  if (zeros < 0) return std::unexpected(too_fine);
  constexpr std::int64_t most_digits = std::numeric_limits<std::uint64_t>::digits10;  // 19: all of int64's fit
  if (static_cast<std::int64_t>(digits.size()) + zeros > most_digits) return std::unexpected(too_large);
  digits.append(static_cast<std::size_t>(zeros), '0');
  std::uint64_t magnitude = 0;
  std::from_chars(digits.data(), digits.data() + digits.size(), magnitude);
  constexpr auto most = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
  if (magnitude > most + (negative ? 1 : 0)) return std::unexpected(too_large);
  return money{static_cast<std::int64_t>(negative ? 0 - magnitude : magnitude)};
}

std::string to_string(money amount) {
  const bool negative = amount.minor < 0;
  const auto bits = static_cast<std::uint64_t>(amount.minor);
  const std::uint64_t magnitude = negative ? 0 - bits : bits;
  const std::uint64_t cents = magnitude % 100;
  return (negative ? "-" : "") + std::to_string(magnitude / 100) + (cents < 10 ? ".0" : ".") + std::to_string(cents);
}

}  // namespace common
