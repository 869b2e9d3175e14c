#pragma once
/// A proxy on a port of the system's choice, an upstream that does what a script says, and a client made of bytes.

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "sidecar/proxy/http_head.hpp"
#include "sidecar/proxy/proxy.hpp"

namespace sidecar::testing {

using namespace std::chrono_literals;

/// One connection, blocking, with an end to all waiting.
class wire {
 public:
  explicit wire(int fd) : fd_(fd) {
    const int on = 1;
    ::setsockopt(fd_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  }
  wire(const wire&) = delete;
  wire& operator=(const wire&) = delete;
  ~wire() { close(); }

  static int connect(std::uint16_t port, int receive_buffer = 0) {
    const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (receive_buffer > 0) ::setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &receive_buffer, sizeof receive_buffer);
    sockaddr_in to{};
    to.sin_family = AF_INET;
    to.sin_port = htons(port);
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (::connect(fd, reinterpret_cast<sockaddr*>(&to), sizeof to) != 0) {
      ::close(fd);
      throw std::runtime_error("cannot connect");
    }
    return fd;
  }

  /// False when the peer is gone.
  bool send(std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t n = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (n <= 0) return false;
      bytes.remove_prefix(static_cast<std::size_t>(n));
    }
    return true;
  }

  /// Reads more into `buffer`; false at the end, at an error, or after 20 s.
  bool more(std::size_t at_most = 65536) {
    pollfd ready{.fd = fd_, .events = POLLIN, .revents = 0};
    if (::poll(&ready, 1, 20'000) != 1) {
      timed_out = true;
      return false;
    }
    const std::size_t before = buffer.size();
    buffer.resize(before + at_most);
    const ssize_t n = ::recv(fd_, buffer.data() + before, at_most, 0);
    buffer.resize(before + static_cast<std::size_t>(std::max<ssize_t>(n, 0)));
    if (n < 0) was_reset = true;
    return n > 0;
  }

  /// A head with its blank line, taken out of the buffer; empty at the end.
  std::string head() {
    for (;;) {
      if (const std::size_t end = buffer.find("\r\n\r\n"); end != std::string::npos) return take(end + 4);
      if (!more()) return {};
    }
  }
  std::string bytes(std::size_t n) {
    while (buffer.size() < n && more(std::max<std::size_t>(n - buffer.size(), 1))) {
    }
    return take(std::min(n, buffer.size()));
  }
  /// Everything up to the end of the connection.
  std::string rest() {
    while (more()) {
    }
    return take(buffer.size());
  }
  /// A chunked body, decoded; `whole` says whether it ended as it should. `trailer` is kept.
  std::string chunked(bool& whole) {
    std::string body;
    whole = false;
    for (;;) {
      std::size_t eol;
      while ((eol = buffer.find("\r\n")) == std::string::npos) {
        if (!more()) return body;
      }
      const std::size_t size = std::stoul(take(eol + 2), nullptr, 16);
      if (size == 0) {
        for (;;) {
          while ((eol = buffer.find("\r\n")) == std::string::npos) {
            if (!more()) return body;
          }
          const std::string line = take(eol + 2);
          if (line == "\r\n") break;
          trailer += line;
        }
        whole = true;
        return body;
      }
      const std::string data = bytes(size + 2);
      if (data.size() < size + 2) return body;
      body.append(data, 0, size);
    }
  }

  void shut_down_writing() { ::shutdown(fd_, SHUT_WR); }
  void close() {
    const std::lock_guard lock(closing_);
    if (fd_ >= 0) ::close(std::exchange(fd_, -1));
  }
  /// Ends it for another thread that reads or writes.
  void interrupt() {
    const std::lock_guard lock(closing_);
    if (fd_ >= 0) ::shutdown(fd_, SHUT_RDWR);
  }
  void reset() {
    const linger now{.l_onoff = 1, .l_linger = 0};
    ::setsockopt(fd_, SOL_SOCKET, SO_LINGER, &now, sizeof now);
    close();
  }

  std::string buffer;
  std::string trailer;
  bool timed_out = false;
  bool was_reset = false;

 private:
  std::string take(std::size_t n) {
    std::string taken = buffer.substr(0, n);
    buffer.erase(0, n);
    return taken;
  }
  std::mutex closing_;
  int fd_;
};

/// The value of a field in a head's text; empty where there is none.
inline std::string field(std::string_view head, std::string_view name) {
  std::size_t at = head.find("\r\n");
  while (at != std::string_view::npos && at + 2 < head.size()) {
    const std::size_t next = head.find("\r\n", at + 2);
    const std::string_view line = head.substr(at + 2, next - at - 2);
    if (const std::size_t colon = line.find(':');
        colon != std::string_view::npos && iequals(line.substr(0, colon), name)) {
      return std::string(line.substr(std::min(line.find_first_not_of(" \t", colon + 1), line.size())));
    }
    at = next;
  }
  return {};
}

struct answer {
  int status = 0;  ///< 0: none came.
  std::string head, body;
  bool whole = false;
  std::string operator[](std::string_view name) const { return field(head, name); }
};

/// Reads one answer; `to_head`: to a HEAD request.
inline answer read_answer(wire& from, bool to_head = false) {
  answer a;
  a.head = from.head();
  if (a.head.size() < 12) return a;
  a.status = std::stoi(a.head.substr(9, 3));
  if (to_head || a.status < 200 || a.status == 204 || a.status == 304) {
    a.whole = true;
  } else if (a["transfer-encoding"] == "chunked") {
    a.body = from.chunked(a.whole);
  } else if (const std::string length = a["content-length"]; !length.empty()) {
    a.body = from.bytes(std::stoul(length));
    a.whole = a.body.size() == std::stoul(length);
  } else {
    a.body = from.rest();
    a.whole = !from.was_reset && !from.timed_out;
  }
  return a;
}

/// Listens, and runs `script` for each connection in a thread of its own.
class upstream_stub {
 public:
  using script = std::function<void(wire&)>;

  explicit upstream_stub(script s) : script_(std::move(s)), fd_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in at{};
    at.sin_family = AF_INET;
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof at;
    ::bind(fd_, reinterpret_cast<sockaddr*>(&at), sizeof at);
    ::getsockname(fd_, reinterpret_cast<sockaddr*>(&at), &size);
    port = ntohs(at.sin_port);
    ::listen(fd_, 1024);
    acceptor_ = std::thread([this] { accept(); });
  }
  ~upstream_stub() { stop(); }

  /// Closes everything; what connects now is refused.
  void stop() {
    if (stopping_.exchange(true)) return;
    ::shutdown(fd_, SHUT_RDWR);
    acceptor_.join();
    ::close(fd_);
    for (auto& c : connections_) c.peer.interrupt();
    for (auto& c : connections_) c.thread.join();
  }

  std::uint16_t port = 0;
  std::atomic<int> accepted = 0;

 private:
  struct connection {
    explicit connection(int fd) : peer(fd) {}
    wire peer;
    std::thread thread;
  };
  void accept() {
    for (;;) {
      const int fd = ::accept(fd_, nullptr, nullptr);
      if (fd < 0) return;
      ++accepted;
      connection& c = connections_.emplace_back(fd);
      c.thread = std::thread([this, &c] {
        script_(c.peer);
        c.peer.close();
      });
    }
  }

  script script_;
  int fd_;
  std::atomic<bool> stopping_ = false;
  std::list<connection> connections_;  ///< The acceptor's, until it has ended.
  std::thread acceptor_;
};

/// Serves request after request: `reply(head, body)` is what is sent for each.
inline upstream_stub::script serving(
    std::function<std::string(const std::string& head, const std::string& body)> reply) {
  return [reply = std::move(reply)](wire& w) {
    for (;;) {
      const std::string head = w.head();
      if (head.empty()) return;
      std::string body;
      bool whole = true;
      if (field(head, "transfer-encoding") == "chunked") {
        body = w.chunked(whole);
      } else if (const std::string length = field(head, "content-length"); !length.empty()) {
        body = w.bytes(std::stoul(length));
        whole = body.size() == std::stoul(length);
      }
      if (!whole) return;
      const std::string answer = reply(head, body);
      if (answer.empty() || !w.send(answer)) return;
    }
  };
}

inline std::string ok(std::string_view body = "ok", std::string_view fields = {}) {
  return "HTTP/1.1 200 OK\r\n" + std::string(fields) + "Content-Length: " + std::to_string(body.size()) + "\r\n\r\n" +
         std::string(body);
}
inline std::string status(int code, std::string_view fields = {}) {
  return "HTTP/1.1 " + std::to_string(code) + " X\r\n" + std::string(fields) + "Content-Length: 1\r\n\r\nx";
}

/// A proxy with one upstream `app` and one route `app` for every path.
class world {
 public:
  explicit world(std::uint16_t upstream_port, const std::function<void(settings&, route_settings&)>& change = {},
                 std::size_t workers = 1)
      : live(workers), front(live) {
    config = basic(upstream_port, change);
    live.apply(config);
    const auto bound = front.start();
    if (!bound) throw std::runtime_error(bound.error());
    port = *bound;
  }

  static settings basic(std::uint16_t upstream_port, const std::function<void(settings&, route_settings&)>& change) {
    settings s;
    s.listen.address = {"127.0.0.1", 0};
    s.access_log.path = "none";
    upstream_settings up;
    up.targets = {{"127.0.0.1", upstream_port}};
    s.upstreams["app"] = up;
    route_settings r;
    r.name = "app";
    r.upstream = "app";
    r.match.path.text = "/";
    if (change) change(s, r);
    if (r.limits == request_limits{}) r.limits = s.listen.limits;
    s.routes.push_back(r);
    return s;
  }

  int connect() const { return wire::connect(port); }
  /// One request on a connection of its own.
  answer ask(const std::string& request) const {
    wire w(connect());
    w.send(request);
    return read_answer(w, request.starts_with("HEAD"));
  }
  answer get(const std::string& path = "/", const std::string& fields = {}) const {
    return ask("GET " + path + " HTTP/1.1\r\nHost: a\r\n" + fields + "\r\n");
  }
  answer post(const std::string& body, const std::string& fields = {}) const {
    return ask("POST / HTTP/1.1\r\nHost: a\r\n" + fields + "Content-Length: " + std::to_string(body.size()) +
               "\r\n\r\n" + body);
  }

  std::uint64_t local(reason why, std::string_view name = "app") const {
    return of(name, [why](const route_shard& s) { return s.local[static_cast<std::size_t>(why)].read(); });
  }
  std::uint64_t code(int status_code, std::string_view name = "app") const {
    return of(name,
              [status_code](const route_shard& s) { return s.by_code[static_cast<std::size_t>(status_code)].read(); });
  }
  std::uint64_t in_flight() const {
    return of("app", [](const route_shard& s) { return s.in_flight.read(); });
  }
  template <class Pick>
  std::uint64_t of(std::string_view name, Pick pick) const {
    for (const auto& r : live.routes()) {
      if (r->name == name) return r->sum(pick);
    }
    return 0;
  }

  settings config;
  runtime live;
  proxy front;
  std::uint16_t port = 0;
};

/// Waits until `condition` holds; false after 20 s.
template <class Condition>
bool eventually(Condition condition) {
  const auto until = std::chrono::steady_clock::now() + 20s;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > until) return false;
    std::this_thread::sleep_for(1ms);
  }
  return true;
}

}  // namespace sidecar::testing
