#include "sidecar/proxy/chunked.hpp"

#include <catch2/catch.hpp>
#include <string>

using namespace sidecar;
using namespace std::string_literals;
using status = chunked_decoder::status;

namespace {

struct outcome {
  status state = status::more;
  std::string body, rest;
};

/// Decodes in pieces of `step` bytes.
outcome decode(const std::string& coded, std::size_t step, chunked_decoder& decoder) {
  outcome o;
  decoder.reset();
  std::size_t at = 0;
  while (at < coded.size() && o.state == status::more) {
    std::string piece = coded.substr(at, step);
    const auto [state, consumed, decoded] = decoder.decode(piece.data(), piece.size());
    o.state = state;
    o.body += piece.substr(0, decoded);
    at += consumed;
    if (state == status::more) REQUIRE(consumed == piece.size());
  }
  o.rest = coded.substr(at);
  return o;
}

}  // namespace

TEST_CASE("a chunked body is decoded whatever its pieces", "[chunked]") {
  chunked_decoder decoder;
  const std::string coded =
      "5;name=\"a;\\\"b\"\r\nhello\r\n00A\r\n, chunked!\r\n1 ;x\r\n!\r\n0\r\nX-Sum: 1\r\nY: 2\r\n\r\nNEXT";
  for (std::size_t step = 1; step <= coded.size(); ++step) {
    CAPTURE(step);
    const outcome o = decode(coded, step, decoder);
    REQUIRE(o.state == status::done);
    CHECK(o.body == "hello, chunked!!");
    CHECK(o.rest == "NEXT");
    CHECK(decoder.trailer() == "X-Sum: 1\r\nY: 2\r\n\r\n");
    REQUIRE(decoder.trailer_fields().fields.size() == 2);
    CHECK(decoder.trailer_fields().fields[1].name == "Y");
  }
}

TEST_CASE("an empty body is a lone last chunk", "[chunked]") {
  chunked_decoder decoder;
  const outcome o = decode("0\r\n\r\n", 1, decoder);
  CHECK(o.state == status::done);
  CHECK(o.body.empty());
}

TEST_CASE("codings that could be read otherwise are refused", "[chunked]") {
  chunked_decoder decoder;
  for (const std::string& coded : {"\r\n"s,
                                   " 5\r\nhello\r\n"s,
                                   "5\nhello\r\n0\r\n\r\n"s,
                                   "5\r\nhello\n0\r\n\r\n"s,
                                   "5\r\nhelloo\r\n"s,
                                   "g\r\n"s,
                                   "-1\r\n"s,
                                   "+5\r\nhello\r\n"s,
                                   "0x5\r\nhello\r\n"s,
                                   "5 \r\nhello\r\n"s,
                                   "5\r\r\nhello\r\n"s,
                                   "ffffffffffffffff\r\n"s,
                                   "5;a\nb\r\nhello\r\n"s,
                                   "5;a\x01\r\nhello\r\n"s,
                                   "5;a\rb\r\nhello\r\n"s,
                                   "5 x\r\nhello\r\n"s,
                                   "0\r\nX : y\r\n\r\n"s,
                                   "0\r\n X: y\r\n\r\n"s,
                                   "0\r\nX: y\n\r\n"s,
                                   "0\r\nX: a\rb\r\n\r\n"s,
                                   "0\r\n\n"s,
                                   "5_000\r\n"s,
                                   "5,\r\n"s,
                                   ("0\r\n"s + std::string(20'000, 'x')),
                                   ("1;"s + std::string(10'000, 'x'))}) {
    for (const std::size_t step : {std::size_t{1}, std::size_t{3}, coded.size()}) {
      CAPTURE(coded.substr(0, 40), step);
      CHECK(decode(coded, step, decoder).state == status::bad);
    }
  }
}

TEST_CASE("trailers carry nothing that frames, routes or authorises", "[chunked]") {
  chunked_decoder decoder;
  const outcome o =
      decode("0\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\nHost: x\r\nSet-Cookie: a\r\nX-Ok: 1\r\n\r\n", 7,
             decoder);
  REQUIRE(o.state == status::done);
  int allowed = 0;
  for (const auto& field : decoder.trailer_fields().fields) allowed += allowed_in_trailer(field) ? 1 : 0;
  CHECK(allowed == 1);
}
