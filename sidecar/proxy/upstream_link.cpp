#include "sidecar/proxy/upstream_link.hpp"

#include <netinet/in.h>
#include <netinet/tcp.h>

#include <cerrno>
#include <utility>

namespace sidecar {

using namespace std::chrono_literals;

void upstream_link::on_ready(std::uint32_t events) {
  if (!socket.open()) return;
  socket.note(events);
  if (user != nullptr) {
    user->link_ready(events);
  } else if (socket.readable()) {
    // The end of it, or bytes nobody asked for.
    pool_.unlink(*this);
    pool_.close(*this);
  }
}

link_pool::~link_pool() { close_idle(); }

upstream_link* link_pool::take(const target& to) {
  if (to.slot >= idle_.size()) return nullptr;
  while (upstream_link* const link = idle_[to.slot].newest) {
    unlink(*link);
    if (link->idle_until_ > loop_.now()) return link;
    close(*link);
  }
  return nullptr;
}

upstream_link* link_pool::connect(const std::shared_ptr<target>& to, const socket_address& address, link_user& user) {
  const int fd = ::socket(address.storage.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) return nullptr;
  const int on = 1;
  ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  auto made = std::make_unique<upstream_link>(*this, to);
  made->socket.adopt(fd);
  made->user = &user;
  const int failed = ::connect(fd, reinterpret_cast<const sockaddr*>(&address.storage), address.size);
  if (failed != 0 && errno != EINPROGRESS) return nullptr;
  if (!loop_.watch(fd, *made)) return nullptr;
  open_.add();
  return made.release();
}

void link_pool::give_back(upstream_link& link, time_point idle_until) {
  link.user = nullptr;
  link.used_before = true;
  link.idle_until_ = idle_until;
  if (link.to->slot >= idle_.size()) idle_.resize(link.to->slot + 1);
  idle_list& list = idle_[link.to->slot];
  link.older_ = list.newest;
  link.newer_ = nullptr;
  (list.newest ? list.newest->newer_ : list.oldest) = &link;
  list.newest = &link;
  if (idle_count_++ == 0 && !armed()) loop_.set(*this, loop_.now() + 1s);
}

void link_pool::unlink(upstream_link& link) {
  idle_list& list = idle_[link.to->slot];
  (link.newer_ ? link.newer_->older_ : list.newest) = link.older_;
  (link.older_ ? link.older_->newer_ : list.oldest) = link.newer_;
  link.newer_ = link.older_ = nullptr;
  --idle_count_;
}

void link_pool::close(upstream_link& link) {
  link.user = nullptr;
  link.socket.close();
  open_.subtract();
  loop_.discard(&link);
}

void link_pool::close_idle() {
  for (idle_list& list : idle_) {
    while (upstream_link* const link = list.newest) {
      unlink(*link);
      close(*link);
    }
  }
}

void link_pool::on_timeout() {
  for (idle_list& list : idle_) {
    while (list.oldest != nullptr && list.oldest->idle_until_ <= loop_.now()) {
      upstream_link* const link = list.oldest;
      unlink(*link);
      close(*link);
    }
  }
  if (idle_count_ > 0) loop_.set(*this, loop_.now() + 1s);
}

}  // namespace sidecar
