#include "common/json.hpp"

#include <catch2/catch.hpp>

using common::json_document;
using common::json_kind;
using common::json_object;
using common::money;
using common::read_json;
namespace http = common::http;

namespace {

std::string repeat(std::string_view text, int times) {
  std::string out;
  for (int n = 0; n < times; ++n) out += text;
  return out;
}

std::vector<std::string> fields(const http::violations& wrong) {
  std::vector<std::string> found;
  for (const http::violation& v : wrong) found.push_back(v.field);
  return found;
}

}  // namespace

TEST_CASE("every value keeps its kind, and numbers their spelling", "[json]") {
  const auto document = read_json(
      R"( {"a": [1, -2.50, 1e400, 123456789012345678901234567890], "b": "x\u00e9\n", "c": {"": null}, "d": true} )",
      "x");
  if (!document.has_value()) FAIL(document.error().front().message);
  const auto root = document->root();
  REQUIRE(root.kind() == json_kind::object);
  const auto members = root.children();
  REQUIRE(members.size() == 4);
  const auto numbers = members[0].children();
  REQUIRE(numbers.size() == 4);
  CHECK(numbers[0].text() == "1");
  CHECK(numbers[1].text() == "-2.50");
  CHECK(numbers[2].text() == "1e400");
  CHECK(numbers[3].text() == "123456789012345678901234567890");
  CHECK(root.find("b")->text() == "x\xC3\xA9\n");
  CHECK(root.find("c")->find("")->kind() == json_kind::null);
  CHECK(root.find("d")->text() == "true");
  CHECK_FALSE(root.find("a")->find("b").has_value());
  CHECK(root.canonical() ==
        "{\"a\":[1,-2.50,1e400,123456789012345678901234567890],\"b\":\"x\xC3\xA9\\n\",\"c\":{\"\":null},\"d\":true}");
}

TEST_CASE("what is not JSON is one violation of the whole body", "[json]") {
  for (const std::string_view text :
       {"",   " ",   "{",   "{\"a\":1", "[1,]",     "{a:1}",       "'x'",   "01",    "1.",      ".5",
        "+1", "NaN", "nul", "\"\x01\"", "\"\xff\"", "\"\\ud800\"", "{} {}", "[1] x", "// c\n1", "\xEF\xBB\xBF{}"}) {
    INFO(text);
    const auto document = read_json(text, "order");
    REQUIRE_FALSE(document.has_value());
    REQUIRE(document.error().size() == 1);
    CHECK(document.error()[0].field.empty());
    CHECK(document.error()[0].object == "order");
    CHECK(document.error()[0].rejected == "null");
  }
}

TEST_CASE("64 levels are read and 65 are not", "[json]") {
  CHECK(read_json(repeat("[", 64) + repeat("]", 64), "x").has_value());
  CHECK_FALSE(read_json(repeat("[", 65) + repeat("]", 65), "x").has_value());
  CHECK_FALSE(read_json(repeat("[", 100'000), "x").has_value());
}

TEST_CASE("a repeated member is named, wherever it stands", "[json]") {
  const auto document = read_json(R"({"items": [{}, {"x": 1, "y": {"a": 1}, "\u0078": 2}], "x": 3})", "order");
  REQUIRE_FALSE(document.has_value());
  REQUIRE(document.error().size() == 1);
  CHECK(document.error()[0].field == "items[1].x");
}

TEST_CASE("every member that breaks its rule is told, with its path and value", "[json]") {
  const auto document = read_json(R"({"name": " ", "count": 1.0, "price": 10.005, "big": 3000000000, "kind": 7,
    "address": {"city": 5}, "items": [{"quantity": 0}, 5, {"quantity": 2}], "none": null, "long": "éééé"})",
                                  "order");
  REQUIRE(document.has_value());
  http::violations wrong;
  json_object order(document->root(), "order", wrong);
  CHECK_FALSE(order.text("name").has_value());
  CHECK_FALSE(order.integer("count", 0).has_value());
  CHECK_FALSE(order.amount("price", money{1}).has_value());
  CHECK_FALSE(order.integer("big", 1, 2147483647).has_value());
  CHECK_FALSE(order.text("kind").has_value());
  CHECK_FALSE(order.text("none").has_value());
  CHECK_FALSE(order.optional_text("none").has_value());
  CHECK_FALSE(order.text("long", 3).has_value());
  CHECK(order.text("long", 4) == "éééé");
  auto address = order.object("address");
  REQUIRE(address.has_value());
  CHECK_FALSE(address->text("city").has_value());
  auto items = order.objects("items", 1, 3);
  REQUIRE(items.size() == 3);
  CHECK_FALSE(items[0].integer("quantity", 1, 2147483647).has_value());
  CHECK_FALSE(items[1].integer("quantity", 1, 2147483647).has_value());
  CHECK(items[2].integer("quantity", 1, 2147483647) == 2);
  CHECK(order.objects("address", 1, 3).empty());
  CHECK(order.objects("items", 1, 2).empty());
  CHECK(fields(wrong) == std::vector<std::string>{"name", "count", "price", "big", "kind", "none", "long",
                                                  "address.city", "items[1]", "items[0].quantity", "address", "items"});
  CHECK(wrong[0].rejected == "\" \"");
  CHECK(wrong[1].rejected == "1.0");
  CHECK(wrong[2].rejected == "10.005");
  CHECK(wrong[5].rejected == "null");
  CHECK(wrong[8].message == "must be an object");
}

TEST_CASE("a body that is no object is told once", "[json]") {
  const auto document = read_json("[]", "order");
  REQUIRE(document.has_value());
  http::violations wrong;
  json_object order(document->root(), "order", wrong);
  CHECK_FALSE(order.text("name").has_value());
  CHECK_FALSE(order.integer("count", 0).has_value());
  REQUIRE(wrong.size() == 1);
  CHECK(wrong[0].field.empty());
}

TEST_CASE("whole numbers are bounded on both sides", "[json]") {
  const auto document =
      read_json(R"({"a": 9223372036854775807, "b": 9223372036854775808, "c": -1, "d": 1e2, "e": "5", "f": -0})", "x");
  REQUIRE(document.has_value());
  http::violations wrong;
  json_object o(document->root(), "x", wrong);
  CHECK(o.integer("a", 0) == 9223372036854775807);
  CHECK_FALSE(o.integer("b", 0).has_value());
  CHECK_FALSE(o.integer("c", 0).has_value());
  CHECK(o.integer("c", -1) == -1);
  CHECK_FALSE(o.integer("d", 0).has_value());
  CHECK_FALSE(o.integer("e", 0).has_value());
  CHECK(o.integer("f", 0) == 0);
  CHECK(wrong.size() == 4);
}

TEST_CASE("two spellings of one value have one canonical text", "[json]") {
  const auto one = read_json(R"({"b":[1,"x"],"a":{"d":null,"c":"\u0041"}})", "x");
  const auto two = read_json("{ \"a\" : {\"c\":\"A\", \"d\":null},\n\"b\":[ 1, \"x\" ]}", "x");
  REQUIRE(one.has_value());
  REQUIRE(two.has_value());
  CHECK(one->root().canonical() == two->root().canonical());
}
