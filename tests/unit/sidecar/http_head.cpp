#include "sidecar/proxy/http_head.hpp"

#include <catch2/catch.hpp>
#include <string>
#include <string_view>

#include "sidecar/proxy/chunked.hpp"

using namespace sidecar;
using namespace std::string_literals;

namespace {

head_status request(std::string_view text, request_head& head, head_limits limits = {}) {
  return parse(text, limits, head);
}
head_status request(std::string_view text) {
  request_head head;
  return request(text, head);
}
head_status response(std::string_view text, response_head& head, bool to_head = false) {
  return parse(text, {}, to_head, head);
}

const std::string good =
    "POST /orders/1?x=%20y HTTP/1.1\r\nHost: shop.example:8080\r\nAccept:\t*/* \r\nX-Empty:\r\n"
    "Connection: keep-alive, X-Secret\r\nX-Secret: 1\r\nContent-Length: 12\r\n\r\n";

}  // namespace

TEST_CASE("a request's head is split into what a proxy needs", "[http_head]") {
  request_head head;
  const std::string text = good + "body";
  REQUIRE(request(text, head) == head_status::complete);
  CHECK(head.size == good.size());
  CHECK(head.method == "POST");
  CHECK(head.path == "/orders/1?x=%20y");
  CHECK(head.host == "shop.example:8080");
  CHECK(head.minor == 1);
  CHECK(head.framing == body_framing::length);
  CHECK(head.content_length == 12);
  CHECK(head.keep_alive);
  CHECK_FALSE(head.close);
  REQUIRE(head.fields.size() == 6);
  CHECK(head.fields[1].value == "*/*");
  CHECK(head.fields[2].value.empty());
  CHECK(head.fields[4].nominated);
  CHECK_FALSE(head.fields[0].nominated);
}

TEST_CASE("every prefix of a good head is incomplete, never wrong", "[http_head]") {
  for (std::size_t n = 0; n < good.size(); ++n) {
    CAPTURE(n);
    CHECK(request(good.substr(0, n)) == head_status::incomplete);
  }
  const std::string answer = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n";
  for (std::size_t n = 0; n < answer.size(); ++n) {
    response_head head;
    CAPTURE(n);
    CHECK(response(answer.substr(0, n), head) == head_status::incomplete);
  }
}

TEST_CASE("the absolute form takes its host from the target", "[http_head]") {
  request_head head;
  REQUIRE(request("GET http://a.example/p?q HTTP/1.1\r\nHost: b.example\r\n\r\n", head) == head_status::complete);
  CHECK(head.host == "a.example");
  CHECK(head.path == "/p?q");
  REQUIRE(request("GET http://a.example HTTP/1.1\r\nHost: a.example\r\n\r\n", head) == head_status::complete);
  CHECK(head.path == "/");
  REQUIRE(request("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", head) == head_status::complete);
  CHECK(head.path == "*");
}

TEST_CASE("heads that two readers might understand differently are refused", "[http_head]") {
  const std::string host = "Host: a\r\n";
  for (const std::string& text : {
           "GET / HTTP/1.1\r\n\r\n"s,                                                        // no Host
           "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n"s,                                  //
           "GET / HTTP/1.1\r\nHost: a b\r\n\r\n"s,                                           //
           "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n"s,                                           //
           "GET / HTTP/1.1\r\nHost: u@a\r\n\r\n"s,                                           //
           "GET / HTTP/1.1\nHost: a\n\n"s,                                                   // bare LF
           "GET / HTTP/1.1\r\nHost: a\rX: b\r\n\r\n"s,                                       // bare CR
           "GET / HTTP/1.1\r\nHost : a\r\n\r\n"s,                                            //
           "GET / HTTP/1.1\r\n Host: a\r\n\r\n"s,                                            //
           "GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n 2\r\n\r\n"s,                               // folding
           "GET / HTTP/1.1\r\nHost: a\r\n: 1\r\n\r\n"s,                                      //
           "GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n"s,                                        //
           "GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n"s,                                  //
           "GET / HTTP/1.1\r\nHost: a\r\nX: \x7f\r\n\r\n"s,                                  //
           "GET  / HTTP/1.1\r\nHost: a\r\n\r\n"s,                                            //
           "GET /  HTTP/1.1\r\nHost: a\r\n\r\n"s,                                            //
           "GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n"s,                                            //
           " GET / HTTP/1.1\r\nHost: a\r\n\r\n"s,                                            //
           "\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"s,                                     //
           "GET / HTTP/1.1 \r\nHost: a\r\n\r\n"s,                                            //
           "GET / HTTP/2.0\r\nHost: a\r\n\r\n"s,                                             //
           "GET / HTTP/1.2\r\nHost: a\r\n\r\n"s,                                             //
           "GET / http/1.1\r\nHost: a\r\n\r\n"s,                                             //
           "GET /\r\n\r\n"s,                                                                 // HTTP/0.9
           "GET x HTTP/1.1\r\nHost: a\r\n\r\n"s,                                             //
           "GET * HTTP/1.1\r\nHost: a\r\n\r\n"s,                                             //
           "GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n"s,                                          //
           "GET /\xc3\xa4 HTTP/1.1\r\nHost: a\r\n\r\n"s,                                     //
           "CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n"s,                                     //
           "GET http://?x HTTP/1.1\r\nHost: a\r\n\r\n"s,                                     //
           "GET http://u@h/ HTTP/1.1\r\nHost: a\r\n\r\n"s,                                   //
           "POST / HTTP/1.1\r\n" + host + "Content-Length: 1\r\nContent-Length: 1\r\n\r\n",  //
           "POST / HTTP/1.1\r\n" + host + "Content-Length: 1\r\nContent-Length: 2\r\n\r\n",  //
           "POST / HTTP/1.1\r\n" + host + "Content-Length: 1, 1\r\n\r\n",                    //
           "POST / HTTP/1.1\r\n" + host + "Content-Length: +1\r\n\r\n",                      //
           "POST / HTTP/1.1\r\n" + host + "Content-Length: -1\r\n\r\n",                      //
           "POST / HTTP/1.1\r\n" + host + "Content-Length: 0x1\r\n\r\n",                     //
           "POST / HTTP/1.1\r\n" + host + "Content-Length: \r\n\r\n",                        //
           "POST / HTTP/1.1\r\n" + host + "Content-Length: 1 1\r\n\r\n",                     //
           "POST / HTTP/1.1\r\n" + host + "Content-Length: 99999999999999999999\r\n\r\n",    //
           "POST / HTTP/1.1\r\n" + host + "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
           "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
           "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked, chunked\r\n\r\n",  //
           "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: identity\r\n\r\n",          //
           "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: gzip, chunked\r\n\r\n",     //
           "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: xchunked\r\n\r\n",          //
           "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding:\r\n\r\n",                   //
           "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: \vchunked\r\n\r\n",         //
           "POST / HTTP/1.1\r\n" + host + "Transfer_Encoding : chunked\r\n\r\n",          //
           "POST / HTTP/1.0\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n",           //
           "GET / HTTP/1.1\r\n" + host + "Connection: a b\r\n\r\n",                       //
           "GET / HTTP/1.1\r\n" + host + "Expect: 200-ok\r\n\r\n",                        //
       }) {
    CAPTURE(text);
    CHECK(request(text) == head_status::bad);
  }
}

TEST_CASE("one empty line before a request is forgiven", "[http_head]") {
  CHECK(request("\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n") == head_status::complete);
}

TEST_CASE("limits hold at their exact value", "[http_head]") {
  request_head head;
  const std::string line = "GET /" + std::string(80, 'a') + " HTTP/1.1";
  const std::string text = line + "\r\nHost: a\r\nX: b\r\n\r\n";
  const std::size_t fields = std::string_view("Host: a\r\nX: b\r\n").size();
  CHECK(request(text, head, {line.size(), fields, 2}) == head_status::complete);
  CHECK(request(text, head, {line.size() - 1, fields, 2}) == head_status::line_too_long);
  CHECK(request(text, head, {line.size(), fields - 1, 2}) == head_status::fields_too_large);
  CHECK(request(text, head, {line.size(), fields, 1}) == head_status::fields_too_large);
  // An endless line or field is found out before it ends.
  CHECK(request(std::string(100, 'A'), head, {50, 50, 5}) == head_status::line_too_long);
  CHECK(request("GET /" + std::string(100, 'a'), head, {50, 50, 5}) == head_status::line_too_long);
  CHECK(request("GET / HTTP/1.1\r\nX: " + std::string(100, 'a'), head, {50, 50, 5}) == head_status::fields_too_large);
  CHECK(request("GET / HTTP/1.1\r\n" + std::string(100, 'X'), head, {50, 50, 5}) == head_status::fields_too_large);
}

TEST_CASE("what frames and routes a message cannot be nominated away", "[http_head]") {
  request_head head;
  REQUIRE(
      request("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nConnection: host, content-length, x\r\nX: 1\r\n\r\n",
              head) == head_status::complete);
  CHECK_FALSE(head.fields[0].nominated);
  CHECK_FALSE(head.fields[1].nominated);
  CHECK(head.fields[3].nominated);
}

TEST_CASE("a response says how its body ends", "[http_head]") {
  response_head head;
  const auto framing = [&](const std::string& text, bool to_head = false) {
    REQUIRE(response(text, head, to_head) == head_status::complete);
    return head.framing;
  };
  CHECK(framing("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n") == body_framing::length);
  CHECK(framing("HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n") == body_framing::chunked);
  CHECK(framing("HTTP/1.1 200 OK\r\n\r\n") == body_framing::until_close);
  CHECK(framing("HTTP/1.0 200\r\n\r\n") == body_framing::until_close);
  CHECK(framing("HTTP/1.1 204 No Content\r\n\r\n") == body_framing::none);
  CHECK(framing("HTTP/1.1 304 Not Modified\r\nContent-Length: 3\r\n\r\n") == body_framing::none);
  CHECK(framing("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", true) == body_framing::none);
  CHECK(framing("HTTP/1.1 100 Continue\r\n\r\n") == body_framing::none);
  CHECK(head.status == 100);
}

TEST_CASE("ambiguous responses are refused", "[http_head]") {
  for (const std::string& text :
       {"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n"s,
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n"s,
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n"s, "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"s,
        "HTTP/1.1 2000 OK\r\n\r\n"s, "HTTP/1.1 99 OK\r\n\r\n"s, "HTTP/1.1 600 OK\r\n\r\n"s, "HTTP/1.1  200 OK\r\n\r\n"s,
        "HTTP/1.1 200 OK\n\r\n"s, "ICY 200 OK\r\n\r\n"s, "HTTP/2 200\r\n\r\n"s, "HTTP/1.1 200 OK\r\nX : y\r\n\r\n"s}) {
    CAPTURE(text);
    response_head head;
    CHECK(response(text, head) == head_status::bad);
  }
}

TEST_CASE("field names are recognised whatever their case", "[http_head]") {
  CHECK(identify("TRANSFER-encoding") == field_id::transfer_encoding);
  CHECK(identify("X-B3-SpanId") == field_id::b3_span_id);
  CHECK(identify("X-B3-Sampled") == field_id::b3_sampled);
  CHECK(identify("x-forwarded-forx") == field_id::other);
  CHECK(identify("hosts") == field_id::other);
  CHECK(identify("b3") == field_id::b3);
}
