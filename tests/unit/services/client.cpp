#include "common/http/client.hpp"

#include <boost/asio.hpp>
#include <boost/asio/experimental/awaitable_operators.hpp>
#include <catch2/catch.hpp>
#include <latch>

#include "common/http/server.hpp"

using namespace std::chrono_literals;
namespace http = common::http;
namespace asio = boost::asio;

namespace {

using reply = std::expected<http::response, std::error_code>;

std::string url(std::uint16_t port) { return "http://127.0.0.1:" + std::to_string(port); }

// Runs one call to its end on this thread.
reply call(asio::io_context& io, http::client& client, http::client_request what) {
  auto result = asio::co_spawn(io, client.send(std::move(what)), asio::use_future);
  io.restart();
  io.run();
  return result.get();
}

}  // namespace

TEST_CASE("a call carries its method, fields and body, and connections are used again", "[client]") {
  http::server server;
  server.routes().add("POST", "/echo/{what}", [](const http::request& in) {
    http::response out = http::json(in.body + '|' + std::string(in.parameter("what")), 201);
    out.fields.emplace_back("X-Seen", in.field("X-Mine").value_or("none"));
    return out;
  });
  const std::uint16_t port = server.start().value();
  asio::io_context io;
  http::client client(io.get_executor(), url(port));
  for (int n = 0; n < 3; ++n) {
    http::client_request what{.method = "POST", .target = "/echo/" + http::encode("a/b ü"), .body = "{}"};
    what.fields.emplace_back("X-Mine", "yes");
    const reply got = call(io, client, what);
    REQUIRE(got.has_value());
    CHECK(got->status == 201);
    CHECK(got->body == "{}|a/b ü");
    CHECK(http::find_field(got->fields, "x-seen") == "yes");
  }
}

TEST_CASE("a kept connection that the other side has closed is replaced", "[client]") {
  asio::io_context io;
  asio::ip::tcp::acceptor listening(io, {asio::ip::address_v4::loopback(), 0});
  // Answers one request on each connection as if it would keep it, and closes it all the same.
  auto answer_one = [&] {
    asio::ip::tcp::socket socket = listening.accept();
    std::string head;
    asio::read_until(socket, asio::dynamic_buffer(head), "\r\n\r\n");
    asio::write(socket, asio::buffer(std::string("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")));
  };
  http::client client(io.get_executor(), url(listening.local_endpoint().port()));
  for (int n = 0; n < 3; ++n) {
    std::thread other(answer_one);
    const reply got = call(io, client, {.target = "/"});
    other.join();
    REQUIRE(got.has_value());
    CHECK(got->body == "ok");
  }
}

TEST_CASE("nobody there, silence and nonsense are errors of their own", "[client]") {
  asio::io_context io;
  asio::ip::tcp::acceptor silent(io, {asio::ip::address_v4::loopback(), 0});
  http::client waiting(io.get_executor(), url(silent.local_endpoint().port()), {.response_timeout = 20ms});
  const reply none = call(io, waiting, {.target = "/"});
  REQUIRE_FALSE(none.has_value());
  CHECK(none.error() == std::errc::timed_out);

  const std::uint16_t free_port = silent.local_endpoint().port();
  silent.close();
  http::client nobody(io.get_executor(), url(free_port));
  const reply refused = call(io, nobody, {.target = "/"});
  REQUIRE_FALSE(refused.has_value());
  CHECK(refused.error() == std::errc::connection_refused);

  CHECK_THROWS_AS(http::client(io.get_executor(), "inventory:80/x"), std::invalid_argument);
  CHECK_THROWS_AS(http::client(io.get_executor(), "https://inventory"), std::invalid_argument);
}

TEST_CASE("a cancelled call ends at once", "[client]") {
  using namespace asio::experimental::awaitable_operators;
  asio::io_context io;
  asio::ip::tcp::acceptor silent(io, {asio::ip::address_v4::loopback(), 0});
  http::client client(io.get_executor(), url(silent.local_endpoint().port()), {.response_timeout = 1h});
  auto race = [&]() -> asio::awaitable<std::size_t> {
    asio::steady_timer soon(io, 5ms);
    auto first = co_await (client.send({.target = "/"}) || soon.async_wait(asio::use_awaitable));
    co_return first.index();
  };
  auto result = asio::co_spawn(io, race(), asio::use_future);
  io.run();
  CHECK(result.get() == 1);
}
