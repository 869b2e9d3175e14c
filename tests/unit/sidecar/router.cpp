#include "sidecar/proxy/router.hpp"

#include <catch2/catch.hpp>
#include <string>
#include <vector>

using namespace sidecar;

namespace {

route_settings prefix(std::string text, std::set<std::string> methods = {}) {
  route_settings r;
  r.match.path = {path_match::kind_type::prefix, std::move(text)};
  r.match.methods = std::move(methods);
  return r;
}

std::size_t match(const router& r, const std::string& text) {
  request_head head;
  REQUIRE(parse(text, {}, head) == head_status::complete);
  return r.match(head);
}
std::size_t get(const router& r, const std::string& path) {
  return match(r, "GET " + path + " HTTP/1.1\r\nHost: shop.example:80\r\nX-Kind: a\r\n\r\n");
}

}  // namespace

TEST_CASE("a prefix matches whole segments", "[router]") {
  const router r{{prefix("/a")}};
  CHECK(get(r, "/a") == 0);
  CHECK(get(r, "/a/") == 0);
  CHECK(get(r, "/a/b") == 0);
  CHECK(get(r, "/a?x") == 0);
  CHECK(get(r, "/ab") == router::none);
  CHECK(get(r, "/") == router::none);
  CHECK(get(r, "/A") == router::none);
}

TEST_CASE("routes match in file order, and a method outside the list does not", "[router]") {
  const router r{{prefix("/a", {"POST"}), prefix("/a/b"), prefix("/")}};
  CHECK(get(r, "/a/b") == 1);
  CHECK(get(r, "/a") == 2);
  CHECK(match(r, "POST /a HTTP/1.1\r\nHost: x\r\n\r\n") == 0);
}

TEST_CASE("exact paths, expressions, headers and hosts", "[router]") {
  route_settings exact, regex, header, host;
  exact.match.path = {path_match::kind_type::exact, "/x"};
  regex.match.path = {path_match::kind_type::regex, "/v[0-9]+/.*"};
  header.match.headers = {{"x-kind", "a"}};
  header.match.path.text = "/h";
  host.match.host = "shop.example";
  const router r{{exact, regex, header, host}};
  CHECK(get(r, "/x") == 0);
  CHECK(get(r, "/x/") == 3);
  CHECK(get(r, "/v12/y") == 1);
  CHECK(get(r, "/h") == 2);
  CHECK(match(r, "GET /h HTTP/1.1\r\nHost: other\r\nX-Kind: b\r\n\r\n") == router::none);
  CHECK(match(r, "GET /z HTTP/1.1\r\nHost: SHOP.example\r\n\r\n") == 3);
}

TEST_CASE("trusted blocks hold addresses of both families", "[router]") {
  const trusted_networks t{{"10.0.0.0/8", "192.168.1.7", "2001:db8::/32"}};
  CHECK(t.contains("10.255.0.1"));
  CHECK_FALSE(t.contains("11.0.0.1"));
  CHECK(t.contains("192.168.1.7"));
  CHECK_FALSE(t.contains("192.168.1.8"));
  CHECK(t.contains("2001:db8:1::1"));
  CHECK_FALSE(t.contains("2001:db9::1"));
  CHECK_FALSE(t.contains("nonsense"));
}
