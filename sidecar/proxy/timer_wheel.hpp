#pragma once
/// Timeouts by the thousand: one wheel per thread, a few instructions to set or move one.

#include <algorithm>
#include <array>
#include <bit>
#include <chrono>
#include <cstdint>
#include <optional>

#include <resilience/clock.hpp>

namespace sidecar {

using resilience::time_point;

/// Fires never early, and at most one tick late (while its thread is not busy). Not thread-safe.
class timer_wheel {
 public:
  static constexpr std::chrono::nanoseconds tick = std::chrono::milliseconds{4};

  /// Something that may time out. Moving a timeout to later costs one store: the wheel finds out when it gets there.
  class entry {
   public:
    entry() = default;
    entry(const entry&) = delete;
    entry& operator=(const entry&) = delete;

    [[nodiscard]] bool armed() const noexcept { return due_ != time_point::max(); }
    [[nodiscard]] time_point due() const noexcept { return due_; }

    /// Called at `due()` or later, disarmed. May arm itself again, and may destroy itself.
    virtual void on_timeout() = 0;

   protected:
    virtual ~entry() {
      if (next_ != nullptr) unlink();
    }

   private:
    friend timer_wheel;
    void unlink() noexcept {
      previous_->next_ = next_;
      next_->previous_ = previous_;
      next_ = previous_ = nullptr;
    }
    entry* next_ = nullptr;
    entry* previous_ = nullptr;
    time_point due_ = time_point::max();
    std::uint64_t slot_time_ = 0;  ///< Tick at which the wheel looks at it.
  };

  explicit timer_wheel(time_point now) : start_(now) {
    for (head& h : slots_) h.next_ = h.previous_ = &h;
  }
  ~timer_wheel() {
    for (head& h : slots_) {
      while (h.next_ != &h) h.next_->unlink();
      h.next_ = nullptr;
    }
  }
  timer_wheel(const timer_wheel&) = delete;
  timer_wheel& operator=(const timer_wheel&) = delete;

  /// Fires `e` at `due`, whatever was set before.
  void set(entry& e, time_point due) {
    e.due_ = due;
    if (due == time_point::max()) return;
    if (e.next_ != nullptr) {
      if (e.slot_time_ <= tick_after(due)) return;  // looked at early enough
      e.unlink();
    }
    link(e);
  }

  /// Disarms; the entry may stay in its slot until the wheel passes it.
  void cancel(entry& e) noexcept { e.due_ = time_point::max(); }

  /// Fires what is due at `now`.
  void advance(time_point now) {
    const std::uint64_t until = now <= start_ ? 0 : static_cast<std::uint64_t>((now - start_) / tick);
    while (current_ <= until) {
      const std::uint64_t step = next_occupied();
      if (step > until - current_) {
        current_ = until + 1;
        return;
      }
      current_ += step;
      turn(slots_[current_ % size], now);
      ++current_;
    }
  }

  /// When the wheel has to be advanced next; nothing while it is empty. An upper bound is one turn of the wheel.
  [[nodiscard]] std::optional<time_point> next() const noexcept {
    const std::uint64_t step = next_occupied();
    if (step == size) return std::nullopt;
    return start_ + static_cast<std::int64_t>(current_ + step) * tick;
  }

 private:
  static constexpr std::uint64_t size = 4096;  // a turn takes 16 s; what is due later goes round again

  struct head final : entry {
    void on_timeout() override {}
  };

  /// The first tick at or after `due`.
  [[nodiscard]] std::uint64_t tick_after(time_point due) const noexcept {
    if (due <= start_) return 0;
    return static_cast<std::uint64_t>((due - start_ + tick - std::chrono::nanoseconds{1}) / tick);
  }

  void link(entry& e) noexcept {
    // A turn short of a tick: while a slot fires, `current_` is ahead by one, and nothing may come back into that slot.
    const std::uint64_t at = std::clamp(tick_after(e.due_), current_, current_ + size - 2);
    e.slot_time_ = at;
    head& h = slots_[at % size];
    e.previous_ = h.previous_;
    e.next_ = &h;
    h.previous_->next_ = &e;
    h.previous_ = &e;
    occupied_[at % size / 64] |= std::uint64_t{1} << (at % 64);
  }

  void turn(head& slot, time_point now) {
    const std::uint64_t at = current_ % size;
    occupied_[at / 64] &= ~(std::uint64_t{1} << (at % 64));
    // What is set while the slot fires belongs to the next tick or later, so that the slot comes to an end.
    ++current_;
    while (slot.next_ != &slot) {
      entry& e = *slot.next_;
      e.unlink();
      if (!e.armed()) continue;
      if (e.due_ > now) {
        link(e);
        continue;
      }
      e.due_ = time_point::max();
      e.on_timeout();
    }
    --current_;
  }

  /// Ticks from `current_` to the next slot with an entry; `size` when there is none.
  [[nodiscard]] std::uint64_t next_occupied() const noexcept {
    const std::uint64_t from = current_ % size;
    for (std::uint64_t done = 0; done < size;) {
      const std::uint64_t at = (from + done) % size;
      const std::uint64_t word = occupied_[at / 64] >> (at % 64);
      if (word != 0) return std::min<std::uint64_t>(done + static_cast<std::uint64_t>(std::countr_zero(word)), size);
      done += 64 - at % 64;
    }
    return size;
  }

  time_point start_;
  std::uint64_t current_ = 0;  ///< The next tick to look at.
  std::array<std::uint64_t, size / 64> occupied_{};
  std::array<head, size> slots_;
};

}  // namespace sidecar
