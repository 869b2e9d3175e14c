#include "sidecar/proxy/proxy.hpp"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <condition_variable>
#include <cstring>
#include <future>
#include <thread>
#include <vector>

#include "sidecar/proxy/worker.hpp"

namespace sidecar {
namespace {

/// A listening socket that others may listen beside, or -1 with `errno`.
int listen_on(const addrinfo& at) {
  const int fd = ::socket(at.ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) return -1;
  const int on = 1;
  const int off = 0;
  ::setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (at.ai_family == AF_INET6) ::setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
  return fd;
}

std::string text_of(const endpoint& where) {
  return (where.host.find(':') == std::string::npos ? where.host : '[' + where.host + ']') + ':' +
         std::to_string(where.port);
}

std::uint16_t port_of(int fd) {
  sockaddr_storage bound{};
  socklen_t size = sizeof bound;
  ::getsockname(fd, reinterpret_cast<sockaddr*>(&bound), &size);
  return ntohs(bound.ss_family == AF_INET6 ? reinterpret_cast<sockaddr_in6&>(bound).sin6_port
                                           : reinterpret_cast<sockaddr_in&>(bound).sin_port);
}

/// `count` sockets that listen on one port; SO_REUSEPORT spreads the connections over them. The first one binds without
/// it, so that a port in use by another program, even one of ours, is an error.
std::expected<std::vector<int>, std::string> listen_all(const endpoint& where, std::size_t count) {
  const auto cannot = [&](const char* why) {
    return std::unexpected("cannot listen on " + text_of(where) + ": " + why);
  };
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE;
  addrinfo* found = nullptr;
  const int failed = ::getaddrinfo(where.host.empty() ? nullptr : where.host.c_str(),
                                   std::to_string(where.port).c_str(), &hints, &found);
  if (failed != 0) return cannot(::gai_strerror(failed));
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> owner(found, ::freeaddrinfo);

  sockaddr_storage address{};
  std::memcpy(&address, found->ai_addr, found->ai_addrlen);
  {
    const int probe = listen_on(*found);
    if (probe < 0) return cannot(std::strerror(errno));
    const bool free = ::bind(probe, found->ai_addr, found->ai_addrlen) == 0;
    const int why = errno;
    ::close(probe);
    if (!free) return cannot(std::strerror(why));
  }
  std::vector<int> fds;
  for (std::size_t i = 0; i < count; ++i) {
    const int fd = listen_on(*found);
    const int on = 1;
    if (fd >= 0) ::setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on);
    if (fd < 0 || ::bind(fd, reinterpret_cast<const sockaddr*>(&address), found->ai_addrlen) != 0 ||
        ::listen(fd, 4096) != 0) {
      const int why = errno;
      if (fd >= 0) ::close(fd);
      for (const int other : fds) ::close(other);
      return cannot(std::strerror(why));
    }
    const std::uint16_t port = htons(port_of(fd));
    if (address.ss_family == AF_INET6) {
      reinterpret_cast<sockaddr_in6&>(address).sin6_port = port;
    } else {
      reinterpret_cast<sockaddr_in&>(address).sin_port = port;
    }
    fds.push_back(fd);
  }
  return fds;
}

}  // namespace

struct proxy::state {
  shared_state shared;
  std::vector<std::unique_ptr<worker>> workers;
  std::vector<std::thread> threads;
  std::thread names;
  std::mutex mutex;
  std::condition_variable wake;
  bool ending = false;

  explicit state(runtime& r) : shared(r) {}

  /// Looks names up again, off the data path: every 10 s, and within one of a failed connection.
  void watch_names() {
    using namespace std::chrono_literals;
    auto last = std::chrono::steady_clock::now();
    std::unique_lock lock(mutex);
    while (!wake.wait_for(lock, 1s, [this] { return ending; })) {
      const auto now = std::chrono::steady_clock::now();
      if (!shared.look_up_soon.exchange(false) && now - last < 10s) continue;
      last = now;
      const auto current = shared.live.current();
      lock.unlock();
      for (const auto& [name, upstream] : current->upstreams) {
        for (const auto& target : upstream->targets) target->resolve();
      }
      lock.lock();
    }
  }

  /// Runs `task` in every worker's thread and waits until all have.
  template <class Task>
  void everywhere(Task task) {
    std::vector<std::future<void>> done;
    for (const auto& w : workers) {
      auto promise = std::make_shared<std::promise<void>>();
      done.push_back(promise->get_future());
      w->loop.post([&w = *w, promise, task] {
        task(w);
        promise->set_value();
      });
    }
    for (auto& d : done) d.wait();
  }
};

proxy::proxy(runtime& live) : state_(std::make_unique<state>(live)) {}

proxy::~proxy() {
  {
    const std::lock_guard lock(state_->mutex);
    state_->ending = true;
  }
  state_->wake.notify_one();
  if (state_->names.joinable()) state_->names.join();
  for (const auto& w : state_->workers) w->stop();
  for (auto& thread : state_->threads) thread.join();
  state_->workers.clear();
}

std::expected<std::uint16_t, std::string> proxy::start() {
  state& s = *state_;
  const auto snapshot = s.shared.live.current();
  if (const std::string& path = snapshot->config.access_log.path; !s.shared.log.open(path)) {
    return std::unexpected("cannot open the access log " + path + ": " + std::strerror(errno));
  }
  auto listeners = listen_all(snapshot->config.listen.address, s.shared.live.workers());
  if (!listeners) return std::unexpected(listeners.error());
  const std::uint16_t port = port_of(listeners->front());
  for (std::size_t i = 0; i < listeners->size(); ++i) {
    s.workers.push_back(std::make_unique<worker>(s.shared, i, (*listeners)[i]));
    s.workers.back()->use(snapshot);
  }
  for (const auto& w : s.workers) s.threads.emplace_back([&w = *w] { w.run(); });
  s.names = std::thread([&s] { s.watch_names(); });
  return port;
}

void proxy::publish() {
  const auto snapshot = state_->shared.live.current();
  state_->shared.log.open(snapshot->config.access_log.path);
  state_->everywhere([snapshot](worker& w) { w.use(snapshot); });
}

void proxy::stop_accepting() {
  state_->everywhere([](worker& w) { w.stop_accepting(); });
}

void proxy::drain(std::function<void()> idle) {
  auto left = std::make_shared<std::atomic<std::size_t>>(state_->workers.size());
  state_->everywhere([left, idle = std::move(idle)](worker& w) {
    w.drain([left, idle] {
      if (left->fetch_sub(1) == 1) idle();
    });
  });
}

std::size_t proxy::force() {
  auto cut = std::make_shared<std::atomic<std::size_t>>(0);
  state_->everywhere([cut](worker& w) { *cut += w.cut(); });
  return *cut;
}

std::size_t proxy::requests_in_flight() const {
  std::size_t requests = 0;
  for (const auto& counters : state_->shared.live.routes()) {
    requests += counters->sum([](const route_shard& shard) { return shard.in_flight.read(); });
  }
  return requests;
}
std::size_t proxy::client_connections() const noexcept {
  return static_cast<std::size_t>(std::max(state_->shared.clients.load(), 0));
}
std::size_t proxy::upstream_connections() const noexcept {
  return state_->shared.live.connections().sum([](const connection_shard& c) { return c.upstream.read(); });
}

}  // namespace sidecar
