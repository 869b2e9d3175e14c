// JSON bodies and the money in them: whatever comes in, Boost.JSON's own verdict, one canonical text, exact amounts.
#include <boost/json.hpp>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "common/json.hpp"
#include "common/money.hpp"

namespace {

void require(bool held) {
  if (!held) std::abort();
}

// Digits without an exponent, worked out in the plainest way; nothing when that does not do.
std::optional<std::int64_t> plain_amount(std::string_view text) {
  const bool negative = text.starts_with('-');
  if (negative) text.remove_prefix(1);
  __int128 minor = 0;
  int decimals = -1;
  for (const char c : text) {
    if (c == '.') {
      decimals = 0;
      continue;
    }
    if (c < '0' || c > '9') return std::nullopt;
    if (decimals >= 2) {
      if (c != '0') return std::nullopt;
      continue;
    }
    if (decimals >= 0) ++decimals;
    minor = minor * 10 + (c - '0');
    if (minor > static_cast<__int128>(1) << 100) return std::nullopt;
  }
  for (int n = std::max(decimals, 0); n < 2; ++n) minor *= 10;
  if (negative) minor = -minor;
  if (minor > INT64_MAX || minor < INT64_MIN) return std::nullopt;
  return static_cast<std::int64_t>(minor);
}

void check_money(std::string_view literal) {
  const auto amount = common::parse_money(literal);
  if (amount) require(common::parse_money(to_string(*amount)) == amount);
  if (literal.find_first_of("eE") != std::string_view::npos) return;
  const auto plain = plain_amount(literal);
  require(amount.has_value() == plain.has_value());
  if (amount) require(amount->minor == *plain);
}

void visit(common::json_value value, int depth) {
  require(depth <= 64);
  if (value.kind() == common::json_kind::number) check_money(value.text());
  for (const common::json_value& child : value.children()) visit(child, depth + 1);
}

void read_as_order(const common::json_document& document) {
  common::http::violations wrong;
  common::json_object order(document.root(), "order", wrong);
  order.text("name");
  order.optional_text("note", 10);
  order.integer("customerId", 1);
  order.amount("price", common::money{1});
  for (common::json_object& item : order.objects("items", 1, 1000)) item.integer("quantity", 1, 2147483647);
  if (auto address = order.object("address")) address->text("city");
  boost::system::error_code ec;
  boost::json::parse(common::http::bad_request({}, wrong).body, ec);
  require(!ec);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view body(reinterpret_cast<const char*>(data), size);
  const auto document = common::read_json(body, "order");
  boost::system::error_code ec;
  boost::json::parse_options options;
  options.max_depth = 64;
  boost::json::parse({body.data(), body.size()}, ec, {}, options);
  if (document) {
    require(!ec);
    visit(document->root(), 0);
    const std::string canonical = document->root().canonical();
    const auto again = common::read_json(canonical, "order");
    require(again.has_value() && again->root().canonical() == canonical);
    read_as_order(*document);
  } else {
    require(document.error().size() == 1);
    const bool repeated = document.error().front().message == "must not appear twice";
    require(repeated ? !ec : static_cast<bool>(ec));
  }
  return 0;
}
