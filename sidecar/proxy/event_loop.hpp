#pragma once
/// One thread's events: sockets that became ready, timeouts, and messages from other threads.
///
/// Edge-triggered epoll of our own rather than a reactor made for operations: a socket is registered once and costs no
/// further system call to wait on, a FIN that came with the last bytes is seen at once (EPOLLRDHUP), and the reading
/// thread decides into which memory it reads after it knows that there is something.

#include <sys/epoll.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "sidecar/proxy/timer_wheel.hpp"

namespace sidecar {

/// A file descriptor whose events the loop reports.
class watcher {
 public:
  /// `events` as epoll's. Never called after the descriptor was closed and forgotten by its owner; the object itself
  /// must live until the end of the round (see event_loop::discard).
  virtual void on_ready(std::uint32_t events) = 0;

 protected:
  ~watcher() = default;
};

class event_loop {
 public:
  event_loop();
  ~event_loop();
  event_loop(const event_loop&) = delete;
  event_loop& operator=(const event_loop&) = delete;

  /// Reports every change of readiness of `fd`, both ways and hang-ups, until it is closed. False: out of memory.
  bool watch(int fd, watcher& w);
  /// Reports again and again while `fd` is readable.
  bool watch_level(int fd, watcher& w);

  /// Reports it no more; closing does the same.
  void forget(int fd);

  /// Runs until `stop`. Exceptions of handlers pass through.
  void run();
  /// Threads: any.
  void stop();
  /// Runs `task` in the loop's thread, soon. Threads: any; from the loop's own thread it runs after the handler.
  void post(std::function<void()> task);

  /// Destroys `object` when all events of this round have been handled: until then one of them may still name it.
  template <class T>
  void discard(T* object) {
    graveyard_.push_back(std::unique_ptr<void, void (*)(void*)>(object, [](void* p) { delete static_cast<T*>(p); }));
  }

  /// The time at the start of this round. Only from the loop's thread.
  [[nodiscard]] time_point now() const noexcept { return now_; }
  /// Reads the clock.
  time_point refresh() noexcept { return now_ = std::chrono::steady_clock::now(); }
  [[nodiscard]] timer_wheel& timers() noexcept { return timers_; }
  void set(timer_wheel::entry& e, time_point due) { timers_.set(e, due); }

 private:
  struct mailbox final : watcher {
    explicit mailbox(event_loop& l) : loop(l) {}
    void on_ready(std::uint32_t events) override;
    event_loop& loop;
  };

  void run_posted();

  int epoll_ = -1;
  int wake_ = -1;
  time_point now_;
  timer_wheel timers_;
  mailbox mailbox_;
  std::atomic<bool> stopped_ = false;
  std::atomic<bool> has_mail_ = false;
  std::mutex mutex_;
  std::vector<std::function<void()>> mail_;
  std::vector<std::function<void()>> delivering_;
  std::vector<std::unique_ptr<void, void (*)(void*)>> graveyard_;
};

}  // namespace sidecar
