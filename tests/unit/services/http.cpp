#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <boost/asio/steady_timer.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/json/parse.hpp>
#include <catch2/catch.hpp>
#include <latch>
#include <thread>

#include "common/http/problem.hpp"
#include "common/http/server.hpp"

using namespace std::chrono_literals;
namespace http = common::http;
namespace asio = boost::asio;

namespace {

// A client that says exactly what a test wants said. Reads give up after ten seconds.
class raw_client {
 public:
  explicit raw_client(std::uint16_t port) : fd_(::socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in at{};
    at.sin_family = AF_INET;
    at.sin_port = htons(port);
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    const timeval patience{.tv_sec = 10, .tv_usec = 0};
    ::setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    connected_ = ::connect(fd_, reinterpret_cast<sockaddr*>(&at), sizeof at) == 0;
  }
  ~raw_client() { ::close(fd_); }
  raw_client(const raw_client&) = delete;
  raw_client& operator=(const raw_client&) = delete;

  [[nodiscard]] bool connected() const { return connected_; }
  void say(std::string_view text) {
    while (!text.empty()) {
      const ssize_t n = ::send(fd_, text.data(), text.size(), MSG_NOSIGNAL);
      if (n <= 0) return;
      text.remove_prefix(static_cast<std::size_t>(n));
    }
  }
  // Reads until `enough` says so, or nothing more comes.
  template <class Enough>
  std::string hear(Enough enough) {
    while (!enough(heard_) && fill()) {
    }
    return heard_;
  }
  std::string hear_all() {
    return hear([](const std::string&) { return false; });
  }
  // One whole response that has a Content-Length; later ones stay.
  std::string answer(bool has_body = true) {
    std::size_t end = std::string::npos;
    while ((end = heard_.find("\r\n\r\n")) == std::string::npos) {
      if (!fill()) return std::exchange(heard_, {});
    }
    end += 4;
    const std::size_t at = heard_.find("Content-Length: ");
    if (has_body && at < end) end += std::stoul(heard_.substr(at + 16));
    while (heard_.size() < end && fill()) {
    }
    std::string whole = heard_.substr(0, end);
    heard_.erase(0, end);
    return whole;
  }

 private:
  bool fill() {
    char chunk[4096];
    const ssize_t n = ::recv(fd_, chunk, sizeof chunk, 0);
    if (n <= 0) return false;
    heard_.append(chunk, static_cast<std::size_t>(n));
    return true;
  }

  int fd_;
  bool connected_ = false;
  std::string heard_;
};

std::string get(std::string_view path, std::string_view more = {}) {
  return "GET " + std::string(path) + " HTTP/1.1\r\nHost: test\r\n" + std::string(more) + "\r\n";
}

std::string post(std::string_view path, std::string_view body, std::string_view more = {}) {
  return "POST " + std::string(path) + " HTTP/1.1\r\nHost: test\r\nContent-Length: " + std::to_string(body.size()) +
         "\r\n" + std::string(more) + "\r\n" + std::string(body);
}

std::string status_line(std::string_view answer) { return std::string(answer.substr(0, answer.find("\r\n"))); }

boost::json::value body_of(std::string_view answer) {
  const std::string_view body = answer.substr(answer.find("\r\n\r\n") + 4);
  return boost::json::parse({body.data(), body.size()});
}

bool has(std::string_view text, std::string_view part) { return text.find(part) != std::string_view::npos; }

// A server with one route of each kind.
struct fixture {
  explicit fixture(http::server_settings settings = {}) : server(std::move(settings)) {
    http::router& routes = server.routes();
    routes.add("GET", "/things/{id}",
               [](const http::request& in) { return http::json(std::string(in.parameter("id"))); });
    routes.add("GET", "/things/first", [](const http::request&) { return http::json("\"the first\""); });
    routes.add("DELETE", "/things/{id}", [](const http::request&) { return http::response{.status = 204}; });
    routes.add("POST", "/echo", [](const http::request& in) { return http::json(in.body, 201); });
    routes.add("GET", "/query",
               [](const http::request& in) { return http::json(std::string(in.query_value("a").value_or("none"))); });
    routes.add("GET", "/throws", [](const http::request&) -> http::response { throw std::runtime_error("broken"); });
    routes.add("GET", "/later", [](const http::request&) -> asio::awaitable<http::response> {
      asio::steady_timer timer(co_await asio::this_coro::executor, 1ms);
      co_await timer.async_wait(asio::use_awaitable);
      co_return http::json("\"later\"");
    });
    routes.add("GET", "/events", [this](const http::request&, http::event_stream& out) -> asio::awaitable<void> {
      bool here = co_await out.send("data: 1\n\n");
      here = here && co_await out.send("data: 2\n\n");
      asio::steady_timer timer(co_await asio::this_coro::executor, 1h);
      const ended guard{left};
      if (here) co_await timer.async_wait(asio::use_awaitable);
    });
    routes.add("GET", "/livez", [](const http::request&) { return http::json("\"alive\""); }).while_draining = true;
    port = server.start().value();
  }

  struct ended {
    std::latch& left;
    ~ended() { left.count_down(); }
  };
  std::latch left{1};
  http::server server;
  std::uint16_t port = 0;
};

}  // namespace

TEST_CASE("a parameter is decoded and a literal wins over it", "[http]") {
  fixture f;
  raw_client client(f.port);
  client.say(get("/things/a%20b"));
  CHECK(client.answer().ends_with("\r\n\r\na b"));
  client.say(get("/things/first"));
  CHECK(client.answer().ends_with("\"the first\""));
  client.say(get("/things/7/"));
  CHECK(client.answer().ends_with("\r\n\r\n7"));
  client.say(get("/query?b=1&a=x+y%2Bz"));
  CHECK(client.answer().ends_with("\r\n\r\nx y+z"));
  client.say(get("/later"));
  CHECK(client.answer().ends_with("\"later\""));
}

TEST_CASE("one connection serves many requests, pipelined too", "[http]") {
  fixture f;
  raw_client client(f.port);
  client.say(get("/things/1") + post("/echo", "two") + get("/things/3"));
  CHECK(client.answer().ends_with("\r\n\r\n1"));
  CHECK(status_line(client.answer()) == "HTTP/1.1 201 Created");
  CHECK(client.answer().ends_with("\r\n\r\n3"));
  client.say("POST /echo HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n3\r\ncde\r\n0\r\n\r\n");
  CHECK(client.answer().ends_with("\r\n\r\nabcde"));
  client.say(get("/things/4", "Connection: close\r\n"));
  CHECK(has(client.hear_all(), "Connection: close\r\n"));
}

TEST_CASE("HEAD answers as GET does, without the body", "[http]") {
  fixture f;
  raw_client client(f.port);
  client.say("HEAD /things/first HTTP/1.1\r\nHost: t\r\n\r\n" + get("/things/2"));
  const std::string head = client.answer(false);
  CHECK(status_line(head) == "HTTP/1.1 200 OK");
  CHECK(has(head, "Content-Length: 11\r\n"));
  CHECK(client.answer().ends_with("\r\n\r\n2"));
}

TEST_CASE("a response without content has neither length nor type", "[http]") {
  fixture f;
  raw_client client(f.port);
  client.say("DELETE /things/2 HTTP/1.1\r\nHost: t\r\n\r\n");
  const std::string answer = client.answer();
  CHECK(status_line(answer) == "HTTP/1.1 204 No Content");
  CHECK_FALSE(has(answer, "Content-"));
}

TEST_CASE("every refusal is a problem with the correlation id", "[http]") {
  fixture f;
  struct refusal {
    std::string what, request;
    int status;
  };
  const std::string id = "X-Correlation-Id: abc-1\r\n";
  const std::string big(1024 * 1024 + 1, 'x');
  std::string many;
  for (int n = 0; n < 120; ++n) many += "F" + std::to_string(n) + ": v\r\n";
  const refusal refusals[] = {
      {"no such path", get("/nowhere", id), 404},
      {"a method the path does not take", "PUT /things/1 HTTP/1.1\r\nHost: t\r\n" + id + "\r\n", 405},
      {"an unknown method", "BREW /things/1 HTTP/1.1\r\nHost: t\r\n" + id + "\r\n", 405},
      {"a type it does not take", post("/echo", "x", id + "Content-Type: text/plain\r\n"), 415},
      {"a type it does not make", get("/things/1", id + "Accept: text/html, application/json;q=0\r\n"), 406},
      {"a body above 1 MiB", post("/echo", big, id), 413},
      {"fields above 48 KiB", get("/things/1", id + "Big: " + std::string(60'000, 'x') + "\r\n"), 431},
      {"a field above 64 KiB", get("/things/1", id + "Big: " + std::string(66'000, 'x') + "\r\n"), 431},
      {"much more than 64 KiB", get("/things/1", id + "Big: " + std::string(500'000, 'x') + "\r\n"), 431},
      {"a long name", get("/things/1", id + std::string(66'000, 'x') + ": x\r\n"), 431},
      {"too many fields", get("/things/1", id + many), 431},
      {"a target above 8 KiB", get("/things/" + std::string(9'000, 'x'), id), 414},
      {"a target with a bad escape", get("/things/%zz", id), 400},
      {"a target that is not UTF-8", get("/things/%ff", id), 400},
      {"no host", "GET /things/1 HTTP/1.1\r\n" + id + "\r\n", 400},
      {"two lengths", "POST /echo HTTP/1.1\r\nHost: t\r\n" + id + "Content-Length: 1\r\nContent-Length: 2\r\n\r\nab",
       400},
      {"a handler that throws", get("/throws", id), 500},
  };
  for (const refusal& r : refusals) {
    INFO(r.what);
    raw_client client(f.port);
    client.say(r.request);
    const std::string answer = client.answer();
    CHECK(has(status_line(answer), " " + std::to_string(r.status) + " "));
    CHECK(has(answer, "Content-Type: application/problem+json\r\n"));
    CHECK(has(answer, "X-Correlation-Id: abc-1\r\n"));
    const auto problem = body_of(answer).as_object();
    CHECK(problem.at("status") == r.status);
    CHECK(problem.at("correlationId") == "abc-1");
    for (const char* member : {"type", "title", "detail", "instance", "timestamp", "violations"}) {
      INFO(member);
      CHECK(problem.contains(member));
    }
    if (r.status == 405) CHECK(has(answer, "Allow: DELETE, GET, HEAD\r\n"));
  }
}

TEST_CASE("a message that is not HTTP gets 400 and a closed connection", "[http]") {
  fixture f;
  for (const std::string_view garbage : {"\x16\x03\x01\x02 hello\r\n\r\n", "GET / HTTP/9.9\r\n\r\n", "GET\r\n\r\n"}) {
    raw_client client(f.port);
    client.say(garbage);
    CHECK(has(client.hear_all(), " 400 "));
  }
}

TEST_CASE("what a client accepts is weighed by its most specific range", "[http]") {
  fixture f;
  raw_client client(f.port);
  const auto status = [&](std::string_view accept) {
    client.say(get("/things/1", "Accept: " + std::string(accept) + "\r\n"));
    return status_line(client.answer());
  };
  CHECK(has(status("application/json"), "200"));
  CHECK(has(status("text/html, */*;q=0.1"), "200"));
  CHECK(has(status("Application/*"), "200"));
  CHECK(has(status(""), "200"));
  CHECK(has(status("text/html"), "406"));
  CHECK(has(status("*/*, application/json;q=0.0"), "406"));
}

TEST_CASE("a client that waits to be invited is invited, unless its body is too large", "[http]") {
  fixture f;
  raw_client client(f.port);
  client.say("POST /echo HTTP/1.1\r\nHost: t\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n");
  CHECK(status_line(client.answer()) == "HTTP/1.1 100 Continue");
  client.say("ok");
  CHECK(client.answer().ends_with("ok"));
  client.say("POST /echo HTTP/1.1\r\nHost: t\r\nContent-Length: 2000000\r\nExpect: 100-continue\r\n\r\n");
  CHECK(has(status_line(client.answer()), "413"));
}

TEST_CASE("a slow header gets 408, and an idle connection is closed", "[http]") {
  fixture f({.header_timeout = 50ms, .body_timeout = 50ms, .idle_timeout = 100ms});
  raw_client slow(f.port);
  slow.say("GET /things/1 HTTP/1.1\r\nHo");
  CHECK(has(slow.hear_all(), " 408 "));
  raw_client slow_body(f.port);
  slow_body.say("POST /echo HTTP/1.1\r\nHost: t\r\nContent-Length: 5\r\n\r\nab");
  CHECK(has(slow_body.hear_all(), " 408 "));
  raw_client idle(f.port);
  CHECK(idle.hear_all().empty());
}

TEST_CASE("a connection too many is told so", "[http]") {
  fixture f({.max_connections = 1});
  raw_client first(f.port);
  first.say(get("/things/1"));
  first.answer();
  raw_client second(f.port);
  CHECK(has(second.hear_all(), " 503 "));
}

TEST_CASE("pushed text arrives as it is sent, and the handler ends when the client leaves", "[http]") {
  fixture f;
  {
    raw_client client(f.port);
    client.say(get("/events"));
    const std::string heard = client.hear([](const std::string& so_far) { return has(so_far, "data: 2\n\n"); });
    CHECK(has(heard, "Content-Type: text/event-stream\r\n"));
    CHECK(has(heard, "Transfer-Encoding: chunked\r\n"));
    CHECK(has(heard, "9\r\ndata: 1\n\n\r\n9\r\ndata: 2\n\n\r\n"));
  }
  f.left.wait();
  CHECK(f.server.wait_idle(0s));
}

TEST_CASE("draining refuses new requests, answers health, finishes what runs and ends what is pushed", "[http]") {
  fixture f;
  std::latch entered{1};
  std::latch go_on{1};
  http::server server;
  server.routes().add("GET", "/slow", [&](const http::request&) {
    entered.count_down();
    go_on.wait();
    return http::json("\"done\"");
  });
  server.routes().add("GET", "/quick", [](const http::request&) { return http::json("1"); });
  server.routes().add("GET", "/livez", [](const http::request&) { return http::json("2"); }).while_draining = true;
  const std::uint16_t port = server.start().value();
  raw_client slow(port);
  slow.say(get("/slow"));
  entered.wait();
  server.begin_drain();
  raw_client other(port);
  other.say(get("/quick"));
  const std::string refused = other.hear_all();
  CHECK(has(refused, " 503 "));
  CHECK(has(refused, "Retry-After: "));
  raw_client health(port);
  health.say(get("/livez"));
  CHECK(has(health.answer(), " 200 "));
  CHECK_FALSE(server.wait_idle(1ms));
  go_on.count_down();
  CHECK(slow.answer().ends_with("\"done\""));
  CHECK(server.wait_idle(10s));
  server.stop();
  raw_client late(port);
  CHECK((!late.connected() || late.hear_all().empty()));

  raw_client watcher(f.port);
  watcher.say(get("/events"));
  watcher.hear([](const std::string& so_far) { return has(so_far, "data: 2\n\n"); });
  f.server.begin_drain();
  CHECK(watcher.hear_all().ends_with("0\r\n\r\n"));
}

TEST_CASE("an address that is taken is named", "[http]") {
  fixture f;
  http::server second({.port = f.port});
  const auto started = second.start();
  REQUIRE_FALSE(started.has_value());
  CHECK(has(started.error(), "127.0.0.1:" + std::to_string(f.port)));
}

TEST_CASE("violations are sorted by the bytes of their field, then by message", "[http]") {
  http::request in{.path = "/x", .correlation_id = "c"};
  http::violations wrong{
      {.object = "o", .field = "b", .message = "m2"},
      {.object = "o", .field = "b", .rejected = "1", .message = "m1"},
      {.object = "o", .field = "B", .rejected = http::rejected_text(std::string(300, 'x')), .message = "m"}};
  const http::response answer = http::bad_request(in, std::move(wrong));
  const auto list = boost::json::parse(answer.body).at("violations").as_array();
  REQUIRE(list.size() == 3);
  CHECK(list[0].at("field") == "B");
  CHECK(list[0].at("rejectedValue").as_string().size() == 256);
  CHECK(list[1].at("message") == "m1");
  CHECK(list[2].at("rejectedValue").is_null());
}
