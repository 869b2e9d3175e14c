#include "sidecar/proxy/worker.hpp"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <utility>

#include "sidecar/proxy/client.hpp"
#include "sidecar/proxy/exchange.hpp"

namespace sidecar {

using namespace std::chrono_literals;

worker::worker(shared_state& s, std::size_t number, int listener)
    : shared(s),
      index(number),
      links(loop, s.live.connections().of(number).upstream),
      scratch(std::make_unique_for_overwrite<char[]>(scratch_size)),
      checks_(loop),
      acceptor_(*this) {
  acceptor_.fd = listener;
  loop.watch_level(listener, acceptor_);
}

worker::~worker() {
  cut();
  links.close_idle();
  if (acceptor_.fd >= 0) ::close(acceptor_.fd);
}

void worker::use(std::shared_ptr<const snapshot> next) {
  // Its own count of references: requests take and give them back without touching another thread's cache line.
  auto own = std::make_shared<std::shared_ptr<const snapshot>>(std::move(next));
  const snapshot* const raw = own->get();
  current_ = std::shared_ptr<const snapshot>(std::move(own), raw);
  if (index == 0) checks_.use(*current_);
}

exchange& worker::new_exchange() {
  if (free_.empty()) {
    exchanges_.push_back(std::make_unique<exchange>(*this));
    return *exchanges_.back();
  }
  exchange& e = *free_.back();
  free_.pop_back();
  return e;
}

void worker::recycle(exchange& done) { free_.push_back(&done); }

void worker::add(client& c) {
  c.next = first_;
  if (first_) first_->previous = &c;
  first_ = &c;
  ++clients_;
  counts().client.add();
}

void worker::remove(client& c) {
  (c.previous ? c.previous->next : first_) = c.next;
  if (c.next) c.next->previous = c.previous;
  c.next = c.previous = nullptr;
  --clients_;
  counts().client.subtract();
  shared.clients.fetch_sub(1, std::memory_order_relaxed);
  loop.discard(&c);
  if (idle_) loop.post([this] { check_idle(); });
}

void worker::stop_accepting() {
  if (acceptor_.fd < 0) return;
  ::close(std::exchange(acceptor_.fd, -1));
}

void worker::drain(std::function<void()> idle) {
  draining_ = true;
  idle_ = std::move(idle);
  for (client* c = first_; c != nullptr;) {
    client* const next = c->next;
    c->close_if_idle();
    c = next;
  }
  check_idle();
}

void worker::check_idle() {
  if (clients_ > 0 || !idle_) return;
  std::exchange(idle_, nullptr)();
}

std::size_t worker::cut() {
  std::size_t requests = 0;
  while (first_ != nullptr) {
    client& c = *first_;
    if (exchange* const e = c.current()) {
      ++requests;
      e->client_left();
    }
    c.kill(false);
  }
  return requests;
}

void worker::acceptor::on_ready(std::uint32_t) {
  const listen_settings& listen = owner.current()->config.listen;
  for (int i = 0; i < 64 && fd >= 0; ++i) {
    sockaddr_storage from{};
    socklen_t size = sizeof from;
    const int accepted = ::accept4(fd, reinterpret_cast<sockaddr*>(&from), &size, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (accepted < 0) {
      if (errno == EINTR || errno == ECONNABORTED) continue;
      if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
        // Asking again at once would be a busy loop.
        owner.loop.forget(fd);
        owner.loop.set(*this, owner.now() + 100ms);
      }
      return;
    }
    std::array<char, INET6_ADDRSTRLEN> text{};
    if (from.ss_family == AF_INET6) {
      const auto& v6 = reinterpret_cast<const sockaddr_in6&>(from);
      if (IN6_IS_ADDR_V4MAPPED(&v6.sin6_addr)) {
        ::inet_ntop(AF_INET, v6.sin6_addr.s6_addr + 12, text.data(), text.size());
      } else {
        ::inet_ntop(AF_INET6, &v6.sin6_addr, text.data(), text.size());
      }
    } else {
      ::inet_ntop(AF_INET, &reinterpret_cast<const sockaddr_in&>(from).sin_addr, text.data(), text.size());
    }
    const int on = 1;
    ::setsockopt(accepted, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);

    const int clients = owner.shared.clients.fetch_add(1, std::memory_order_relaxed) + 1;
    // A few more are told so; beyond those there is no time for politeness.
    const bool full = clients > listen.max_connections;
    if (clients > listen.max_connections + 256) {
      owner.shared.clients.fetch_sub(1, std::memory_order_relaxed);
      ::close(accepted);
      continue;
    }
    auto* const c = new client(owner, accepted, text.data());
    owner.add(*c);
    if (!owner.loop.watch(accepted, *c)) {
      c->kill(false);
    } else {
      c->start(full);
    }
  }
}

void worker::acceptor::on_timeout() {
  if (fd >= 0) owner.loop.watch_level(fd, *this);
}

}  // namespace sidecar
