#include "common/money.hpp"

#include <catch2/catch.hpp>
#include <limits>

using common::money;
using common::parse_money;

TEST_CASE("an amount is read digit by digit, whatever form its number has", "[money]") {
  const std::pair<std::string_view, std::int64_t> amounts[] = {
      {"0", 0},
      {"-0", 0},
      {"0.00", 0},
      {"10", 1000},
      {"1.5", 150},
      {"1.500", 150},
      {"0.30", 30},
      {"0.1", 10},
      {"-2.05", -205},
      {"1e1", 1000},
      {"1E+2", 10000},
      {"12.5e-1", 125},
      {"100e-4", 1},
      {"0e999999999999999999999", 0},
      {"0.0001e2", 1},
      {"90071992547409.93", 9007199254740993},
      {"92233720368547758.07", std::numeric_limits<std::int64_t>::max()},
      {"-92233720368547758.08", std::numeric_limits<std::int64_t>::min()},
      {"9223372036854775807e-2", std::numeric_limits<std::int64_t>::max()}};
  for (const auto& [text, minor] : amounts) {
    INFO(text);
    const auto read = parse_money(text);
    REQUIRE(read.has_value());
    CHECK(read->minor == minor);
  }
}

TEST_CASE("an amount that cannot be held exactly is refused, never rounded", "[money]") {
  for (const std::string_view text : {"10.005",
                                      "0.001",
                                      "1e-3",
                                      "1e-99999999999999999999",
                                      "92233720368547758.08",
                                      "-92233720368547758.09",
                                      "1e17",
                                      "1e400",
                                      "1e99999999999999999999",
                                      "99999999999999999999",
                                      "",
                                      "-",
                                      ".5",
                                      "5.",
                                      "1e",
                                      "1e+",
                                      "NaN",
                                      "0x10",
                                      "1.2.3",
                                      "1,5",
                                      "+1",
                                      " 1"}) {
    INFO(text);
    CHECK_FALSE(parse_money(text).has_value());
  }
}

TEST_CASE("an amount is written with exactly two decimals", "[money]") {
  CHECK(to_string(money{0}) == "0.00");
  CHECK(to_string(money{5}) == "0.05");
  CHECK(to_string(money{30}) == "0.30");
  CHECK(to_string(money{1000}) == "10.00");
  CHECK(to_string(money{-7}) == "-0.07");
  CHECK(to_string(money{std::numeric_limits<std::int64_t>::max()}) == "92233720368547758.07");
  CHECK(to_string(money{std::numeric_limits<std::int64_t>::min()}) == "-92233720368547758.08");
}

TEST_CASE("sums and products stop at the 64 bits", "[money]") {
  const money most{std::numeric_limits<std::int64_t>::max()};
  CHECK(add(most, money{-1}) == money{most.minor - 1});
  CHECK_FALSE(add(most, money{1}).has_value());
  CHECK(common::times(3, money{10}) == money{30});
  CHECK_FALSE(common::times(2147483647, money{4294967299}).has_value());
}
