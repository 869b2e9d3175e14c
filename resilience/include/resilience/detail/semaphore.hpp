#pragma once
/// Counted places with a line of waiters: one atomic word while nobody waits, a lock when someone does.

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <limits>
#include <mutex>
#include <thread>

namespace resilience::detail {

/// A place in line, in a list that runs through the waiters themselves. `served` is called with no lock held.
class semaphore_waiter {
 protected:
  semaphore_waiter() = default;
  virtual ~semaphore_waiter() = default;
  virtual void served() noexcept = 0;

 private:
  friend class semaphore;
  semaphore_waiter* before_ = nullptr;
  semaphore_waiter* after_ = nullptr;
  bool in_line_ = false;
};

class semaphore {
 public:
  struct level {
    int in_use;
    int max;
  };

  explicit semaphore(int max) noexcept : word_(static_cast<std::uint64_t>(max) << 32) {}

  /// Takes a place when one is free and nobody waits.
  bool try_acquire() noexcept {
    std::uint64_t word = word_.load(std::memory_order_relaxed);
    while (free(word) && (word & waiters) == 0) {
      if (word_.compare_exchange_weak(word, word + 1, std::memory_order_acquire, std::memory_order_relaxed))
        return true;
    }
    return false;
  }

  void release() noexcept {
    std::uint64_t word = word_.load(std::memory_order_relaxed);
    while ((word & waiters) == 0) {
      if (word_.compare_exchange_weak(word, word - 1, std::memory_order_release, std::memory_order_relaxed)) return;
    }
    std::unique_lock lock(mutex_);
    word_.fetch_sub(1, std::memory_order_release);
    serve(lock);
  }

  /// True: `w` is in line. False: it got a place at once.
  bool enqueue(semaphore_waiter& w) {
    const std::lock_guard lock(mutex_);
    std::uint64_t word = word_.load(std::memory_order_relaxed);
    while (true) {
      const bool take = free(word) && first_ == nullptr;
      if (word_.compare_exchange_weak(word, take ? word + 1 : word | waiters, std::memory_order_acquire,
                                      std::memory_order_relaxed)) {
        if (take) return false;
        break;
      }
    }
    w.before_ = last_;
    w.after_ = nullptr;
    (last_ == nullptr ? first_ : last_->after_) = &w;
    last_ = &w;
    ++waiting_;
    w.in_line_ = true;
    return true;
  }

  /// True: `w` left the line ungranted. Else waits out a grant of it under way in another thread.
  bool withdraw(semaphore_waiter& w) noexcept {
    std::unique_lock lock(mutex_);
    if (w.in_line_) {
      unlink(w);
      return true;
    }
    grant_ended_.wait(lock, [&] {
      for (const grant* g = grants_; g != nullptr; g = g->next) {
        if (g->to == &w && g->by != std::this_thread::get_id()) return false;
      }
      return true;
    });
    return false;
  }

  void set_max(int max) noexcept {
    std::unique_lock lock(mutex_);
    std::uint64_t word = word_.load(std::memory_order_relaxed);
    while (!word_.compare_exchange_weak(word, (word & (waiters | in_use_bits)) | static_cast<std::uint64_t>(max) << 32,
                                        std::memory_order_relaxed)) {
    }
    serve(lock);
  }

  [[nodiscard]] int max() const noexcept { return look().max; }
  [[nodiscard]] level look() const noexcept {
    const std::uint64_t word = word_.load(std::memory_order_relaxed);
    return {static_cast<int>(word & in_use_bits), static_cast<int>((word & ~waiters) >> 32)};
  }
  [[nodiscard]] int waiting() const noexcept { return waiting_.load(std::memory_order_relaxed); }

 private:
  // One bit for waiters, 31 for the most, 32 for places in use.
  static constexpr std::uint64_t waiters = std::uint64_t{1} << 63;
  static constexpr std::uint64_t in_use_bits = std::numeric_limits<std::uint32_t>::max();
  static constexpr bool free(std::uint64_t word) noexcept { return (word & in_use_bits) < (word & ~waiters) >> 32; }

  /// A call of `served` under way.
  struct grant {
    semaphore_waiter* to;
    std::thread::id by = std::this_thread::get_id();
    grant* next = nullptr;
  };

  void unlink(semaphore_waiter& w) noexcept {
    (w.before_ == nullptr ? first_ : w.before_->after_) = w.after_;
    (w.after_ == nullptr ? last_ : w.after_->before_) = w.before_;
    --waiting_;
    w.in_line_ = false;
    if (first_ == nullptr) word_.fetch_and(~waiters, std::memory_order_relaxed);
  }

  /// Grants free places to the first in line, each with the lock released.
  void serve(std::unique_lock<std::mutex>& lock) noexcept {
    while (first_ != nullptr && free(word_.load(std::memory_order_relaxed))) {
      semaphore_waiter& w = *first_;
      word_.fetch_add(1, std::memory_order_acquire);
      unlink(w);
      grant here{.to = &w, .next = grants_};
      grants_ = &here;
      lock.unlock();
      w.served();
      lock.lock();
      grant** link = &grants_;
      while (*link != &here) link = &(*link)->next;
      *link = here.next;
      grant_ended_.notify_all();
    }
  }

  alignas(64) std::atomic<std::uint64_t> word_;
  alignas(64) std::mutex mutex_;
  semaphore_waiter* first_ = nullptr;
  semaphore_waiter* last_ = nullptr;
  grant* grants_ = nullptr;
  std::atomic<int> waiting_ = 0;
  std::condition_variable grant_ended_;
};

}  // namespace resilience::detail
