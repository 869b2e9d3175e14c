#include "common/http/client.hpp"

#include <stdexcept>
#include <vector>

namespace common::http {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
using asio::ip::tcp;
using clock = std::chrono::steady_clock;

constexpr auto as_values = asio::as_tuple(asio::use_awaitable);

struct kept {
  beast::tcp_stream stream;
  clock::time_point since;
};

std::error_code code_of(const beast::error_code& ec) {
  if (ec == beast::error::timeout) return std::make_error_code(std::errc::timed_out);
  if (ec == asio::error::operation_aborted) return std::make_error_code(std::errc::operation_canceled);
  if (ec.category() == beast::http::make_error_code(beast::http::error::bad_version).category()) {
    return std::make_error_code(std::errc::connection_reset);
  }
  return ec;
}

std::string message_of(const client_request& what, const std::string& host) {
  std::string text = what.method + ' ' + what.target + " HTTP/1.1\r\nHost: " + host + "\r\n";
  for (const auto& [name, value] : what.fields) text += name + ": " + value + "\r\n";
  if (!what.body.empty() || what.method == "POST" || what.method == "PUT") {
    if (!find_field(what.fields, "Content-Type")) text += "Content-Type: application/json\r\n";
    text += "Content-Length: " + std::to_string(what.body.size()) + "\r\n";
  }
  return text + "\r\n" + what.body;
}

}  // namespace

struct client::state {
  asio::any_io_executor where;
  std::string host, port, authority;
  client_settings settings;
  std::vector<kept> idle;

  std::optional<beast::tcp_stream> take() {
    while (!idle.empty()) {
      kept last = std::move(idle.back());
      idle.pop_back();
      if (clock::now() - last.since < settings.idle_timeout) return std::move(last.stream);
    }
    return std::nullopt;
  }

  void keep(beast::tcp_stream stream) {
    if (idle.size() >= settings.max_idle) return;
    stream.expires_never();
    idle.push_back({std::move(stream), clock::now()});
  }

  asio::awaitable<std::expected<beast::tcp_stream, std::error_code>> connect() {
    beast::tcp_stream stream(where);
    tcp::resolver resolver(where);
    beast::error_code ec;
    const auto address = asio::ip::make_address(host, ec);
    tcp::resolver::results_type found;
    if (!ec) {
      const tcp::endpoint at(address, static_cast<std::uint16_t>(std::stoul(port)));
      found = tcp::resolver::results_type::create(at, host, port);
    } else {
      auto [failed, resolved] = co_await resolver.async_resolve(host, port, as_values);
      if (failed) co_return std::unexpected(code_of(failed));
      found = std::move(resolved);
    }
    stream.expires_after(settings.connect_timeout);
    auto [failed, reached] = co_await stream.async_connect(found, as_values);
    if (failed) co_return std::unexpected(code_of(failed));
    stream.socket().set_option(tcp::no_delay(true), ec);
    co_return std::move(stream);
  }
};

std::string encode(std::string_view text) {
  return boost::urls::encode({text.data(), text.size()}, boost::urls::unreserved_chars);
}

client::client(asio::any_io_executor where, std::string_view base, client_settings settings)
    : state_(std::make_shared<state>()) {
  const auto url = boost::urls::parse_uri({base.data(), base.size()});
  const bool usable = url && url->scheme() == "http" && !url->encoded_host().empty() &&
                      (url->encoded_path().empty() || url->encoded_path() == "/") && !url->has_query();
  if (!usable) throw std::invalid_argument(std::string(base) + " must be http://HOST:PORT");
  state_->where = std::move(where);
  state_->host = url->host_address();
  state_->port = url->has_port() && url->port_number() != 0 ? std::to_string(url->port_number()) : "80";
  state_->authority = std::string(url->encoded_host()) + ':' + state_->port;
  state_->settings = settings;
}

client::~client() = default;

asio::awaitable<std::expected<response, std::error_code>> client::send(client_request what) {
  const std::shared_ptr<state> own = state_;
  co_await asio::this_coro::reset_cancellation_state(asio::enable_total_cancellation());
  co_await asio::this_coro::throw_if_cancelled(false);
  const std::string message = message_of(what, own->authority);
  const bool repeatable =
      what.method == "GET" || what.method == "HEAD" || what.method == "PUT" || what.method == "DELETE";
  std::optional<beast::tcp_stream> stream = own->take();
  for (bool fresh = !stream;; fresh = true) {
    if (fresh) {
      auto made = co_await own->connect();
      if (!made) co_return std::unexpected(made.error());
      stream.emplace(std::move(*made));
    }
    stream->expires_after(own->settings.response_timeout);
    beast::flat_buffer buffer;
    beast::http::response_parser<beast::http::string_body> parser;
    parser.body_limit(own->settings.max_body);
    if (what.method == "HEAD") parser.skip(true);
    auto [write_error, written] = co_await asio::async_write(*stream, asio::buffer(message), as_values);
    beast::error_code ec = write_error;
    if (!ec) {
      auto [read_error, read] = co_await beast::http::async_read(*stream, buffer, parser, as_values);
      ec = read_error;
    }
    if (ec) {
      const bool given_up = ec == beast::error::timeout || ec == asio::error::operation_aborted;
      if (!fresh && repeatable && !parser.got_some() && !given_up) continue;
      co_return std::unexpected(code_of(ec));
    }
    response answer;
    answer.status = parser.get().result_int();
    answer.content_type = parser.get()[beast::http::field::content_type];
    for (const auto& field : parser.get()) answer.fields.emplace_back(field.name_string(), field.value());
    answer.body = std::move(parser.get().body());
    if (parser.keep_alive()) own->keep(std::move(*stream));
    co_return answer;
  }
}

}  // namespace common::http
