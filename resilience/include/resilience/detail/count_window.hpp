#pragma once
/// The last N outcomes of a breaker, exact under any number of threads and without a lock.
///
/// An outcome is two bits: failed, slow. A record is one compare-and-swap of a control word, and the record that makes
/// a threshold met sets `frozen` in the same exchange: so exactly one record trips the breaker, and none is lost.
/// Whoever meets a frozen window goes to the breaker's lock, behind which the state is changed. In a window full of
/// fast successes another one changes nothing, and costs no exchange.
///
/// `Word` stands for `std::atomic<std::uint64_t>`; the proof of exactness puts one there that writes down every
/// exchange.
///
/// The owner, under its lock: freeze(), then publish the new state, then clear() if the numbers go, then thaw() if the
/// new state records. What a recorder reads is thereby pinned by its exchange: `current()` is asked after the control
/// word was read, so a record that succeeds happened while the state was still that of the permit.

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include <resilience/units.hpp>

namespace resilience::detail {

/// Bits of an outcome, and of the rates that exceed their threshold.
inline constexpr unsigned failed_bit = 1;
inline constexpr unsigned slow_bit = 2;

struct call_counts {
  int calls = 0;
  int failed = 0;
  int slow = 0;
  int slow_failed = 0;

  constexpr void add(unsigned outcome) noexcept {
    ++calls;
    failed += outcome & failed_bit ? 1 : 0;
    slow += outcome & slow_bit ? 1 : 0;
    slow_failed += outcome == (failed_bit | slow_bit) ? 1 : 0;
  }
  constexpr void operator+=(const call_counts& o) noexcept {
    calls += o.calls, failed += o.failed, slow += o.slow, slow_failed += o.slow_failed;
  }
  constexpr void operator-=(const call_counts& o) noexcept {
    calls -= o.calls, failed -= o.failed, slow -= o.slow, slow_failed -= o.slow_failed;
  }
  friend constexpr bool operator==(const call_counts&, const call_counts&) = default;
};

/// Percent, correctly rounded: 7 of 10 is exactly 70.
constexpr double share(int part, int whole) noexcept { return 100.0 * part / whole; }

/// When the numbers of a window exceed a threshold. Read while recording, written only while the window is frozen.
class trip_rule {
 public:
  /// `full_at`: the size of a window of calls, 0 for a window of time.
  void set(percent failure_rate, percent slow_call_rate, int min_calls, int full_at) noexcept {
    failure_rate_.store(failure_rate.value, std::memory_order_relaxed);
    slow_call_rate_.store(slow_call_rate.value, std::memory_order_relaxed);
    min_calls_.store(full_at > 0 ? std::min(min_calls, full_at) : min_calls, std::memory_order_relaxed);
    full_at_.store(full_at, std::memory_order_relaxed);
    failed_when_full_.store(least(failure_rate, full_at), std::memory_order_relaxed);
    slow_when_full_.store(least(slow_call_rate, full_at), std::memory_order_relaxed);
  }

  [[nodiscard]] int min_calls() const noexcept { return min_calls_.load(std::memory_order_relaxed); }

  /// failed_bit, slow_bit: which rate is at or over its threshold.
  [[nodiscard]] unsigned exceeded(int calls, int failed, int slow) const noexcept {
    if ((failed | slow) == 0 || calls < min_calls()) return 0;
    if (calls == full_at_.load(std::memory_order_relaxed)) {  // the usual case, without a division
      return (failed >= failed_when_full_.load(std::memory_order_relaxed) ? failed_bit : 0) |
             (slow >= slow_when_full_.load(std::memory_order_relaxed) ? slow_bit : 0);
    }
    return (share(failed, calls) >= failure_rate_.load(std::memory_order_relaxed) ? failed_bit : 0) |
           (share(slow, calls) >= slow_call_rate_.load(std::memory_order_relaxed) ? slow_bit : 0);
  }

 private:
  /// The least number of `calls` that reaches `rate`.
  static int least(percent rate, int calls) noexcept {
    if (calls < 1) return 0;
    int n = static_cast<int>(rate.ratio() * calls);
    while (n > 1 && share(n - 1, calls) >= rate.value) --n;
    while (n < 1 || share(n, calls) < rate.value) ++n;
    return n;
  }

  std::atomic<double> failure_rate_ = 50;
  std::atomic<double> slow_call_rate_ = 100;
  std::atomic<int> min_calls_ = 1;
  std::atomic<int> full_at_ = 0;
  std::atomic<int> failed_when_full_ = 0;
  std::atomic<int> slow_when_full_ = 0;
};

enum class record_status : std::uint8_t {
  recorded,
  tripped,  ///< Recorded, and froze the window: the caller changes the state.
  stale,    ///< Not recorded: the state is no longer the permit's.
  frozen    ///< Not recorded: a change of state is under way behind the lock.
};

struct record_result {
  record_status status{};
  unsigned exceeded = 0;  ///< As of trip_rule::exceeded, right after this record.
};

/// Up to 20 outcomes in the control word itself, a shift register: newest in the lowest bits.
template <class Word = std::atomic<std::uint64_t>>
class small_window {
 public:
  static constexpr int max_size = 20;

  /// Lock-free. `current()` tells whether the state is still that of the permit.
  template <class Current>
  record_result record(unsigned outcome, const trip_rule& rule, bool trips, Current current) noexcept {
    std::uint64_t seen = word_.load(std::memory_order_acquire);
    for (;;) {
      if (seen & frozen_flag) return {current() ? record_status::frozen : record_status::stale};
      if (!current()) return {record_status::stale};
      const int capacity = capacity_.load(std::memory_order_relaxed);
      const int size = size_of(seen);
      if (outcome == 0 && size == capacity && (seen & outcomes) == 0) return {record_status::recorded};
      const std::uint64_t window = ((seen << 2) | outcome) & ((std::uint64_t{1} << 2 * capacity) - 1);
      const int next_size = std::min(size + 1, capacity);
      const unsigned exceeded = rule.exceeded(next_size, failed_in(window), slow_in(window));
      const bool trip = trips && exceeded != 0;
      const std::uint64_t next = (seen & generations) | (trip ? frozen_flag : 0) |
                                 (static_cast<std::uint64_t>(next_size) << size_shift) | window;
      if (word_.compare_exchange_weak(seen, next, std::memory_order_acq_rel, std::memory_order_acquire)) {
        return {trip ? record_status::tripped : record_status::recorded, exceeded};
      }
    }
  }

  [[nodiscard]] call_counts counts() const noexcept {
    const std::uint64_t seen = word_.load(std::memory_order_acquire);
    return {size_of(seen), failed_in(seen & outcomes), slow_in(seen & outcomes),
            std::popcount(seen & seen >> 1 & outcomes & every_failed)};
  }

  [[nodiscard]] bool frozen() const noexcept { return word_.load(std::memory_order_acquire) & frozen_flag; }
  /// Under the owner's lock, like all that follows. Returns whether it was frozen.
  bool freeze() noexcept {
    std::uint64_t seen = word_.load(std::memory_order_acquire);
    while (
        !word_.compare_exchange_weak(seen, seen | frozen_flag, std::memory_order_acq_rel, std::memory_order_acquire)) {
    }
    return seen & frozen_flag;
  }
  /// Frozen: starts a new generation, so that an exchange from before cannot succeed.
  void clear() noexcept { become(word_.load(std::memory_order_acquire), 0, 0); }
  void thaw() noexcept { word_.store(word_.load(std::memory_order_acquire) & ~frozen_flag, std::memory_order_release); }

  /// Frozen: appends the outcomes, oldest first.
  void copy_to(std::vector<std::uint8_t>& to) const {
    const std::uint64_t seen = word_.load(std::memory_order_acquire);
    for (int i = size_of(seen); i-- > 0;) to.push_back(static_cast<std::uint8_t>(seen >> 2 * i & 3));
  }
  /// Frozen: becomes a window of `capacity` that holds the newest of `oldest_first`.
  void refill(int capacity, std::span<const std::uint8_t> oldest_first) noexcept {
    const auto kept = oldest_first.last(std::min(oldest_first.size(), static_cast<std::size_t>(capacity)));
    std::uint64_t window = 0;
    for (const std::uint8_t outcome : kept) window = window << 2 | outcome;
    capacity_.store(capacity, std::memory_order_relaxed);
    become(word_.load(std::memory_order_acquire), kept.size(), window);
  }

 private:
  // From below: 40 bits of outcomes, 5 of size, frozen, 18 of generation. The generation tells an exchange prepared
  // before a reset from one after it.
  static constexpr int size_shift = 2 * max_size;
  static constexpr std::uint64_t outcomes = (std::uint64_t{1} << size_shift) - 1;
  static constexpr std::uint64_t frozen_flag = std::uint64_t{1} << (size_shift + 5);
  static constexpr std::uint64_t generation = frozen_flag << 1;
  static constexpr std::uint64_t generations = ~(generation - 1);
  static constexpr std::uint64_t every_failed = 0x5555555555555555;

  static int size_of(std::uint64_t word) noexcept { return static_cast<int>(word >> size_shift & 31); }
  static int failed_in(std::uint64_t window) noexcept { return std::popcount(window & every_failed); }
  static int slow_in(std::uint64_t window) noexcept { return std::popcount(window & ~every_failed); }

  void become(std::uint64_t seen, std::uint64_t size, std::uint64_t window) noexcept {
    word_.store(((seen & generations) + generation) | frozen_flag | size << size_shift | window,
                std::memory_order_release);
  }

  Word word_{frozen_flag};
  std::atomic<int> capacity_ = 1;
};

/// Up to max_window outcomes in a ring beside a control word.
///
/// The control word holds the counts, the position that is written next, and the newest outcome. That one is written
/// into its slot by the next record, whoever makes it, before it moves the control word on (helping). A slot holds the
/// lap it was written in, the outcome, and the number of slow failures in the window at that point, which is the same
/// for all who help; it only ever goes from an older lap to a newer, so a helper that slept does no harm. A record
/// reads the outcome it displaces from its slot, and its exchange of the control word proves that right.
///
/// Laps are counted in the bits left over: 6 at the largest size, 30 at 1,000. A record would have to sleep between its
/// load and its exchange for all of them, and find the same counts, to be misled.
template <class Word = std::atomic<std::uint64_t>>
class ring_window {
 public:
  /// Room for windows of up to `allocated` outcomes; starts frozen and empty.
  explicit ring_window(int allocated)
      : allocated_(allocated),
        count_bits_(std::bit_width(static_cast<unsigned>(allocated))),
        full_and_counts_(full_flag | ((std::uint64_t{1} << 2 * count_bits_) - 1) << 4),
        slots_(std::make_unique<Word[]>(static_cast<std::size_t>(allocated))),
        capacity_(allocated) {
    clear();
  }

  [[nodiscard]] int allocated() const noexcept { return allocated_; }

  /// Lock-free. `current()` tells whether the state is still that of the permit.
  template <class Current>
  record_result record(unsigned outcome, const trip_rule& rule, bool trips, Current current) noexcept {
    for (;;) {
      std::uint64_t seen = control_.load(std::memory_order_acquire);
      if (seen & frozen_flag) return {current() ? record_status::frozen : record_status::stale};
      if (!current()) return {record_status::stale};
      if (outcome == 0 && (seen & full_and_counts_) == full_flag) return {record_status::recorded};

      view v = decode(seen);
      help(v);
      const std::uint64_t capacity = capacity_.load(std::memory_order_relaxed);
      if (v.full) {
        // If it is not of the lap before, the control word has moved on, and the exchange below fails.
        const std::uint64_t displaced = slots_[v.position].load(std::memory_order_acquire);
        v.failed -= displaced & failed_bit;
        v.slow -= displaced >> 1 & 1;
      }
      v.failed += outcome & failed_bit;
      v.slow += outcome >> 1;
      v.newest = outcome;
      if (++v.position == capacity) {
        v.position = 0;
        v.full = true;
        v.lap = lap(v.lap + 1);
      }
      const auto calls = static_cast<int>(v.full ? capacity : v.position);
      const unsigned exceeded = rule.exceeded(calls, static_cast<int>(v.failed), static_cast<int>(v.slow));
      v.frozen = trips && exceeded != 0;
      if (control_.compare_exchange_weak(seen, encode(v), std::memory_order_acq_rel, std::memory_order_relaxed)) {
        return {v.frozen ? record_status::tripped : record_status::recorded, exceeded};
      }
    }
  }

  /// Lock-free, of one moment.
  [[nodiscard]] call_counts counts() const noexcept {
    for (;;) {
      const std::uint64_t seen = control_.load(std::memory_order_acquire);
      const view v = decode(seen);
      if (!v.full && v.position == 0) return {};
      help(v);
      const auto capacity = capacity_.load(std::memory_order_relaxed);
      const std::uint64_t newest = slots_[before(v.position, capacity)].load(std::memory_order_acquire);
      if (control_.load(std::memory_order_acquire) != seen) continue;
      return {static_cast<int>(v.full ? capacity : v.position), static_cast<int>(v.failed), static_cast<int>(v.slow),
              static_cast<int>(slow_failed_of(newest))};
    }
  }

  [[nodiscard]] bool frozen() const noexcept { return control_.load(std::memory_order_acquire) & frozen_flag; }
  /// Under the owner's lock, like all that follows. Returns whether it was frozen.
  bool freeze() noexcept {
    std::uint64_t seen = control_.load(std::memory_order_acquire);
    while (!control_.compare_exchange_weak(seen, seen | frozen_flag, std::memory_order_acq_rel,
                                           std::memory_order_acquire)) {
    }
    return seen & frozen_flag;
  }
  /// Frozen. Two laps on, so that no slot looks as if it had been written in the lap before.
  void clear() noexcept {
    const view v = decode(control_.load(std::memory_order_acquire));
    // Laps are compared within half their range, so slots not written for long are brought up now and then.
    if (++clears_ % (lap_mask() / 8 + 1) == 0) {
      for (int i = 0; i < allocated_; ++i) slots_[i].store(v.lap << lap_shift(), std::memory_order_release);
    }
    control_.store(encode({.frozen = true, .lap = lap(v.lap + 2)}), std::memory_order_release);
  }
  void thaw() noexcept {
    control_.store(control_.load(std::memory_order_acquire) & ~frozen_flag, std::memory_order_release);
  }

  /// Frozen: appends the outcomes, oldest first.
  void copy_to(std::vector<std::uint8_t>& to) const {
    const view v = decode(control_.load(std::memory_order_acquire));
    help(v);
    const auto capacity = capacity_.load(std::memory_order_relaxed);
    const auto size = v.full ? capacity : v.position;
    for (std::uint64_t i = 0; i < size; ++i) {
      const auto at = v.full ? (v.position + i) % capacity : i;
      to.push_back(static_cast<std::uint8_t>(slots_[at].load(std::memory_order_acquire) & 3));
    }
  }
  /// Frozen: becomes a window of `capacity`, at most `allocated()`, that holds the newest of `oldest_first`.
  void refill(int capacity, std::span<const std::uint8_t> oldest_first) noexcept {
    const auto kept = oldest_first.last(std::min(oldest_first.size(), static_cast<std::size_t>(capacity)));
    capacity_.store(static_cast<std::uint64_t>(capacity), std::memory_order_relaxed);
    clear();
    view v = decode(control_.load(std::memory_order_acquire));
    std::uint64_t slow_failed = 0;
    for (const std::uint8_t outcome : kept) {
      v.newest = outcome;
      v.failed += outcome & failed_bit;
      v.slow += outcome >> 1;
      slow_failed += outcome == 3;
      slots_[v.position++].store(outcome | slow_failed << 2 | v.lap << lap_shift(), std::memory_order_release);
    }
    if (v.position == static_cast<std::uint64_t>(capacity)) {
      v.position = 0;
      v.full = true;
      v.lap = lap(v.lap + 1);
    }
    control_.store(encode(v), std::memory_order_release);
  }

 private:
  // Control word, from below: frozen, full, 2 bits of newest outcome, failed, slow, position, lap.
  // Slot, from below: 2 bits of outcome, slow failures, and from the same bit on as there the lap.
  static constexpr std::uint64_t frozen_flag = 1;
  static constexpr std::uint64_t full_flag = 2;

  struct view {
    bool frozen = false;
    bool full = false;
    std::uint64_t newest = 0;
    std::uint64_t failed = 0;
    std::uint64_t slow = 0;
    std::uint64_t position = 0;
    std::uint64_t lap = 0;
  };

  [[nodiscard]] int lap_shift() const noexcept { return 4 + 3 * count_bits_; }
  [[nodiscard]] std::uint64_t count_mask() const noexcept { return (std::uint64_t{1} << count_bits_) - 1; }
  [[nodiscard]] std::uint64_t lap_mask() const noexcept { return ~std::uint64_t{0} >> lap_shift(); }
  [[nodiscard]] std::uint64_t lap(std::uint64_t n) const noexcept { return n & lap_mask(); }
  [[nodiscard]] std::uint64_t lap_of(std::uint64_t slot) const noexcept { return slot >> lap_shift(); }
  [[nodiscard]] std::uint64_t slow_failed_of(std::uint64_t slot) const noexcept { return slot >> 2 & count_mask(); }
  [[nodiscard]] bool older(std::uint64_t a, std::uint64_t b) const noexcept {
    return a != b && lap(b - a) <= lap_mask() / 2;
  }
  static std::uint64_t before(std::uint64_t position, std::uint64_t capacity) noexcept {
    return (position == 0 ? capacity : position) - 1;
  }

  [[nodiscard]] view decode(std::uint64_t word) const noexcept {
    return {.frozen = (word & frozen_flag) != 0,
            .full = (word & full_flag) != 0,
            .newest = word >> 2 & 3,
            .failed = word >> 4 & count_mask(),
            .slow = word >> (4 + count_bits_) & count_mask(),
            .position = word >> (4 + 2 * count_bits_) & count_mask(),
            .lap = lap_of(word)};
  }
  /// Counts that went wrong in a record whose exchange will fail stay in their fields.
  [[nodiscard]] std::uint64_t encode(const view& v) const noexcept {
    return (v.frozen ? frozen_flag : 0) | (v.full ? full_flag : 0) | v.newest << 2 | (v.failed & count_mask()) << 4 |
           (v.slow & count_mask()) << (4 + count_bits_) | v.position << (4 + 2 * count_bits_) | v.lap << lap_shift();
  }

  /// Writes the newest outcome of the control word `v` into its slot, unless somebody has. Harmless if `v` is history.
  void help(const view& v) const noexcept {
    if (!v.full && v.position == 0) return;
    const auto capacity = capacity_.load(std::memory_order_relaxed);
    const auto at = before(v.position, capacity);
    const auto in_lap = lap(v.position == 0 ? v.lap - 1 : v.lap);
    Word& slot = slots_[at];
    std::uint64_t old = slot.load(std::memory_order_acquire);
    while (older(lap_of(old), in_lap)) {
      const std::uint64_t previous = slots_[before(at, capacity)].load(std::memory_order_acquire);
      std::uint64_t slow_failed = 0;
      if (lap_of(previous) == lap(at == 0 ? in_lap - 1 : in_lap)) {
        slow_failed = slow_failed_of(previous);
      } else if (at != 0) {
        return;  // `v` is history
      }  // else the first outcome since a clear
      if (lap_of(old) == lap(in_lap - 1)) slow_failed -= (old & 3) == 3;
      slow_failed += v.newest == 3;
      const std::uint64_t now = v.newest | (slow_failed & count_mask()) << 2 | in_lap << lap_shift();
      // Who comes between may be one who helps as we do, or one from before a clear: then again.
      if (slot.compare_exchange_strong(old, now, std::memory_order_acq_rel, std::memory_order_acquire)) return;
    }
  }

  int allocated_;
  int count_bits_;
  std::uint64_t full_and_counts_;  ///< A mask: what is just full_flag in a window full of fast successes.
  std::unique_ptr<Word[]> slots_;
  std::uint64_t clears_ = 0;
  alignas(64) Word control_{frozen_flag};
  std::atomic<std::uint64_t> capacity_;
};

}  // namespace resilience::detail
