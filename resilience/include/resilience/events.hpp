#pragma once
/// Events at no cost to those who do not watch: with nobody subscribed, publishing is one relaxed load.

#include <array>
#include <atomic>
#include <bit>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <type_traits>
#include <utility>
#include <vector>

namespace resilience {

/// Keeps a consumer subscribed; its destructor unsubscribes and then waits until a call under way in another thread
/// has returned. May outlive the policy. A default-constructed one holds nothing.
class [[nodiscard]] subscription {
 public:
  subscription() = default;
  explicit subscription(std::function<void()> unsubscribe) : unsubscribe_(std::move(unsubscribe)) {}
  subscription(subscription&& other) noexcept : unsubscribe_(std::exchange(other.unsubscribe_, nullptr)) {}
  subscription& operator=(subscription&& other) noexcept {
    if (this != &other) {
      reset();
      unsubscribe_ = std::exchange(other.unsubscribe_, nullptr);
    }
    return *this;
  }
  ~subscription() { reset(); }

  /// Unsubscribes now.
  void reset() noexcept {
    if (auto unsubscribe = std::exchange(unsubscribe_, nullptr)) unsubscribe();
  }

 private:
  std::function<void()> unsubscribe_;
};

namespace detail {

/// The consumers of a signal, whatever its event: compiled once, for there are many kinds of events.
class consumers {
 public:
  struct slot {
    std::function<void(const void*)> call;
    std::recursive_mutex calling;
    bool live = true;
  };

  [[nodiscard]] bool any() const noexcept { return any_.load(std::memory_order_relaxed); }
  [[nodiscard]] std::uint64_t failures() const noexcept { return failures_.load(std::memory_order_relaxed); }

  void add(const std::shared_ptr<slot>& entry) {
    const std::lock_guard lock(mutex_);
    slots next = *current_;
    next.push_back(entry);
    set(std::move(next));
  }

  void remove(const std::shared_ptr<slot>& entry) {
    const std::lock_guard lock(mutex_);
    slots next = *current_;
    std::erase(next, entry);
    set(std::move(next));
  }

  void call(const void* event) noexcept {
    for (const auto& entry : *snapshot()) {
      const std::lock_guard calling(entry->calling);
      if (!entry->live) continue;
      try {
        entry->call(event);
      } catch (...) {
        failures_.fetch_add(1, std::memory_order_relaxed);
      }
    }
  }

 private:
  using slots = std::vector<std::shared_ptr<slot>>;

  std::shared_ptr<const slots> snapshot() {
    const std::lock_guard lock(mutex_);
    return current_;
  }
  void set(slots next) {
    current_ = std::make_shared<const slots>(std::move(next));
    any_.store(!current_->empty(), std::memory_order_relaxed);
  }

  std::mutex mutex_;
  std::shared_ptr<const slots> current_ = std::make_shared<const slots>();
  std::atomic<bool> any_ = false;
  std::atomic<std::uint64_t> failures_ = 0;
};

inline subscription subscribe(const std::shared_ptr<consumers>& to, std::function<void(const void*)> call) {
  auto entry = std::make_shared<consumers::slot>();
  entry->call = std::move(call);
  to->add(entry);
  return subscription([weak = std::weak_ptr<consumers>(to), entry] {
    if (const auto owner = weak.lock()) owner->remove(entry);
    const std::lock_guard wait(entry->calling);
    entry->live = false;
  });
}

}  // namespace detail

/// One kind of event and those who watch it. Threads: any. A consumer is never called by two threads at once, may
/// subscribe and unsubscribe from inside a call, and when it throws it is counted and disturbs nobody.
template <class Event>
class signal {
 public:
  using consumer = std::function<void(const Event&)>;

  subscription subscribe(consumer call) {
    return detail::subscribe(consumers_,
                             [call = std::move(call)](const void* e) { call(*static_cast<const Event*>(e)); });
  }

  [[nodiscard]] bool watched() const noexcept { return consumers_->any(); }

  void publish(const Event& event) const noexcept {
    if (watched()) consumers_->call(&event);
  }

  /// How often a consumer threw.
  [[nodiscard]] std::uint64_t failures() const noexcept { return consumers_->failures(); }

 private:
  std::shared_ptr<detail::consumers> consumers_ = std::make_shared<detail::consumers>();
};

/// The last events of an instance, written without a lock. `Event` is trivially copyable; one that meets a slot still
/// being written by a thread a whole ring behind is dropped.
template <class Event, std::size_t Capacity = 100>
class event_ring {
  static_assert(std::is_trivially_copyable_v<Event>);
  static constexpr std::size_t words = (sizeof(Event) + 7) / 8;

 public:
  void push(const Event& event) noexcept {
    std::array<std::uint64_t, words> raw{};
    std::memcpy(raw.data(), &event, sizeof event);
    const std::uint64_t ticket = next_.fetch_add(1, std::memory_order_acq_rel);
    slot& to = slots_[ticket % Capacity];
    std::uint64_t seen = to.version.load(std::memory_order_relaxed);
    // Odd while written; 2 × (ticket + 1) when it holds that ticket.
    if (seen % 2 == 1 || seen > 2 * ticket) return;
    if (!to.version.compare_exchange_strong(seen, 2 * ticket + 1, std::memory_order_acq_rel)) return;
    for (std::size_t i = 0; i < words; ++i) to.raw[i].store(raw[i], std::memory_order_release);
    to.version.store(2 * ticket + 2, std::memory_order_release);
  }

  /// Oldest first.
  [[nodiscard]] std::vector<Event> recent() const {
    std::vector<Event> events;
    const std::uint64_t end = next_.load(std::memory_order_acquire);
    for (std::uint64_t ticket = end > Capacity ? end - Capacity : 0; ticket < end; ++ticket) {
      const slot& from = slots_[ticket % Capacity];
      if (from.version.load(std::memory_order_acquire) != 2 * ticket + 2) continue;
      std::array<std::uint64_t, words> raw;
      for (std::size_t i = 0; i < words; ++i) raw[i] = from.raw[i].load(std::memory_order_acquire);
      if (from.version.load(std::memory_order_acquire) != 2 * ticket + 2) continue;
      std::array<std::byte, sizeof(Event)> bytes;
      std::memcpy(bytes.data(), raw.data(), sizeof(Event));
      events.push_back(std::bit_cast<Event>(bytes));
    }
    return events;
  }

 private:
  struct slot {
    std::atomic<std::uint64_t> version = 0;
    std::array<std::atomic<std::uint64_t>, words> raw{};
  };
  std::atomic<std::uint64_t> next_ = 0;
  std::array<slot, Capacity> slots_{};
};

}  // namespace resilience
