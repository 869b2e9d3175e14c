#include "sidecar/proxy/proxy.hpp"

#include <catch2/catch.hpp>
#include <fstream>
#include <numeric>
#include <random>

#include "proxy_world.hpp"

using namespace sidecar;
using namespace sidecar::testing;
using namespace std::string_literals;
using resilience::calls;
using resilience::percent;

namespace {

std::string noise(std::size_t size, unsigned seed) {
  std::mt19937 random(seed);
  std::string bytes(size, '\0');
  for (char& c : bytes) c = static_cast<char>(random());
  return bytes;
}

std::size_t digest(std::string_view bytes) { return std::hash<std::string_view>{}(bytes); }

int in_use(const world& w) { return w.live.all_policies().bulkhead.at("app")->metrics().in_use; }

std::string chunk(std::string_view data) {
  char size[20];
  std::snprintf(size, sizeof size, "%zx\r\n", data.size());
  return size + std::string(data) + "\r\n";
}

}  // namespace

// ---- Forwarding ----------------------------------------------------------------------------------------------------

TEST_CASE("a request goes on with what a proxy adds and without what ends here", "[proxy]") {
  std::string seen;
  upstream_stub up{serving([&](const std::string& head, const std::string&) {
    seen = head;
    return ok("hello",
              "Connection: X-Drop\r\nX-Drop: 1\r\nKeep-Alive: timeout=5\r\nX-Request-Id: other\r\nX-Keep: 2\r\n");
  })};
  world w{up.port};
  const answer a =
      w.get("/x?y=1",
            "Connection: close, X-Secret\r\nX-Secret: 1\r\nKeep-Alive: 5\r\nTE: trailers\r\nUpgrade: h2c\r\n"
            "Proxy-Connection: x\r\nX-Forwarded-For: 6.6.6.6\r\nX-Request-Id: abc-1\r\nAccept: */*\r\n"
            "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n");
  CHECK(a.status == 200);
  CHECK(a.body == "hello");
  CHECK(a["X-Keep"] == "2");
  CHECK(a["X-Drop"].empty());
  CHECK(a["Keep-Alive"].empty());
  CHECK(a["X-Request-Id"] == "abc-1");
  CHECK(a["Via"] == "1.1 resilience-sidecar");
  CHECK(a["Connection"] == "close");
  CHECK(seen.starts_with("GET /x?y=1 HTTP/1.1\r\n"));
  for (const char* gone : {"Connection", "X-Secret", "Keep-Alive", "TE", "Upgrade", "Proxy-Connection"}) {
    CAPTURE(gone);
    CHECK(field(seen, gone).empty());
  }
  CHECK(field(seen, "Accept") == "*/*");
  CHECK(field(seen, "Host") == "a");
  CHECK(field(seen, "X-Forwarded-For") == "127.0.0.1");
  CHECK(field(seen, "X-Forwarded-Proto") == "http");
  CHECK(field(seen, "X-Forwarded-Host") == "a");
  CHECK(field(seen, "X-Request-Id") == "abc-1");
  const std::string parent = field(seen, "traceparent");
  CHECK(parent.starts_with("00-0af7651916cd43dd8448eb211c80319c-"));
  CHECK(parent.find("b7ad6b7169203331") == std::string::npos);
}

TEST_CASE("forwarded fields of a trusted proxy are carried on, and B3 traces become W3C ones", "[proxy]") {
  std::string seen;
  upstream_stub up{serving([&](const std::string& head, const std::string&) {
    seen = head;
    return ok();
  })};
  world w{up.port, [](settings& s, route_settings&) { s.trusted_proxies = {"127.0.0.0/8"}; }};
  REQUIRE(w.get("/",
                "X-Forwarded-For: 1.2.3.4\r\nX-Forwarded-For: 5.6.7.8\r\nX-Forwarded-Proto: https\r\n"
                "X-Forwarded-Host: shop\r\nb3: 463ac35c9f6413ad48485a3953bb6124-a2fb4a1d1a96d312-0\r\n")
              .status == 200);
  CHECK(field(seen, "X-Forwarded-For") == "1.2.3.4, 5.6.7.8, 127.0.0.1");
  CHECK(field(seen, "X-Forwarded-Proto") == "https");
  CHECK(field(seen, "X-Forwarded-Host") == "shop");
  CHECK(field(seen, "traceparent").starts_with("00-463ac35c9f6413ad48485a3953bb6124-"));
  CHECK(field(seen, "traceparent").ends_with("-00"));
}

TEST_CASE("connections are kept alive on both sides", "[proxy]") {
  upstream_stub up{serving([](const std::string&, const std::string&) { return ok(); })};
  world w{up.port};
  wire c(w.connect());
  for (int i = 0; i < 50; ++i) {
    c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    REQUIRE(read_answer(c).status == 200);
  }
  CHECK(up.accepted == 1);
  CHECK(w.front.client_connections() == 1);
  CHECK(w.front.upstream_connections() == 1);
}

TEST_CASE("pipelined requests are answered in order", "[proxy]") {
  upstream_stub up{serving(
      [](const std::string& head, const std::string& body) { return ok(head.substr(0, head.find(" HTTP")) + body); })};
  world w{up.port};
  wire c(w.connect());
  std::string all;
  for (int i = 0; i < 200; ++i) {
    const std::string n = std::to_string(i);
    all += i % 3 == 0 ? "POST /" + n + " HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"
           : i % 3 == 1
               ? "POST /" + n + " HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
               : "GET /" + n + " HTTP/1.1\r\nHost: a\r\n\r\n";
  }
  std::thread sender([&] { c.send(all); });
  for (int i = 0; i < 200; ++i) {
    const answer a = read_answer(c);
    CAPTURE(i);
    CHECK(a.body == (i % 3 == 2 ? "GET /" + std::to_string(i) : "POST /" + std::to_string(i) + "abc"));
  }
  sender.join();
}

TEST_CASE("thousands of pipelined requests without a route cost no stack", "[proxy]") {
  world w{1, [](settings&, route_settings& r) { r.match.path.text = "/only"; }};
  wire c(w.connect());
  std::string all;
  for (int i = 0; i < 3000; ++i) all += "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
  std::thread sender([&] { c.send(all); });
  for (int i = 0; i < 3000; ++i) REQUIRE(read_answer(c).status == 404);
  sender.join();
  CHECK(w.local(reason::no_route, "") == 3000);
}

TEST_CASE("a message may arrive in two parts, cut anywhere", "[proxy]") {
  const std::string reply =
      "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: "
      "chunked\r\n\r\n4;x=y\r\nabcd\r\n0\r\nX-Sum: 7\r\n\r\n";
  std::atomic<std::size_t> cut = 0;
  upstream_stub up{[&](wire& u) {
    for (;;) {
      const std::string head = u.head();
      if (head.empty()) return;
      bool whole = false;
      if (u.chunked(whole) != "hello world" || !whole) return;
      const std::size_t at = std::min(cut.load(), reply.size());
      u.send(reply.substr(0, at));
      u.send(reply.substr(at));
    }
  }};
  world w{up.port};
  const std::string request =
      "POST /p HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6;a=\"b\"\r\n world\r\n0\r\nX-T: "
      "1\r\n\r\n";
  wire c(w.connect());
  for (std::size_t i = 0; i <= std::max(request.size(), reply.size()); ++i) {
    CAPTURE(i);
    cut = i;
    const std::size_t at = std::min(i, request.size());
    c.send(request.substr(0, at));
    if (i % 8 == 0) std::this_thread::yield();
    c.send(request.substr(at));
    REQUIRE(read_answer(c).status == 103);
    c.trailer.clear();
    const answer a = read_answer(c);
    REQUIRE(a.status == 200);
    REQUIRE(a.whole);
    REQUIRE(a.body == "abcd");
    REQUIRE(c.trailer == "X-Sum: 7\r\n");
  }
  // And byte by byte.
  for (const char byte : request) c.send({&byte, 1});
  REQUIRE(read_answer(c).status == 103);
  CHECK(read_answer(c).body == "abcd");
}

TEST_CASE("ten mebibytes pass both ways unchanged, in bounded memory", "[proxy]") {
  const std::string data = noise(10 * 1024 * 1024, 7);
  const bool chunked = GENERATE(false, true);
  const bool answer_chunked = GENERATE(false, true);
  std::size_t seen = 0;
  upstream_stub up{serving([&](const std::string&, const std::string& body) {
    seen = digest(body);
    if (!answer_chunked) return ok(body);
    std::string coded = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    for (std::size_t at = 0; at < body.size(); at += 70'000) coded += chunk(std::string_view(body).substr(at, 70'000));
    return coded + "0\r\n\r\n";
  })};
  world w{up.port};
  wire c(w.connect());
  std::thread sender([&] {
    if (chunked) {
      c.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
      for (std::size_t at = 0; at < data.size(); at += 50'001) c.send(chunk(std::string_view(data).substr(at, 50'001)));
      c.send("0\r\n\r\n");
    } else {
      c.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: " + std::to_string(data.size()) + "\r\n\r\n");
      c.send(data);
    }
  });
  const answer a = read_answer(c);
  sender.join();
  CHECK(a.whole);
  CHECK(seen == digest(data));
  CHECK(digest(a.body) == digest(data));
  c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
  CHECK(read_answer(c).status == 200);
}

TEST_CASE("a slow reader holds the upstream up instead of filling memory", "[proxy]") {
  const std::string data = noise(32 * 1024 * 1024, 9);
  std::atomic<std::size_t> sent = 0;
  upstream_stub up{[&](wire& u) {
    u.head();
    u.send("HTTP/1.1 200 OK\r\nContent-Length: " + std::to_string(data.size()) + "\r\n\r\n");
    for (std::size_t at = 0; at < data.size(); at += 65536) {
      if (!u.send(std::string_view(data).substr(at, 65536))) return;
      sent = at + 65536;
    }
  }};
  world w{up.port};
  wire c(wire::connect(w.port, 16 * 1024));
  c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
  c.head();
  // The upstream comes to a stop: what it has sent beyond the kernel's buffers is what the proxy holds.
  std::size_t before = 1;
  while (before != sent) {
    before = sent;
    std::this_thread::sleep_for(100ms);
  }
  CHECK(sent < data.size());
  CHECK(digest(c.bytes(data.size())) == digest(data));
}

TEST_CASE("every way a response may end is understood", "[proxy]") {
  std::mutex mutex;
  std::string reply;
  bool close = false;
  const auto will = [&](std::string text) {
    const std::lock_guard lock(mutex);
    reply = std::move(text);
  };
  upstream_stub up{[&](wire& u) {
    while (!u.head().empty()) {
      std::unique_lock lock(mutex);
      const std::string mine = reply;
      const bool last = close;
      lock.unlock();
      u.send(mine);
      if (last) return;
    }
  }};
  world w{up.port};
  SECTION("by the end of the connection, re-framed so that its end can be seen") {
    will("HTTP/1.1 200 OK\r\n\r\nabc");
    close = true;
    const answer a = w.get();
    CHECK(a["Transfer-Encoding"] == "chunked");
    CHECK(a.whole);
    CHECK(a.body == "abc");
    const answer old = w.ask("GET / HTTP/1.0\r\n\r\n");
    CHECK(old["Transfer-Encoding"].empty());
    CHECK(old.body == "abc");
  }
  SECTION("chunks are taken off for an HTTP/1.0 client") {
    will("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n");
    const answer a = w.ask("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    CHECK(a["Transfer-Encoding"].empty());
    CHECK(a["Connection"] == "close");
    CHECK(a.body == "abc");
  }
  SECTION("an HTTP/1.0 client keeps its connection where it asks to") {
    will(ok("abc"));
    wire c(w.connect());
    for (int i = 0; i < 2; ++i) {
      c.send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
      const answer a = read_answer(c);
      CHECK(a["Connection"] == "keep-alive");
      CHECK(a.body == "abc");
    }
  }
  SECTION("no body to HEAD, with 204 and 304, and the connection goes on") {
    wire c(w.connect());
    will("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n");
    c.send("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n");
    CHECK(read_answer(c, true)["Content-Length"] == "1000");
    will("HTTP/1.1 304 Not Modified\r\nContent-Length: 1000\r\n\r\n");
    c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    CHECK(read_answer(c).status == 304);
    will("HTTP/1.1 204 No Content\r\n\r\n");
    c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    CHECK(read_answer(c).status == 204);
    will(ok("last"));
    c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    CHECK(read_answer(c).body == "last");
    CHECK(up.accepted == 1);
  }
}

TEST_CASE("a truncated response never looks complete", "[proxy]") {
  const std::string reply = GENERATE("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc"s,
                                     "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"s,
                                     "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n"s,
                                     "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nzz\r\n"s);
  upstream_stub up{[&](wire& u) {
    u.head();
    u.send(reply);
  }};
  world w{up.port, [](settings& s, route_settings& r) {
            s.policies.circuit_breaker["app"] = {};
            r.circuit_breaker = "app";
          }};
  const answer a = w.get();
  CHECK((a.status == 502 || !a.whole));  // what was seen to be wrong before the head went out is an error of its own
  const answer old = w.ask("GET / HTTP/1.0\r\n\r\n");
  CHECK((old.status == 502 || !old.whole));
  CHECK(eventually([&] { return w.live.all_policies().circuit_breaker.at("app")->metrics().failed_calls == 2; }));
}

TEST_CASE("bytes nobody asked for close the connection to the upstream", "[proxy]") {
  upstream_stub up{serving([](const std::string&, const std::string&) {
    return ok("x") + "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
  })};
  world w{up.port};
  wire c(w.connect());
  for (int i = 0; i < 5; ++i) {
    c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    REQUIRE(read_answer(c).body == "x");
  }
  CHECK(up.accepted == 5);
}

TEST_CASE("100-continue and early answers", "[proxy]") {
  SECTION("the upstream's 100 is passed on, then the body flows") {
    upstream_stub up{[](wire& u) {
      const std::string head = u.head();
      u.send("HTTP/1.1 100 Continue\r\n\r\n");
      u.send(ok(u.bytes(5) + field(head, "Expect")));
    }};
    world w{up.port};
    wire c(w.connect());
    c.send("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
    CHECK(read_answer(c).status == 100);
    c.send("hello");
    CHECK(read_answer(c).body == "hello100-continue");
  }
  SECTION("a refusal comes before the body, and the connection ends") {
    upstream_stub up{[](wire& u) {
      u.head();
      u.send(status(417));
    }};
    world w{up.port};
    wire c(w.connect());
    c.send("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
    const answer a = read_answer(c);
    CHECK(a.status == 417);
    CHECK(a["Connection"] == "close");
    CHECK(c.rest().empty());
  }
  SECTION("an answer in the middle of an upload reaches the client") {
    upstream_stub up{[](wire& u) {
      u.head();
      u.bytes(1000);
      u.send("HTTP/1.1 413 X\r\nConnection: close\r\nContent-Length: 3\r\n\r\nbig");
    }};
    world w{up.port};
    wire c(w.connect());
    c.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 50000000\r\n\r\n");
    std::thread sender([&] { c.send(std::string(50'000'000, 'x')); });
    const answer a = read_answer(c);
    CHECK(a.status == 413);
    CHECK(a.body == "big");
    c.rest();
    c.shut_down_writing();
    sender.join();
  }
}

TEST_CASE("malformed requests get 400, a closed connection, and nobody else sees them", "[proxy]") {
  upstream_stub up{serving([](const std::string&, const std::string&) { return ok(); })};
  world w{up.port};
  const std::string smuggled = "GET /evil HTTP/1.1\r\nHost: a\r\n\r\n";
  for (const std::string& text : std::initializer_list<std::string>{
           "GARBAGE\r\n\r\n"s,
           "\x16\x03\x01\x02"s,
           "GET / HTTP/1.1\r\n\r\n"s,
           "GET / HTTP/1.1\nHost: a\n\n"s,
           "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + smuggled,
           "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" + smuggled,
           "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + smuggled,
           "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + smuggled,
           "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\x0b"
           "chunked\r\n\r\n0\r\n\r\n" +
               smuggled,
           "POST / HTTP/1.1\r\nHost: a\r\nX: y\r\n Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + smuggled,
           "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n" +
               smuggled,
           "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nContent-Length: 44\r\n\r\n" + smuggled,
           "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0, 44\r\n\r\n" + smuggled,
           "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x2c\r\n\r\n" + smuggled,
           "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + smuggled,
           "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n",
           "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\nhello\n0\n\n" + smuggled,
           "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloXX0\r\n\r\n",
           "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
           "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX : y\r\n\r\n" + smuggled}) {
    CAPTURE(text);
    wire c(w.connect());
    c.send(text);
    const answer a = read_answer(c);
    CHECK(a.status == 400);
    CHECK(a["x-resilience-reason"] == "bad_request");
    CHECK(a["Connection"] == "close");
    CHECK(c.rest().empty());
    CHECK_FALSE(c.timed_out);
  }
  CHECK(w.get().status == 200);
  CHECK(w.code(200) == 1);
}

TEST_CASE("limits have their own answers", "[proxy]") {
  upstream_stub up{serving([](const std::string&, const std::string&) { return ok(); })};
  world w{up.port, [](settings& s, route_settings&) {
            s.listen.limits.max_line = 100;
            s.listen.limits.max_header = 300;
            s.listen.limits.max_fields = 5;
            s.listen.limits.max_body = 10;
            s.listen.limits.header_timeout = 100ms;
            s.listen.limits.body_idle_timeout = 100ms;
          }};
  CHECK(w.get("/" + std::string(200, 'a')).status == 414);
  CHECK(w.get("/", "X: " + std::string(400, 'a') + "\r\n").status == 431);
  CHECK(w.get("/", "A: 1\r\nB: 1\r\nC: 1\r\nD: 1\r\nE: 1\r\n").status == 431);
  CHECK(w.post("0123456789").status == 200);
  CHECK(w.post("0123456789a").status == 413);
  CHECK(w.ask("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n8\r\n01234567\r\n8\r\n01234567\r\n")
            .status == 413);
  CHECK(w.ask("GET / HT").status == 408);
  const answer slow = w.ask("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n12345");
  CHECK(slow.status == 408);
  CHECK(slow["x-resilience-reason"] == "body_timeout");
  CHECK(slow.body.find(R"("type":"urn:resilience:body_timeout")") != std::string::npos);
}

// ---- Policies ------------------------------------------------------------------------------------------------------

TEST_CASE("an answer made here explains itself", "[proxy]") {
  world w{1};
  const answer a = w.get("/", "X-Request-Id: me\r\n");
  CHECK(a.status == 502);
  CHECK(a["Content-Type"] == "application/problem+json");
  CHECK(a["x-resilience-reason"] == "connect_failure");
  CHECK(a["Proxy-Status"].starts_with("resilience-sidecar; error=connection_refused; details=\""));
  CHECK(a["X-Request-Id"] == "me");
  CHECK(a.body == R"({"type":"urn:resilience:connect_failure","title":"The upstream cannot be reached","status":502,)"
                  R"("reason":"connect_failure","route":"app","request_id":"me"})");
  // It is counted by the time it can be read.
  CHECK(w.local(reason::connect_failure) == 1);
  CHECK(w.code(502) == 1);
  CHECK(w.in_flight() == 0);
  const answer head = w.ask("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n");
  CHECK(head.status == 502);
  CHECK(std::stoi(head["Content-Length"]) > 0);
}

TEST_CASE("failures that may pass are tried again", "[proxy]") {
  std::atomic<int> asked = 0;
  std::atomic<int> failures = 2;
  std::string fields;
  upstream_stub up{serving([&](const std::string&, const std::string& body) {
    return ++asked <= failures ? status(503, fields) : ok("good" + body);
  })};
  world w{up.port, [](settings& s, route_settings& r) {
            s.policies.retry["app"] = {.max_attempts = 3, .interval = 1ms};
            s.policies.retry_rules_of["app"] = {};
            r.retry = "app";
            r.timeout = 2s;
          }};
  const auto metrics = [&] { return w.live.all_policies().retry.at("app")->metrics(); };
  SECTION("until one succeeds") {
    CHECK(w.get().body == "good");
    CHECK(asked == 3);
    CHECK(metrics().successful_with_retry == 1);
  }
  SECTION("but no more often than allowed") {
    failures = 5;
    CHECK(w.get().status == 503);
    CHECK(asked == 3);
    CHECK(metrics().failed_with_retry == 1);
  }
  SECTION("not for POST") {
    CHECK(w.post("x").status == 503);
    CHECK(asked == 1);
  }
  SECTION("for POST with a key, body and all") {
    CHECK(w.post("body", "Idempotency-Key: 1\r\n").body == "goodbody");
    CHECK(asked == 3);
  }
  SECTION("not with a body beyond the replay buffer") {
    CHECK(w.post(std::string(200'000, 'x'), "Idempotency-Key: 1\r\n").status == 503);
    CHECK(asked == 1);
    for (const auto& u : w.live.upstreams()) {
      CHECK(u->sum([](const upstream_shard& s) {
        return s.suppressed[static_cast<std::size_t>(retry_suppression::not_replayable)].read();
      }) == 1);
    }
  }
  SECTION("not when the upstream asks for more time than is left") {
    fields = "Retry-After: 30\r\n";
    const answer a = w.get();
    CHECK(a.status == 503);
    CHECK(a["Retry-After"] == "30");
    CHECK(a["x-resilience-reason"].empty());
    CHECK(asked == 1);
  }
  SECTION("not before the upstream wants it") {
    fields = "Retry-After: 1\r\n";
    failures = 1;
    const auto before = std::chrono::steady_clock::now();
    CHECK(w.get().body == "good");
    CHECK(std::chrono::steady_clock::now() - before >= 1s);
  }
}

TEST_CASE("a failed connection is tried again for every method", "[proxy]") {
  world w{1, [](settings& s, route_settings& r) {
            s.policies.retry["app"] = {.max_attempts = 3, .interval = 1ms};
            s.policies.retry_rules_of["app"] = {};
            r.retry = "app";
          }};
  CHECK(w.post(std::string(200'000, 'x')).status == 502);
  CHECK(w.live.all_policies().retry.at("app")->metrics().failed_with_retry == 1);
}

TEST_CASE("a breaker opens on failures and keeps the upstream untouched", "[proxy]") {
  std::atomic<int> asked = 0;
  std::atomic<bool> well = false;
  upstream_stub up{serving([&](const std::string&, const std::string&) {
    ++asked;
    return well ? ok() : status(500);
  })};
  world w{up.port, [](settings& s, route_settings& r) {
            s.policies.circuit_breaker["app"] = {
                .window = calls{4}, .min_calls = 4, .open_for = 300ms, .half_open_calls = 1};
            r.circuit_breaker = "app";
          }};
  for (int i = 0; i < 4; ++i) CHECK(w.get().status == 500);
  const answer refused = w.get();
  CHECK(refused.status == 503);
  CHECK(refused["x-resilience-reason"] == "circuit_open");
  CHECK(refused["Retry-After"] == "1");
  CHECK(asked == 4);
  well = true;
  REQUIRE(eventually([&] { return w.get().status == 200; }));
  CHECK(w.get().status == 200);
  CHECK(asked == 6);
}

TEST_CASE("a limited route says what is left, and when to come again", "[proxy]") {
  upstream_stub up{serving([](const std::string&, const std::string&) { return ok(); })};
  world w{up.port, [](settings& s, route_settings& r) {
            s.policies.rate_limiter["app"] = {.limit = {2, 60s}, .burst = 2};
            r.rate_limiter = "app";
          }};
  const answer first = w.get();
  CHECK(first.status == 200);
  CHECK(first["RateLimit-Policy"] == R"("app";q=2;w=60)");
  CHECK(first["RateLimit"] == R"("app";r=1;t=30)");
  CHECK(w.get().status == 200);
  const answer refused = w.get();
  CHECK(refused.status == 429);
  CHECK(refused["Retry-After"] == "30");
  CHECK(refused["RateLimit"].starts_with(R"("app";r=0;t=)"));
  CHECK(refused.body.find(R"("retry_after":30)") != std::string::npos);
}

TEST_CASE("who waits for the limiter and leaves gives its turn back", "[proxy]") {
  upstream_stub up{serving([](const std::string&, const std::string&) { return ok(); })};
  world w{up.port, [](settings& s, route_settings& r) {
            s.policies.rate_limiter["app"] = {.limit = {1, 200ms}, .burst = 1, .max_wait = 10s};
            r.rate_limiter = "app";
            r.timeout = 20s;
          }};
  const auto limiter = w.live.all_policies().rate_limiter.at("app");
  CHECK(w.get().status == 200);
  CHECK(w.get().status == 200);  // after a wait
  {
    std::list<wire> leaving;
    for (int i = 0; i < 20; ++i) {
      leaving.emplace_back(w.connect());
      leaving.back().send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    }
    REQUIRE(eventually([&] { return limiter->available() < -10; }));
  }
  REQUIRE(eventually([&] { return w.in_flight() == 0; }));
  CHECK(limiter->available() >= -1);
  CHECK(w.code(499) > 10);
}

TEST_CASE("a place in the bulkhead comes back on every way a request can end", "[proxy]") {
  // What the upstream does is said in the path.
  upstream_stub up{[](wire& u) {
    for (;;) {
      const std::string head = u.head();
      if (head.empty()) return;
      if (head.find("/ok") != std::string::npos) u.send(ok());
      if (head.find("/error") != std::string::npos) u.send(status(500));
      if (head.find("/close") != std::string::npos) return;
      if (head.find("/reset") != std::string::npos) return u.reset();
      if (head.find("/garbage") != std::string::npos) u.send("NOT HTTP\r\n\r\n");
      if (head.find("/half") != std::string::npos) {
        u.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc");
        return;
      }
      if (head.find("/stall") != std::string::npos) u.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc");
      // /hang: nothing
    }
  }};
  world w{up.port, [](settings& s, route_settings& r) {
            s.policies.bulkhead["app"] = {.max_concurrent = 1};
            s.policies.circuit_breaker["app"] = {.window = calls{1000}, .min_calls = 1000};
            s.policies.retry["app"] = {.max_attempts = 2, .interval = 1ms};
            s.policies.retry_rules_of["app"] = {};
            r.bulkhead = r.circuit_breaker = r.retry = "app";
            r.timeout = 300ms;
            r.per_try_timeout = 200ms;
            r.limits.body_idle_timeout = 150ms;
          }};
  const auto free_again = [&] { return eventually([&] { return in_use(w) == 0 && w.in_flight() == 0; }); };
  for (const char* path : {"/ok", "/error", "/close", "/reset", "/garbage", "/half", "/stall", "/hang"}) {
    CAPTURE(path);
    w.get(path);
    CHECK(free_again());
  }
  CHECK(w.get("/hang").status == 504);
  CHECK(w.get("/garbage")["x-resilience-reason"] == "upstream_protocol_error");
  CHECK(w.post("x", "X: /close\r\n")["x-resilience-reason"] == "upstream_reset");
  SECTION("the client leaves before, during and after the upload") {
    for (const char* text :
         {"GET /hang HTTP/1.1\r\nHost: a\r\n\r\n", "POST /hang HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc",
          "GET /stall HTTP/1.1\r\nHost: a\r\n\r\n"}) {
      const auto before = w.code(499);
      wire c(w.connect());
      c.send(text);
      REQUIRE(eventually([&] { return in_use(w) == 1; }));
      if (std::string_view(text).starts_with("POST")) c.reset();
      c.close();
      CHECK(free_again());
      CHECK(w.code(499) == before + 1);
    }
  }
  SECTION("a body that is not what it says, too large or too slow") {
    w.ask("POST /hang HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc");
    CHECK(free_again());
    wire c(w.connect());
    c.send("POST /hang HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n");
    REQUIRE(eventually([&] { return in_use(w) == 1; }));
    c.send("zz\r\n");
    CHECK(read_answer(c).status == 400);
    CHECK(free_again());
  }
  SECTION("the upstream cannot be reached") {
    up.stop();
    CHECK(w.get("/ok").status == 502);
    CHECK(free_again());
  }
  SECTION("the proxy is cut off") {
    wire c(w.connect());
    c.send("GET /hang HTTP/1.1\r\nHost: a\r\n\r\n");
    REQUIRE(eventually([&] { return in_use(w) == 1; }));
    CHECK(w.front.force() == 1);
    CHECK(free_again());
  }
}

TEST_CASE("a full bulkhead refuses, or lets wait in line", "[proxy]") {
  std::mutex mutex;
  std::condition_variable changed;
  bool open = false;
  std::atomic<int> inside = 0;
  upstream_stub up{serving([&](const std::string&, const std::string&) {
    ++inside;
    std::unique_lock lock(mutex);
    changed.wait(lock, [&] { return open; });
    return ok();
  })};
  const auto wait = GENERATE(0ms, 10'000ms, 50ms);
  world w{up.port,
          [&](settings& s, route_settings& r) {
            s.policies.bulkhead["app"] = {.max_concurrent = 2, .max_wait = wait};
            r.bulkhead = "app";
          },
          2};
  std::list<wire> clients;
  const auto send = [&] {
    clients.emplace_back(w.connect());
    clients.back().send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
  };
  send();
  send();
  REQUIRE(eventually([&] { return inside == 2; }));
  const auto let_go = [&] {
    const std::lock_guard lock(mutex);
    open = true;
    changed.notify_all();
  };
  if (wait == 10'000ms) {
    for (int i = 0; i < 10; ++i) send();
    REQUIRE(eventually([&] { return w.live.all_policies().bulkhead.at("app")->metrics().waiting == 10; }));
    clients.pop_back();  // one leaves the line
    REQUIRE(eventually([&] { return w.live.all_policies().bulkhead.at("app")->metrics().waiting == 9; }));
    let_go();
    for (auto& c : clients) CHECK(read_answer(c).status == 200);
  } else {
    const answer refused = w.get();
    CHECK(refused.status == 503);
    CHECK(refused["x-resilience-reason"] == "bulkhead_full");
    CHECK(refused["Retry-After"] == "1");
    let_go();
    for (auto& c : clients) CHECK(read_answer(c).status == 200);
  }
  CHECK(eventually([&] { return in_use(w) == 0; }));
}

TEST_CASE("a pooled connection that went stale costs nobody a request", "[proxy]") {
  std::atomic<int> served = 0;
  upstream_stub up{[&](wire& u) {  // one answer each, then a close without a word
    if (u.head().empty()) return;
    ++served;
    u.send(ok());
  }};
  world w{up.port};
  wire c(w.connect());
  for (int i = 0; i < 200; ++i) {
    CAPTURE(i);
    c.send(i % 2 == 0 ? "GET / HTTP/1.1\r\nHost: a\r\n\r\n" : "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
    REQUIRE(read_answer(c).status == 200);
  }
  CHECK(served == 200);
}

TEST_CASE("an upstream that dies before it answers a request that was sent is a failure", "[proxy]") {
  upstream_stub up{[&](wire& u) { u.head(); }};
  world w{up.port};
  const answer a = w.get();
  CHECK(a.status == 502);
  CHECK(a["x-resilience-reason"] == "upstream_reset");
}

TEST_CASE("timeouts have their reason", "[proxy]") {
  upstream_stub up{[](wire& u) {
    while (!u.head().empty()) {
    }
  }};
  world w{up.port, [](settings&, route_settings& r) { r.timeout = 60ms; }};
  const auto before = std::chrono::steady_clock::now();
  const answer a = w.get();
  CHECK(a.status == 504);
  CHECK(a["x-resilience-reason"] == "timed_out");
  CHECK(std::chrono::steady_clock::now() - before >= 60ms);
}

TEST_CASE("a fallback answers in place of a refusal", "[proxy]") {
  upstream_stub other{serving(
      [](const std::string& head, const std::string& body) { return ok("other" + field(head, "X-A") + body); })};
  SECTION("with words of its own") {
    world w{1, [](settings&, route_settings& r) {
              r.fallback = fallback_settings{{reason::connect_failure},
                                             fallback_settings::respond{200, {{"X-B", "1"}}, R"({"a":1})"}};
            }};
    const answer a = w.get();
    CHECK(a.status == 200);
    CHECK(a.body == R"({"a":1})");
    CHECK(a["Content-Type"] == "application/json");
    CHECK(a["X-B"] == "1");
    CHECK(a["x-resilience-reason"] == "connect_failure");
    CHECK(a["Proxy-Status"].starts_with("resilience-sidecar; error=connection_refused"));
    CHECK(w.of("app", [](const route_shard& s) {
      return s.fallbacks[static_cast<std::size_t>(reason::connect_failure)].read();
    }) == 1);
  }
  SECTION("by another upstream") {
    world w{1, [&](settings& s, route_settings& r) {
              s.upstreams["other"].targets = {{"127.0.0.1", other.port}};
              r.fallback = fallback_settings{{reason::connect_failure}, fallback_settings::alternate{"other"}};
            }};
    const answer a = w.post("body", "X-A: 1\r\n");
    CHECK(a.status == 200);
    CHECK(a.body == "other1body");
    CHECK(a["x-resilience-reason"] == "connect_failure");
    other.stop();
    CHECK(w.get().status == 502);
  }
  SECTION("only for its reasons") {
    world w{1, [](settings&, route_settings& r) {
              r.fallback = fallback_settings{{reason::timed_out}, fallback_settings::respond{}};
            }};
    CHECK(w.get().status == 502);
  }
}

TEST_CASE("targets that fail their health checks are left out while others are well", "[proxy]") {
  std::atomic<bool> well = true;
  upstream_stub good{serving([](const std::string&, const std::string&) { return ok("good"); })};
  upstream_stub bad{serving([&](const std::string& head, const std::string&) {
    return head.starts_with("GET /readyz") && !well ? status(503) : ok("bad");
  })};
  world w{good.port, [&](settings& s, route_settings&) {
            s.upstreams["app"].targets.push_back({"127.0.0.1", bad.port});
            s.upstreams["app"].health_check = health_check_settings{"/readyz", 20ms};
          }};
  const auto target_up = [&] { return w.live.current()->upstreams.at("app")->targets[1]->up.load(); };
  CHECK((w.get().body == "bad") != (w.get().body == "bad"));
  well = false;
  REQUIRE(eventually([&] { return !target_up(); }));
  for (int i = 0; i < 10; ++i) CHECK(w.get().body == "good");
  CHECK(w.live.current()->upstreams.at("app")->up());
  well = true;
  REQUIRE(eventually(target_up));
}

// ---- Reload and drain ----------------------------------------------------------------------------------------------

TEST_CASE("reloads under load fail no request and keep state", "[proxy]") {
  upstream_stub up{serving([](const std::string&, const std::string&) { return ok(); })};
  const auto change = [](settings& s, route_settings& r) {
    s.policies.circuit_breaker["app"] = {};
    s.policies.bulkhead["app"] = {.max_concurrent = 100};
    r.circuit_breaker = r.bulkhead = "app";
  };
  world w{up.port, change, 2};
  const auto breaker = w.live.all_policies().circuit_breaker.at("app");
  std::atomic<bool> stop = false;
  std::atomic<int> good = 0, wrong = 0;
  std::vector<std::thread> load;
  for (int t = 0; t < 4; ++t) {
    load.emplace_back([&] {
      wire c(w.connect());
      while (!stop) {
        c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        ++(read_answer(c).status == 200 ? good : wrong);
      }
    });
  }
  for (int i = 0; i < 100; ++i) {
    auto next = world::basic(up.port, change);
    next.policies.bulkhead["app"].max_concurrent = 50 + i;
    next.routes[0].timeout = std::chrono::seconds(10 + i);
    w.live.apply(next);
    w.front.publish();
    const int before = good;
    REQUIRE(eventually([&] { return good > before + 5 || wrong > 0; }));
  }
  stop = true;
  for (auto& t : load) t.join();
  CHECK(wrong == 0);
  CHECK(w.live.all_policies().circuit_breaker.at("app") == breaker);
  CHECK(w.live.all_policies().bulkhead.at("app")->config().max_concurrent == 149);
  CHECK(in_use(w) == 0);
  CHECK(w.code(200) == static_cast<std::uint64_t>(good));
}

TEST_CASE("draining closes idle connections, ends the busy ones, and says when all are gone", "[proxy]") {
  std::atomic<bool> go = false;
  upstream_stub up{serving([&](const std::string&, const std::string&) {
    eventually([&] { return go.load(); });
    return ok();
  })};
  world w{up.port};
  wire idle(w.connect());
  wire busy(w.connect());
  busy.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
  REQUIRE(eventually([&] { return w.in_flight() == 1 && w.front.client_connections() == 2; }));
  w.front.stop_accepting();
  CHECK_THROWS(w.connect());
  std::atomic<bool> empty = false;
  w.front.drain([&] { empty = true; });
  CHECK(idle.rest().empty());
  CHECK_FALSE(empty);
  go = true;
  const answer a = read_answer(busy);
  CHECK(a.status == 200);
  CHECK(a["Connection"] == "close");
  CHECK(eventually([&] { return empty.load(); }));
}

TEST_CASE("an address in use is named", "[proxy]") {
  upstream_stub up{[](wire&) {}};
  settings s = world::basic(1, {});
  s.listen.address.port = up.port;
  runtime live{1};
  live.apply(s);
  proxy front{live};
  const auto bound = front.start();
  REQUIRE_FALSE(bound.has_value());
  CHECK(bound.error().find("127.0.0.1:" + std::to_string(up.port)) != std::string::npos);
}

TEST_CASE("too many connections are told so", "[proxy]") {
  upstream_stub up{serving([](const std::string&, const std::string&) { return ok(); })};
  world w{up.port, [](settings& s, route_settings&) { s.listen.max_connections = 2; }};
  wire a(w.connect()), b(w.connect());
  REQUIRE(eventually([&] { return w.front.client_connections() == 2; }));
  wire c(w.connect());
  const answer refused = read_answer(c);
  CHECK(refused.status == 503);
  CHECK(refused["x-resilience-reason"] == "too_many_connections");
}

TEST_CASE("the access log has a line for each request", "[proxy]") {
  upstream_stub up{serving([](const std::string&, const std::string&) { return ok("abc"); })};
  char path[] = "/tmp/sidecar-access-XXXXXX";
  ::close(::mkstemp(path));
  {
    world w{up.port, [&](settings& s, route_settings&) { s.access_log.path = path; }};
    CHECK(w.get("/a\"b?secret=1").status == 400);
    CHECK(w.get("/a%22?secret=1", "X-Request-Id: r1\r\n").status == 200);
  }
  std::ifstream file(path);
  std::string first, second;
  std::getline(file, first);
  std::getline(file, second);
  ::unlink(path);
  CHECK(first.find(R"("status":400,"reason":"bad_request")") != std::string::npos);
  CHECK(
      second.find(
          R"("client":"127.0.0.1","method":"GET","path":"/a%22","route":"app","upstream":"app","status":200,"reason":null,"attempts":1,)") !=
      std::string::npos);
  CHECK(second.find(R"("bytes_in":0,"bytes_out":3,"request_id":"r1","trace_id":")") != std::string::npos);
  CHECK(second.ends_with("\"}"));
}
