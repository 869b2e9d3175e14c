#include "sidecar/proxy/event_loop.hpp"

#include <sys/eventfd.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <system_error>

namespace sidecar {

event_loop::event_loop()
    : epoll_(::epoll_create1(EPOLL_CLOEXEC)),
      wake_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      now_(std::chrono::steady_clock::now()),
      timers_(now_),
      mailbox_(*this) {
  if (epoll_ < 0 || wake_ < 0) throw std::system_error(errno, std::generic_category(), "cannot make an event loop");
  watch_level(wake_, mailbox_);
}

event_loop::~event_loop() {
  graveyard_.clear();
  ::close(wake_);
  ::close(epoll_);
}

bool event_loop::watch(int fd, watcher& w) {
  epoll_event event{};
  event.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET;
  event.data.ptr = &w;
  return ::epoll_ctl(epoll_, EPOLL_CTL_ADD, fd, &event) == 0;
}

bool event_loop::watch_level(int fd, watcher& w) {
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.ptr = &w;
  return ::epoll_ctl(epoll_, EPOLL_CTL_ADD, fd, &event) == 0;
}

void event_loop::forget(int fd) { ::epoll_ctl(epoll_, EPOLL_CTL_DEL, fd, nullptr); }

void event_loop::run() {
  std::array<epoll_event, 256> events;
  while (!stopped_.load(std::memory_order_relaxed)) {
    int wait_ms = -1;
    if (const auto next = timers_.next()) {
      const auto left = *next - std::chrono::steady_clock::now();
      wait_ms = left.count() <= 0 ? 0 : static_cast<int>(std::chrono::ceil<std::chrono::milliseconds>(left).count());
    }
    const int n = ::epoll_wait(epoll_, events.data(), static_cast<int>(events.size()), wait_ms);
    refresh();
    for (int i = 0; i < n; ++i) {
      const epoll_event& event = events[static_cast<std::size_t>(i)];
      static_cast<watcher*>(event.data.ptr)->on_ready(event.events);
    }
    timers_.advance(now_);
    run_posted();
    graveyard_.clear();
  }
}

void event_loop::stop() {
  stopped_.store(true, std::memory_order_relaxed);
  post([] {});
}

void event_loop::post(std::function<void()> task) {
  const std::lock_guard lock(mutex_);
  mail_.push_back(std::move(task));
  if (has_mail_.exchange(true)) return;
  const std::uint64_t one = 1;
  [[maybe_unused]] const auto written = ::write(wake_, &one, sizeof one);
}

void event_loop::mailbox::on_ready(std::uint32_t) {
  std::uint64_t count = 0;
  [[maybe_unused]] const auto read = ::read(loop.wake_, &count, sizeof count);
}

void event_loop::run_posted() {
  if (!has_mail_.load(std::memory_order_relaxed)) return;
  {
    const std::lock_guard lock(mutex_);
    delivering_.swap(mail_);
    has_mail_ = false;
  }
  for (const auto& task : delivering_) task();
  delivering_.clear();
}

}  // namespace sidecar
