#include "common/http/server.hpp"

#include <boost/asio/experimental/awaitable_operators.hpp>
#include <charconv>
#include <condition_variable>
#include <ctime>
#include <random>
#include <set>

#include "common/http/problem.hpp"
#include "common/http/status.hpp"
#include "common/log.hpp"
#include "common/text.hpp"

namespace common::http {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
using asio::ip::tcp;
using namespace std::chrono_literals;
using clock = std::chrono::steady_clock;

constexpr auto as_values = asio::as_tuple(asio::use_awaitable);

// What is read of a refused request's rest, so that the client sees the answer instead of a reset.
constexpr std::size_t linger_bytes = 4 * 1024 * 1024;
constexpr auto linger_time = 2s;

// Beast's fields throw where a value is longer than 16 bits can say: heads are held below that.
constexpr std::size_t most_head = 65'000;

bool is_printable(std::string_view text) noexcept {
  return std::ranges::all_of(text, [](char c) { return c >= 0x20 && c < 0x7F; });
}

std::string new_correlation_id() {
  static thread_local std::mt19937_64 random{std::random_device{}()};
  char text[40];
  std::snprintf(text, sizeof text, "%016llx%016llx", static_cast<unsigned long long>(random()),
                static_cast<unsigned long long>(random()));
  return text;
}

std::string_view trimmed(std::string_view text) noexcept {
  const std::size_t first = text.find_first_not_of(" \t");
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(" \t") - first + 1);
}

// Takes what stands before the next `separator` off the front.
std::string_view take_until(std::string_view& rest, char separator) noexcept {
  const std::size_t at = rest.find(separator);
  const std::string_view taken = rest.substr(0, at);
  rest.remove_prefix(at == std::string_view::npos ? rest.size() : at + 1);
  return trimmed(taken);
}

std::string lower_case(std::string_view text) {
  std::string out(text);
  for (char& c : out) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c + ('a' - 'A')) : c;
  return out;
}

bool is_json(std::string_view content_type) { return lower_case(take_until(content_type, ';')) == "application/json"; }

// Whether an Accept field lets `type` through: the most specific range that fits decides (RFC 9110, 12.5.1).
bool accepts(std::string_view accept, std::string_view type) {
  const std::string_view major = type.substr(0, type.find('/'));
  int best = -1;
  bool allowed = false;
  while (!accept.empty()) {
    std::string_view range = take_until(accept, ',');
    const std::string name = lower_case(take_until(range, ';'));
    bool zero = false;
    while (!range.empty()) {
      const std::string parameter = lower_case(take_until(range, ';'));
      if (!parameter.starts_with("q=")) continue;
      zero = parameter.find_first_not_of("0.", 2) == std::string::npos;
    }
    int specific = -1;
    if (name == "*/*" || name == "*") specific = 0;
    if (name.ends_with("/*") && std::string_view(name).substr(0, name.size() - 2) == major) specific = 1;
    if (name == type) specific = 2;
    if (specific > best) {
      best = specific;
      allowed = !zero;
    }
  }
  return allowed;
}

std::string_view http_date() {
  static thread_local std::time_t written = 0;
  static thread_local char text[40] = "";
  if (const std::time_t now = std::time(nullptr); now != written) {
    std::tm utc{};
    gmtime_r(&now, &utc);
    std::strftime(text, sizeof text, "%a, %d %b %Y %H:%M:%S GMT", &utc);
    written = now;
  }
  return text;
}

void append_field(std::string& head, std::string_view name, std::string_view value) {
  head.append(name).append(": ");
  for (const char c : value) head += static_cast<unsigned char>(c) < 0x20 || c == 0x7F ? ' ' : c;
  head += "\r\n";
}

// What the parser's error means for the client; 0: nothing more to say to it.
int status_of(const beast::error_code& ec, bool has_target) noexcept {
  using beast::http::error;
  if (ec == error::header_limit) return has_target ? 431 : 414;
  if (ec == error::body_limit) return 413;
  if (ec == error::end_of_stream || ec == error::partial_message) return 0;
  return ec.category() == make_error_code(error::bad_version).category() ? 400 : 0;
}

std::string_view detail_of(int status) noexcept {
  switch (status) {
    case 400:
      return "The request is not valid HTTP";
    case 408:
      return "The request came too slowly";
    case 413:
      return "The body is too large";
    case 414:
      return "The request line is too long";
    case 431:
      return "The header fields are too large";
    default:
      return "";
  }
}

}  // namespace

struct server::state {
  explicit state(server_settings s) : settings(std::move(s)), pool(static_cast<std::size_t>(settings.workers)) {}

  const server_settings settings;
  router routes;
  std::function<void(const exchange&)> observe;
  std::uint16_t port = 0;
  bool stopped = false;

  std::atomic<bool> draining{false};
  std::mutex mutex;
  std::condition_variable idle;
  int active = 0;  // requests being answered; guarded by mutex

  // The I/O thread's own.
  int connections = 0;
  std::set<connection*> pushing;

  // Last, so that they go first: what still waits in them refers to the members above.
  asio::io_context io{1};
  asio::executor_work_guard<asio::io_context::executor_type> work{io.get_executor()};
  asio::thread_pool pool;
  tcp::acceptor acceptor{io};
  asio::steady_timer accept_pause{io};
  std::thread io_thread;

  void begin_request() {
    const std::lock_guard lock(mutex);
    ++active;
  }
  void end_request() {
    const std::lock_guard lock(mutex);
    if (--active == 0) idle.notify_all();
  }

  asio::awaitable<void> accept();
};

class server::connection : public std::enable_shared_from_this<connection> {
 public:
  connection(state& owner, tcp::socket socket) : owner_(owner), socket_(std::move(socket)), timer_(owner.io) {
    ++owner_.connections;
  }
  ~connection() { --owner_.connections; }
  connection(const connection&) = delete;
  connection& operator=(const connection&) = delete;

  // One connection from its first request to its end. The frame keeps the connection alive. Nothing that goes wrong
  // with it may end the others.
  static asio::awaitable<void> serve(std::shared_ptr<connection> self, bool refused) {
    try {
      bool more = !refused;
      while (more) more = co_await self->serve_one();
      if (refused) co_await self->refuse();
    } catch (const std::exception& e) {
      log::error("a connection failed", {{"error", e.what()}});
    }
    self->disarm();
    beast::error_code ignored;
    self->socket_.shutdown(tcp::socket::shutdown_both, ignored);
    self->socket_.close(ignored);
  }

  // Ends a pushed response.
  void end_push() {
    beast::error_code ignored;
    socket_.cancel(ignored);
  }

 private:
  using request_parser = beast::http::request_parser<beast::http::string_body>;

  // Counts a request as being answered, until it is left.
  class answering {
   public:
    explicit answering(state& owner) : owner_(&owner) { owner.begin_request(); }
    ~answering() { leave(); }
    answering(const answering&) = delete;
    answering& operator=(const answering&) = delete;
    void leave() {
      if (state* owner = std::exchange(owner_, nullptr)) owner->end_request();
    }

   private:
    state* owner_;
  };

  class pusher;

  void arm(std::chrono::nanoseconds after) {
    timed_out_ = false;
    timer_.expires_after(after);
    timer_.async_wait([weak = weak_from_this()](const beast::error_code& ec) {
      const auto self = weak.lock();
      // An expiry that was already on its way when the timer was set anew is not ours.
      if (ec || !self || self->timer_.expiry() > clock::now()) return;
      self->timed_out_ = true;
      beast::error_code ignored;
      self->socket_.cancel(ignored);
    });
  }
  void disarm() { timer_.expires_at(clock::time_point::max()); }

  asio::awaitable<bool> serve_one() {
    if (buffer_.size() == 0) {
      arm(owner_.settings.idle_timeout);
      auto [ec, n] = co_await socket_.async_read_some(buffer_.prepare(4096), as_values);
      disarm();
      if (ec) co_return false;
      buffer_.commit(n);
    }
    const auto begun = clock::now();
    request_parser parser;
    const std::size_t head = std::min(owner_.settings.max_line + owner_.settings.max_header, most_head);
    parser.header_limit(static_cast<std::uint32_t>(head));
    parser.body_limit(owner_.settings.max_body);
    arm(owner_.settings.header_timeout);
    auto [head_error, head_bytes] = co_await beast::http::async_read_header(socket_, buffer_, parser, as_values);
    disarm();
    request in = take_head(parser);
    answering counted(owner_);
    const bool late = owner_.draining.load();  // what has come before the end began is still answered
    int status = timed_out_ ? 408 : status_of(head_error, !in.target.empty());
    if (head_error && status == 0) co_return false;
    if (!head_error) status = bad_head(in, parser);
    if (status == 0 && !parser.is_done()) {
      const bool go_on = co_await invite_body(in, parser);
      if (!go_on) co_return false;
      arm(owner_.settings.body_timeout);
      auto [body_error, body_bytes] = co_await beast::http::async_read(socket_, buffer_, parser, as_values);
      disarm();
      status = timed_out_ ? 408 : status_of(body_error, true);
      if (body_error && status == 0) co_return false;
    }
    if (status != 0) {
      response refusal = problem(in, status, detail_of(status));
      const bool sent = co_await send(in, {}, refusal, parser.get().version(), false, begun);
      if (sent) co_await linger();
      co_return false;
    }
    in.body = std::move(parser.get().body());
    const unsigned version = parser.get().version();
    bool keep = parser.keep_alive();

    const route* found = nullptr;
    std::optional<response> early = resolve(in, late, found);
    if (!early) {
      if (const auto* push = std::get_if<stream_handler>(&found->handler)) {
        counted.leave();
        co_await serve_push(*push, in, *found, version, begun);
        co_return false;
      }
      early = co_await run(*found, in);
    }
    keep = keep && !owner_.draining.load();
    const std::string_view pattern = found ? std::string_view(found->pattern) : std::string_view();
    const bool sent = co_await send(in, pattern, *early, version, keep, begun);
    co_return sent&& keep;
  }

  static request take_head(request_parser& parser) {
    const auto& head = parser.get();
    request in;
    in.method = head.method_string();
    in.target = head.target();
    in.path = in.target.substr(0, in.target.find('?'));
    for (const auto& field : head) in.fields.emplace_back(field.name_string(), field.value());
    const std::string_view given = in.field("X-Correlation-Id").value_or(std::string_view());
    in.correlation_id = !given.empty() && given.size() <= 256 && is_printable(given) ? given : new_correlation_id();
    return in;
  }

  // The status that a well-formed head earns all the same; 0 for none.
  [[nodiscard]] int bad_head(const request& in, const request_parser& parser) const {
    if (in.target.size() > owner_.settings.max_line) return 414;
    if (in.fields.size() > owner_.settings.max_fields) return 431;
    const auto hosts = parser.get().count(beast::http::field::host);
    return hosts > 1 || (hosts == 0 && parser.get().version() >= 11) ? 400 : 0;
  }

  asio::awaitable<bool> invite_body(const request& in, const request_parser& parser) {
    const std::string expected = lower_case(in.field("Expect").value_or(std::string_view()));
    if (expected != "100-continue" || parser.get().version() < 11 || buffer_.size() != 0) co_return true;
    static constexpr std::string_view go_on = "HTTP/1.1 100 Continue\r\n\r\n";
    arm(owner_.settings.write_timeout);
    auto [ec, n] = co_await asio::async_write(socket_, asio::buffer(go_on), as_values);
    disarm();
    co_return !ec;
  }

  // Finds the route and fills in what the request says in its target; or the answer where there is none to run.
  std::optional<response> resolve(request& in, bool late, const route*& found) const {
    auto url = boost::urls::parse_origin_form(in.target);
    if (!url) url = boost::urls::parse_uri(in.target);
    if (!url) return problem(in, 400, "The request target is not valid");
    std::vector<std::string> segments;
    for (const auto segment : url->encoded_segments()) segments.push_back(segment.decode());
    if (!segments.empty() && segments.back().empty()) segments.pop_back();
    for (const auto parameter : url->params()) in.query.emplace_back(parameter.key, parameter.value);
    in.path = url->path();
    const bool readable = is_utf8(in.path) && std::ranges::all_of(in.query, [](const auto& p) {
                            return is_utf8(p.first) && is_utf8(p.second);
                          });
    if (!readable) return problem(in, 400, "The request target is not valid UTF-8");

    router::match match = owner_.routes.find(in.method, segments);
    if (!match.found) {
      if (match.allowed.empty()) return problem(in, 404, "There is nothing here");
      response refusal = problem(in, 405, "This path does not take " + in.method);
      std::string allowed;
      for (const std::string& method : match.allowed) allowed += (allowed.empty() ? "" : ", ") + method;
      refusal.fields.emplace_back("Allow", std::move(allowed));
      return refusal;
    }
    found = match.found;
    in.parameters = std::move(match.parameters);
    if (late && !found->while_draining) {
      response refusal = problem(in, 503, "Shutting down");
      refusal.fields.emplace_back("Retry-After", "1");
      return refusal;
    }
    const auto type = in.field("Content-Type");
    if (found->takes_json && type && !is_json(*type)) return problem(in, 415, "The body must be application/json");
    const auto accept = in.field("Accept");
    if (accept && !trimmed(*accept).empty() && !accepts(*accept, found->produces)) {
      return problem(in, 406, "This answers with " + found->produces);
    }
    return std::nullopt;
  }

  asio::awaitable<response> run(const route& found, const request& in) {
    std::string failure;
    try {
      if (const auto* blocking = std::get_if<sync_handler>(&found.handler)) {
        auto call = [blocking, &in] { return (*blocking)(in); };
        co_return co_await offload(owner_.pool.get_executor(), std::move(call));
      }
      co_return co_await std::get<async_handler>(found.handler)(in);
    } catch (const std::exception& e) {
      failure = e.what();
    } catch (...) {
      failure = "unknown exception";
    }
    log::error("a request failed", {{"method", in.method},
                                    {"path", in.path},
                                    {"route", found.pattern},
                                    {"correlationId", in.correlation_id},
                                    {"error", failure}});
    co_return problem(in, 500, "Something went wrong here; the log says what");
  }

  std::string head_of(const response& out, std::string_view correlation_id, bool keep, unsigned version) const {
    std::string head = "HTTP/1.1 " + std::to_string(out.status) + ' ';
    head.append(reason_phrase(out.status)).append("\r\n");
    if (out.status != 204 && out.status != 304) append_field(head, "Content-Type", out.content_type);
    append_field(head, "Date", http_date());
    append_field(head, "X-Correlation-Id", correlation_id);
    for (const auto& [name, value] : out.fields) append_field(head, name, value);
    if (!keep) append_field(head, "Connection", "close");
    if (keep && version < 11) append_field(head, "Connection", "keep-alive");
    return head;
  }

  void observe(const request& in, std::string_view pattern, const response& out, clock::time_point begun) const {
    if (!owner_.observe) return;
    const exchange done{.method = in.method,
                        .path = in.path,
                        .pattern = pattern,
                        .correlation_id = in.correlation_id,
                        .status = out.status,
                        .request_bytes = in.body.size(),
                        .response_bytes = out.body.size(),
                        .duration = clock::now() - begun};
    owner_.observe(done);
  }

  asio::awaitable<bool> send(const request& in, std::string_view pattern, const response& out, unsigned version,
                             bool keep, clock::time_point begun) {
    observe(in, pattern, out, begun);
    std::string head = head_of(out, in.correlation_id, keep, version);
    const bool has_body = out.status != 204 && out.status != 304;
    if (has_body) append_field(head, "Content-Length", std::to_string(out.body.size()));
    head += "\r\n";
    const std::string_view body = has_body && in.method != "HEAD" ? std::string_view(out.body) : std::string_view();
    const std::array<asio::const_buffer, 2> message{asio::buffer(head), asio::buffer(body)};
    arm(owner_.settings.write_timeout);
    auto [ec, n] = co_await asio::async_write(socket_, message, as_values);
    disarm();
    co_return !ec;
  }

  asio::awaitable<void> refuse() {
    request unread;
    unread.correlation_id = new_correlation_id();
    response refusal = problem(unread, 503, "Too many connections");
    refusal.fields.emplace_back("Retry-After", "1");
    const bool sent = co_await send(unread, {}, refusal, 11, false, clock::now());
    if (sent) co_await linger();
  }

  asio::awaitable<void> linger() {
    beast::error_code ec;
    socket_.shutdown(tcp::socket::shutdown_send, ec);
    arm(linger_time);
    std::array<char, 16 * 1024> scratch;
    std::size_t read = 0;
    while (!ec && read < linger_bytes) {
      auto [error, n] = co_await socket_.async_read_some(asio::buffer(scratch), as_values);
      ec = error;
      read += n;
    }
    disarm();
  }

  asio::awaitable<void> serve_push(const stream_handler& handler, const request& in, const route& found,
                                   unsigned version, clock::time_point begun);

  // Ends when the client leaves, or `end_push` is called.
  asio::awaitable<void> watch() {
    std::array<char, 512> scratch;
    bool here = true;
    while (here) {
      auto [ec, n] = co_await socket_.async_read_some(asio::buffer(scratch), as_values);
      here = !ec;
    }
  }

  state& owner_;
  tcp::socket socket_;
  asio::steady_timer timer_;
  bool timed_out_ = false;
  beast::flat_buffer buffer_;
};

class server::connection::pusher final : public event_stream {
 public:
  pusher(connection& to, const request& in, const route& found, unsigned version, clock::time_point begun)
      : to_(to), in_(in), found_(found), version_(version), begun_(begun) {
    head.content_type = found.produces;
  }

  asio::awaitable<bool> send(std::string text) override {
    if (!open_) co_return false;
    std::string message;
    if (!std::exchange(started_, true)) {
      message = to_.head_of(head, in_.correlation_id, false, version_);
      if (chunked()) append_field(message, "Transfer-Encoding", "chunked");
      message += "\r\n";
      to_.observe(in_, found_.pattern, head, begun_);
    }
    if (in_.method == "HEAD") {
      open_ = false;
    } else if (!text.empty()) {
      append_chunk(message, text);
    }
    const bool sent = co_await write(std::move(message));
    co_return sent&& open_;
  }

  // The header if nothing has been sent yet, and the end of the last chunk.
  asio::awaitable<void> finish() {
    if (!started_) co_await send({});
    if (open_ && chunked()) co_await write("0\r\n\r\n");
    open_ = false;
  }

 private:
  [[nodiscard]] bool chunked() const noexcept { return version_ >= 11; }

  void append_chunk(std::string& message, std::string_view text) const {
    if (!chunked()) {
      message += text;
      return;
    }
    char size[20];
    std::snprintf(size, sizeof size, "%zx\r\n", text.size());
    message.append(size).append(text).append("\r\n");
  }

  asio::awaitable<bool> write(std::string message) {
    to_.arm(to_.owner_.settings.write_timeout);
    auto [ec, n] = co_await asio::async_write(to_.socket_, asio::buffer(message), as_values);
    to_.disarm();
    if (ec) open_ = false;
    co_return !ec;
  }

  connection& to_;
  const request& in_;
  const route& found_;
  unsigned version_;
  clock::time_point begun_;
  bool started_ = false;
  bool open_ = true;
};

namespace {

// A handler's exception must not leave the other half of the pair waiting.
asio::awaitable<void> push(const stream_handler& handler, const request& in, event_stream& out) {
  try {
    co_await handler(in, out);
  } catch (const boost::system::system_error& e) {
    if (e.code() != asio::error::operation_aborted) log::error("a pushed response failed", {{"error", e.what()}});
  } catch (const std::exception& e) {
    log::error("a pushed response failed", {{"error", e.what()}});
  }
}

}  // namespace

asio::awaitable<void> server::connection::serve_push(const stream_handler& handler, const request& in,
                                                     const route& found, unsigned version, clock::time_point begun) {
  using namespace asio::experimental::awaitable_operators;
  pusher out(*this, in, found, version, begun);
  owner_.pushing.insert(this);
  co_await (push(handler, in, out) || watch());
  owner_.pushing.erase(this);
  co_await out.finish();
}

asio::awaitable<void> server::state::accept() {
  for (;;) {
    auto [ec, socket] = co_await acceptor.async_accept(as_values);
    if (ec == asio::error::operation_aborted) co_return;
    if (ec) {
      // Out of file descriptors, most likely: let some connections end.
      log::warn("cannot accept a connection", {{"error", ec.message()}});
      accept_pause.expires_after(100ms);
      auto [interrupted] = co_await accept_pause.async_wait(as_values);
      if (interrupted) co_return;
      continue;
    }
    beast::error_code ignored;
    socket.set_option(tcp::no_delay(true), ignored);
    const bool refused = connections >= settings.max_connections;
    // Those that are told so are bounded too; the rest wait in the listen queue's place for nothing.
    if (connections >= settings.max_connections + 64) continue;
    auto made = std::make_shared<connection>(*this, std::move(socket));
    asio::co_spawn(io, connection::serve(std::move(made), refused), asio::detached);
  }
}

server::server(server_settings settings) : state_(std::make_shared<state>(std::move(settings))) {}

server::~server() { stop(); }

router& server::routes() noexcept { return state_->routes; }

void server::on_exchange(std::function<void(const exchange&)> observe) { state_->observe = std::move(observe); }

std::expected<std::uint16_t, std::string> server::start() {
  const server_settings& s = state_->settings;
  const std::string name = s.address + ':' + std::to_string(s.port);
  beast::error_code ec;
  const auto address = asio::ip::make_address(s.address, ec);
  if (ec) return std::unexpected(s.address + ": not an IP address");
  const tcp::endpoint at(address, s.port);
  tcp::acceptor& acceptor = state_->acceptor;
  acceptor.open(at.protocol(), ec);
  if (!ec) acceptor.set_option(tcp::acceptor::reuse_address(true), ec);
  if (!ec) acceptor.bind(at, ec);
  if (!ec) acceptor.listen(asio::socket_base::max_listen_connections, ec);
  if (ec) return std::unexpected(name + ": " + ec.message());
  state_->port = acceptor.local_endpoint().port();
  asio::co_spawn(state_->io, state_->accept(), asio::detached);
  state_->io_thread = std::thread([io = &state_->io] { io->run(); });
  return state_->port;
}

std::uint16_t server::port() const noexcept { return state_->port; }

void server::begin_drain() {
  state_->draining.store(true);
  asio::post(state_->io, [owner = state_.get()] {
    for (connection* c : owner->pushing) c->end_push();
  });
}

bool server::draining() const noexcept { return state_->draining.load(); }

bool server::wait_idle(std::chrono::nanoseconds limit) {
  std::unique_lock lock(state_->mutex);
  return state_->idle.wait_for(lock, limit, [this] { return state_->active == 0; });
}

void server::stop() {
  if (std::exchange(state_->stopped, true)) return;
  state_->pool.stop();
  state_->pool.join();
  state_->io.stop();
  if (state_->io_thread.joinable()) state_->io_thread.join();
  beast::error_code ignored;
  state_->acceptor.close(ignored);
}

asio::any_io_executor server::executor() noexcept { return state_->io.get_executor(); }

asio::any_io_executor server::workers() noexcept { return state_->pool.get_executor(); }

}  // namespace common::http
