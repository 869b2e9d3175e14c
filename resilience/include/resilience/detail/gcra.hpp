#pragma once
/// The generic cell rate algorithm in one atomic word, for every limiter.
///
/// Time brings *units*, a token costs so many of them, and the word holds how many have been spent. Supply is always
/// computed from one origin, so nothing accumulates a rounding error. In smooth mode a unit is a fraction of a
/// nanosecond such that a token costs a whole number of them; in windows a unit is a token and supply comes in steps.

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <mutex>
#include <numeric>

#include <resilience/clock.hpp>
#include <resilience/units.hpp>

namespace resilience::detail {

__extension__ typedef __int128 wide;  // products of times and rates

constexpr wide floor_div(wide a, wide b) noexcept { return a >= 0 ? a / b : -((-a + b - 1) / b); }
constexpr wide ceil_div(wide a, wide b) noexcept { return -floor_div(-a, b); }

/// Counts in nanoseconds; what does not fit is held at the end.
constexpr std::chrono::nanoseconds to_nanoseconds(wide n) noexcept {
  constexpr wide most = std::chrono::nanoseconds::max().count();
  return std::chrono::nanoseconds{static_cast<std::int64_t>(std::clamp(n, -most, most))};
}

/// What a limit means in units: supply(t) = ⌊(t − origin) × num ÷ den⌋ × step.
struct gcra_terms {
  std::int64_t origin = 0;  ///< Nanoseconds since the clock's epoch.
  std::int64_t num = 1;
  std::int64_t den = 1;
  std::int64_t step = 1;
  std::int64_t cost = 1;   ///< Units to a token.
  std::int64_t burst = 1;  ///< Units that can be stored.

  [[nodiscard]] constexpr wide supply(std::int64_t at) const noexcept {
    const wide product = static_cast<wide>(at - origin) * num;
    return (den == 1 ? product : floor_div(product, den)) * step;
  }
  /// The first nanosecond whose supply reaches `units`.
  [[nodiscard]] constexpr wide when(wide units) const noexcept {
    const wide steps = step == 1 ? units : ceil_div(units, step);
    return origin + (num == 1 ? steps * den : ceil_div(steps * den, num));
  }
};

inline constexpr std::int64_t gcra_most_burst = std::int64_t{1} << 52;

/// Evenly spaced tokens. Exact for every rate of at most 1024 calls to the period in lowest terms; a larger one is
/// placed to 1/1024 ns, still without drift.
constexpr gcra_terms smooth_terms(rate limit, int burst, time_point now) noexcept {
  constexpr std::int64_t finest = 1024;
  const std::int64_t period = limit.period.count();
  std::int64_t common = std::gcd<std::int64_t, std::int64_t>(limit.calls, period);
  gcra_terms terms{.origin = now.time_since_epoch().count(), .num = limit.calls / common, .cost = period / common};
  const std::int64_t widest = std::min(gcra_most_burst / (static_cast<std::int64_t>(burst) + 1),
                                       (std::int64_t{1} << 62) / limit.calls);  // so that num fits
  if (terms.num > finest || terms.cost > widest) {
    const wide wanted = static_cast<wide>(period) * finest / limit.calls;
    terms.cost = static_cast<std::int64_t>(std::clamp<wide>(std::min<wide>(wanted, widest), 1, gcra_most_burst));
    const std::int64_t per_call = std::gcd<std::int64_t, std::int64_t>(terms.cost, period);
    terms.den = period / per_call;
    terms.num = terms.cost / per_call;
    common = std::gcd<std::int64_t, std::int64_t>(limit.calls, terms.den);
    terms.den /= common;
    terms.num *= limit.calls / common;
  }
  terms.burst = static_cast<std::int64_t>(burst) * terms.cost;
  return terms;
}

/// All tokens of a window at its start; window k starts at `start` + k × period.
constexpr gcra_terms window_terms(rate limit, time_point start, time_point now) noexcept {
  const wide period = limit.period.count();
  const wide begun = floor_div((now - start).count(), period);
  return {.origin = static_cast<std::int64_t>(start.time_since_epoch().count() + begun * period),
          .num = 1,
          .den = limit.period.count(),
          .step = limit.calls,
          .cost = 1,
          .burst = limit.calls};
}

/// Lock-free: acquiring is one compare-and-swap of a word (generation of the terms, units spent). A change of terms is
/// published as a new generation under a lock; whoever computed with the old one fails its swap and asks again.
class gcra {
 public:
  struct answer {
    bool granted;
    /// How long the tokens must be waited for, whether granted or not.
    std::chrono::nanoseconds wait;
    /// Not granted, and asking again the same way never will be.
    bool never = false;
  };

  struct level {
    std::int64_t tokens;                  ///< Whole ones, rounded down; negative when owed.
    std::chrono::nanoseconds until_full;  ///< Zero when nothing more can be stored.
  };

  /// What becomes of stored and owed tokens when the terms change.
  enum class keep : std::uint8_t {
    tokens,  ///< Their number.
    time     ///< The time it took to store them. Terms from `smooth_terms({1, d}, ...)` only.
  };

  explicit gcra(const gcra_terms& terms) noexcept : word_(pack(0, -terms.burst)) { table_[0].set(terms); }

  /// Takes `n` tokens that are there within `allowed`, or nothing.
  answer acquire(int n, time_point at, std::chrono::nanoseconds allowed) noexcept {
    const std::int64_t now = at.time_since_epoch().count();
    std::uint64_t word = word_.load(std::memory_order_acquire);
    while (true) {
      const gcra_terms terms = terms_of(word);
      const wide supply = terms.supply(now);
      if (supply > rebase_at && rebase(now)) {
        word = word_.load(std::memory_order_acquire);
        continue;
      }
      const wide need = static_cast<wide>(n) * terms.cost;
      const wide spent = std::max<wide>(spent_of(word), supply - terms.burst) + need;
      wide wait = 0;
      if (spent > supply) {
        wait = terms.when(spent) - now;
        if (wait > allowed.count() || spent > most_spent) {
          // A table entry that was replaced meanwhile may have given nonsense: then ask again.
          const std::uint64_t again = word_.load(std::memory_order_acquire);
          if (generation_of(again) != generation_of(word)) {
            word = again;
            continue;
          }
          const bool never = need - terms.burst > terms.supply(plus(at, allowed).time_since_epoch().count()) - supply;
          return {false, to_nanoseconds(wait), never};
        }
      }
      if (word_.compare_exchange_weak(word, pack(generation_of(word), static_cast<std::int64_t>(spent)),
                                      std::memory_order_acq_rel, std::memory_order_acquire)) {
        return {true, to_nanoseconds(wait)};
      }
    }
  }

  /// Gives back tokens whose taker did not wait for them.
  void give_back(int n, time_point at) noexcept {
    change(at, [n](const gcra_terms& terms, wide supply, wide spent) {
      return std::max(spent - static_cast<wide>(n) * terms.cost, supply - terms.burst);
    });
  }

  /// Empties the store; what is owed stays owed.
  void drain(time_point at) noexcept {
    change(at, [](const gcra_terms&, wide supply, wide spent) { return std::max(spent, supply); });
  }

  [[nodiscard]] level look(time_point at) const noexcept {
    const std::int64_t now = at.time_since_epoch().count();
    while (true) {
      const std::uint64_t word = word_.load(std::memory_order_acquire);
      const gcra_terms terms = terms_of(word);
      const wide stored = std::min<wide>(terms.supply(now) - spent_of(word), terms.burst);
      const wide full_at = terms.when(static_cast<wide>(spent_of(word)) + terms.burst);
      if (generation_of(word_.load(std::memory_order_acquire)) != generation_of(word)) continue;
      return {static_cast<std::int64_t>(floor_div(stored, terms.cost)),
              to_nanoseconds(std::max<wide>(full_at - now, 0))};
    }
  }

  /// Changes the limit. Takes a short lock; acquirers go on.
  void publish(const gcra_terms& next, time_point at, keep what) noexcept {
    const std::lock_guard lock(publishing_);
    install(next, [&](const gcra_terms& old, std::int64_t spent) {
      const std::int64_t now = at.time_since_epoch().count();
      const wide stored = std::min<wide>(old.supply(now) - spent, old.burst);
      const wide kept = what == keep::time ? stored : floor_div(stored * next.cost, old.cost);
      return next.supply(now) - std::min<wide>(kept, next.burst);
    });
  }

 private:
  // 6 bits of generation, 58 of units spent.
  static constexpr int spent_bits = 58;
  static constexpr std::int64_t bias = std::int64_t{1} << (spent_bits - 1);
  static constexpr std::int64_t most_spent = bias - 1;
  static constexpr std::int64_t rebase_at = bias / 2;
  static constexpr std::size_t table_size = 8;

  static constexpr std::uint64_t pack(std::uint64_t generation, wide spent) noexcept {
    const auto held = static_cast<std::int64_t>(std::clamp<wide>(spent, -bias, most_spent));
    return generation << spent_bits | static_cast<std::uint64_t>(held + bias);
  }
  static constexpr std::uint64_t generation_of(std::uint64_t word) noexcept { return word >> spent_bits; }
  static constexpr std::int64_t spent_of(std::uint64_t word) noexcept {
    return static_cast<std::int64_t>(word & ((std::uint64_t{1} << spent_bits) - 1)) - bias;
  }

  /// A slow reader may meet an entry being replaced: each number is valid by itself, and the generation in the word
  /// has moved on by then. The releasing stores make that visible to whoever read one of them.
  struct entry {
    std::array<std::atomic<std::int64_t>, 6> numbers{0, 1, 1, 1, 1, 1};

    void set(const gcra_terms& terms) noexcept {
      const std::array values{terms.origin, terms.num, terms.den, terms.step, terms.cost, terms.burst};
      for (std::size_t i = 0; i < values.size(); ++i) numbers[i].store(values[i], std::memory_order_release);
    }
    [[nodiscard]] gcra_terms get() const noexcept {
      const auto number = [this](std::size_t i) { return numbers[i].load(std::memory_order_acquire); };
      return {number(0), number(1), number(2), number(3), number(4), number(5)};
    }
  };

  [[nodiscard]] gcra_terms terms_of(std::uint64_t word) const noexcept {
    return table_[generation_of(word) % table_size].get();
  }

  template <class Edit>
  void change(time_point at, Edit edit) noexcept {
    std::uint64_t word = word_.load(std::memory_order_acquire);
    std::uint64_t next = 0;
    do {
      const gcra_terms terms = terms_of(word);
      const wide spent = edit(terms, terms.supply(at.time_since_epoch().count()), spent_of(word));
      next = pack(generation_of(word), spent);
    } while (!word_.compare_exchange_weak(word, next, std::memory_order_acq_rel, std::memory_order_acquire));
  }

  /// Moves the origin to where supply is a whole number, long before the word overflows. False: nothing to move.
  bool rebase(std::int64_t now) noexcept {
    const std::lock_guard lock(publishing_);
    gcra_terms next = terms_of(word_.load(std::memory_order_acquire));
    if (next.supply(now) <= rebase_at) return true;  // another thread was faster
    const wide rounds = floor_div(static_cast<wide>(now) - next.origin, next.den);
    if (rounds <= 0) return false;
    next.origin += static_cast<std::int64_t>(rounds * next.den);
    const wide moved = rounds * next.num * next.step;
    install(next, [moved](const gcra_terms&, std::int64_t spent) { return spent - moved; });
    return true;
  }

  /// Under the lock.
  template <class Spent>
  void install(const gcra_terms& next, Spent spent_after) noexcept {
    std::uint64_t word = word_.load(std::memory_order_acquire);
    const gcra_terms old = terms_of(word);
    const std::uint64_t generation = (generation_of(word) + 1) % (1U << (64 - spent_bits));
    table_[generation % table_size].set(next);
    while (!word_.compare_exchange_weak(word, pack(generation, spent_after(old, spent_of(word))),
                                        std::memory_order_acq_rel, std::memory_order_acquire)) {
    }
  }

  alignas(64) std::atomic<std::uint64_t> word_;
  alignas(64) std::array<entry, table_size> table_{};
  std::mutex publishing_;
};

}  // namespace resilience::detail
