#pragma once
/// Connections to upstreams, and those of them that wait to be used again.

#include <cstdint>
#include <memory>
#include <vector>

#include "sidecar/proxy/event_loop.hpp"
#include "sidecar/proxy/runtime.hpp"
#include "sidecar/proxy/stream.hpp"

namespace sidecar {

/// Who uses a link.
class link_user {
 public:
  /// Something happened on it: `events` as epoll's.
  virtual void link_ready(std::uint32_t events) = 0;

 protected:
  ~link_user() = default;
};

class link_pool;

/// One connection to a target.
class upstream_link final : public watcher {
 public:
  upstream_link(link_pool& pool, std::shared_ptr<target> to) : to(std::move(to)), pool_(pool) {}
  void on_ready(std::uint32_t events) override;

  stream socket;
  const std::shared_ptr<target> to;
  link_user* user = nullptr;  ///< None while it is idle.
  bool used_before = false;

 private:
  friend link_pool;
  link_pool& pool_;
  upstream_link* newer_ = nullptr;
  upstream_link* older_ = nullptr;
  time_point idle_until_{};
};

/// The links of one worker. The one used last is used next, so that those not needed grow old and are closed.
class link_pool final : private timer_wheel::entry {
 public:
  link_pool(event_loop& loop, counter& open) : loop_(loop), open_(open) {}
  ~link_pool() override;

  /// An idle link that is still good as far as is known, or none.
  upstream_link* take(const target& to);
  /// A new link that is being connected to `address`: its user is told when it is writable or broken. None: no socket
  /// could be had or the system refused at once (errno says why).
  upstream_link* connect(const std::shared_ptr<target>& to, const socket_address& address, link_user& user);
  /// Keeps a link for reuse until `idle_until`.
  void give_back(upstream_link& link, time_point idle_until);
  void close(upstream_link& link);
  void close_idle();

 private:
  friend upstream_link;
  struct idle_list {
    upstream_link* newest = nullptr;
    upstream_link* oldest = nullptr;
  };

  void unlink(upstream_link& link);
  void on_timeout() override;

  event_loop& loop_;
  counter& open_;
  std::vector<idle_list> idle_;  ///< By target slot.
  std::size_t idle_count_ = 0;
};

}  // namespace sidecar
