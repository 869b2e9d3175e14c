#pragma once
/// A breaker's state word and the window it records in: what threads share without a lock.

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include <resilience/circuit_breaker_config.hpp>
#include <resilience/detail/count_window.hpp>
#include <resilience/detail/time_window.hpp>

namespace resilience::detail {

/// The epoch that a state began with, and the state. Every change of state and every reset starts an epoch.
constexpr std::uint64_t state_word(std::uint64_t epoch, breaker_state s) noexcept {
  return epoch << 3 | static_cast<std::uint64_t>(s);
}
constexpr breaker_state state_of(std::uint64_t word) noexcept { return static_cast<breaker_state>(word & 7); }

/// The states that record in the window; half-open counts its probes elsewhere.
constexpr bool records(breaker_state s) noexcept {
  return s == breaker_state::closed || s == breaker_state::metrics_only;
}

/// `state()` and `record()` are lock-free; everything else needs the owner's lock.
///
/// A window of calls is thawed exactly while a recording state holds and nobody changes it, so for the owner a frozen
/// window in closed means: a record has tripped it.
template <class Word = std::atomic<std::uint64_t>>
class breaker_window {
 public:
  breaker_window(const circuit_breaker_config& config, std::uint64_t word) : state_(word) {
    reconfigure(config, time_point{});
  }

  [[nodiscard]] std::uint64_t state() const noexcept { return state_.load(std::memory_order_acquire); }

  /// Whether a record takes the lock and `record_at`.
  [[nodiscard]] bool by_time() const noexcept { return shape_.load(std::memory_order_acquire) == shape::time; }

  /// Records an outcome of a call admitted under the state word `admitted`. Windows of calls only.
  record_result record(std::uint64_t admitted, unsigned outcome) noexcept {
    const auto current = [this, admitted] { return state() == admitted; };
    const bool trips = state_of(admitted) == breaker_state::closed;
    switch (shape_.load(std::memory_order_acquire)) {
      case shape::small:
        return small_.record(outcome, rule_, trips, current);
      case shape::ring:
        return ring_.load(std::memory_order_acquire)->record(outcome, rule_, trips, current);
      case shape::time:
        break;
    }
    return {current() ? record_status::frozen : record_status::stale};
  }

  /// Locked: the same for windows of time. Tripped means the owner changes the state before it unlocks.
  record_result record_at(time_point now, std::uint64_t admitted, unsigned outcome) noexcept {
    if (state() != admitted) return {record_status::stale};
    time_->add(now, outcome);
    const call_counts c = time_->counts(now);
    const unsigned exceeded = rule_.exceeded(c.calls, c.failed, c.slow);
    const bool trip = state_of(admitted) == breaker_state::closed && exceeded != 0;
    return {trip ? record_status::tripped : record_status::recorded, exceeded};
  }

  /// Locked: whether a record has tripped the window and the state does not say so yet.
  [[nodiscard]] bool tripped() const noexcept {
    if (state_of(state()) != breaker_state::closed) return false;
    switch (shape_.load(std::memory_order_relaxed)) {
      case shape::small:
        return small_.frozen();
      case shape::ring:
        return rings_.back()->frozen();
      case shape::time:
        break;
    }
    return false;
  }

  /// Locked.
  [[nodiscard]] call_counts counts(time_point now) noexcept {
    switch (shape_.load(std::memory_order_relaxed)) {
      case shape::small:
        return small_.counts();
      case shape::ring:
        return rings_.back()->counts();
      case shape::time:
        break;
    }
    return time_->counts(now);
  }
  [[nodiscard]] const trip_rule& rule() const noexcept { return rule_; }

  /// Locked: changes the state; whoever records under the old one from here on is stale.
  void enter(std::uint64_t word, bool empty) noexcept {
    each([](auto& w) { w.freeze(); });
    state_.store(word, std::memory_order_release);
    if (empty) {
      each([](auto& w) { w.clear(); });
      if (time_) time_->clear();
    }
    resume();
  }

  /// Locked: stops all recording until `enter` or `reconfigure`. Returns whether a record tripped the window before.
  bool halt() noexcept {
    bool frozen = false;
    each([&](auto& w) { frozen = w.freeze(); });
    return frozen && state_of(state()) == breaker_state::closed;
  }

  /// Locked: another window and other thresholds, with the newest outcomes of the one before. A window of calls that
  /// becomes one of time, or the reverse, starts empty: neither knows what the other has to tell.
  /// Exceptions: bad_alloc, and then nothing has changed.
  void reconfigure(const circuit_breaker_config& config, time_point now) {
    const int size = config.window.size();
    const bool timed = shape_.load(std::memory_order_relaxed) == shape::time;
    try {
      if (!config.window.by_time()) {
        if (timed || size != size_) resize(size, timed ? 0 : size_);
      } else if (!timed) {
        time_.emplace(size);
        halt();
        shape_.store(shape::time, std::memory_order_release);
      } else if (size != size_) {
        time_->resize(size, now);
      }
    } catch (...) {
      resume();
      throw;
    }
    halt();
    size_ = size;
    rule_.set(config.failure_rate, config.slow_call_rate, config.min_calls, config.window.by_time() ? 0 : size);
    resume();
  }

 private:
  enum class shape : std::uint8_t { small, ring, time };

  /// What a window of calls has to be told; nothing for a window of time, which the lock guards.
  template <class Do>
  void each(Do f) {
    switch (shape_.load(std::memory_order_relaxed)) {
      case shape::small:
        return f(small_);
      case shape::ring:
        return f(*rings_.back());
      case shape::time:
        return;
    }
  }

  void resume() noexcept {
    if (records(state_of(state()))) each([](auto& w) { w.thaw(); });
  }

  /// A recorder may still look at a ring that has become too small, so they all stay; growing by doubling keeps the old
  /// ones smaller together than the last.
  void resize(int size, int size_before) {
    std::vector<std::uint8_t> outcomes;
    outcomes.reserve(static_cast<std::size_t>(size_before));
    const bool fits_word = size <= small_window<Word>::max_size;
    const int room = rings_.empty() ? 0 : rings_.back()->allocated();
    std::unique_ptr<ring_window<Word>> grown;
    if (!fits_word && room < size) {
      grown = std::make_unique<ring_window<Word>>(std::max(size, std::min(2 * room, max_window)));
      rings_.reserve(rings_.size() + 1);
    }
    halt();
    each([&](auto& w) { w.copy_to(outcomes); });
    if (grown) {
      rings_.push_back(std::move(grown));
      ring_.store(rings_.back().get(), std::memory_order_release);
    }
    shape_.store(fits_word ? shape::small : shape::ring, std::memory_order_release);
    each([&](auto& w) { w.refill(size, outcomes); });
    time_.reset();
  }

  alignas(64) Word state_;
  std::atomic<shape> shape_ = shape::small;
  std::atomic<ring_window<Word>*> ring_ = nullptr;
  trip_rule rule_;
  int size_ = 0;
  std::vector<std::unique_ptr<ring_window<Word>>> rings_;
  std::optional<time_window> time_;
  alignas(64) small_window<Word> small_;
};

}  // namespace resilience::detail
