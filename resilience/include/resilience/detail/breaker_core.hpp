#pragma once
/// The rules of a circuit breaker: no lock, no clock, no threads. The window of the recording states is the owner's;
/// the probes of half-open are counted here.

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <expected>
#include <limits>
#include <span>
#include <utility>

#include <resilience/circuit_breaker_config.hpp>
#include <resilience/detail/breaker_window.hpp>
#include <resilience/detail/count_window.hpp>

namespace resilience::detail {

/// What one step of the rules brought about, in order. Of more than it holds, the last ones.
class breaker_news {
 public:
  void add(const breaker_event& e) noexcept {
    if (size_ == events_.size()) {
      std::shift_left(events_.begin(), events_.end(), 1);
      --size_;
    }
    events_[size_++] = e;
  }
  [[nodiscard]] std::span<const breaker_event> events() const noexcept { return {events_.data(), size_}; }

 private:
  std::array<breaker_event, 12> events_;  // read up to size_ only
  std::size_t size_ = 0;
};

class breaker_core {
 public:
  breaker_core(const circuit_breaker_config& config, time_point now) noexcept : config_(config) {
    breaker_news unheard;
    if (config.initial_state != breaker_state::closed) enter(config.initial_state, now, unheard);
  }

  [[nodiscard]] breaker_state state() const noexcept { return state_; }
  [[nodiscard]] std::uint64_t word() const noexcept { return state_word(epoch_, state_); }
  [[nodiscard]] const circuit_breaker_config& config() const noexcept { return config_; }
  [[nodiscard]] time_point open_until() const noexcept { return open_until_; }

  /// When the state changes by itself, or never.
  [[nodiscard]] time_point due() const noexcept {
    if (state_ == breaker_state::open && config_.automatic_half_open) return open_until_;
    if (state_ == breaker_state::half_open && config_.half_open_for.count() > 0) {
      return plus(entered_, config_.half_open_for);
    }
    return time_point::max();
  }

  /// Lets the changes that were due by `now` happen, each at its own time. Cost: bounded, however long ago that was.
  void catch_up(time_point now, breaker_news& news) noexcept {
    for (int step = 0; due() <= now && due() != time_point::max(); ++step) {
      const time_point at = due();
      if (state_ == breaker_state::half_open) {
        enter(breaker_state::open, at, news);
        continue;
      }
      if (step > 8 && (step > 10'000 || wait(openings_) == wait(openings_ + 1))) skip_rounds(now);
      enter(breaker_state::half_open, open_until_, news);
    }
  }

  /// Asks for a call; afterwards `word()` tags its permit. A refusal says how long to wait, 0 if that is not known.
  std::expected<void, std::chrono::nanoseconds> admit(time_point now, breaker_news& news) noexcept {
    if (state_ == breaker_state::open) {
      if (now < open_until_) return std::unexpected(open_until_ - now);
      enter(breaker_state::half_open, now, news);
    }
    if (state_ == breaker_state::forced_open) return std::unexpected(std::chrono::nanoseconds{0});
    if (state_ == breaker_state::half_open) {
      if (probes_admitted_ >= config_.half_open_calls) return std::unexpected(std::chrono::nanoseconds{0});
      ++probes_admitted_;
    }
    return {};
  }

  /// A probe of this epoch came back with nothing to tell.
  void give_back() noexcept { --probes_admitted_; }

  /// A probe of this epoch came back with an outcome.
  void probed(unsigned outcome, time_point now, breaker_news& news) noexcept {
    probes_.add(outcome);
    decide(now, news);
  }

  /// The window exceeded a threshold: closed opens, metrics_only tells each rate once.
  void exceed(unsigned exceeded, const call_counts& c, time_point now, breaker_news& news) noexcept {
    const unsigned untold = exceeded & ~told_;
    told_ |= exceeded;
    if (untold & failed_bit) {
      news.add({.type = breaker_event_type::failure_rate_exceeded, .rate = share(c.failed, c.calls), .at = now});
    }
    if (untold & slow_bit) {
      news.add({.type = breaker_event_type::slow_call_rate_exceeded, .rate = share(c.slow, c.calls), .at = now});
    }
    if (state_ != breaker_state::metrics_only) enter(breaker_state::open, now, news);
  }

  /// Whether a rate that exceeds its threshold has been told.
  [[nodiscard]] unsigned told() const noexcept { return told_; }

  /// Whether `transition_to` may be asked for.
  [[nodiscard]] bool allows(breaker_state to) const noexcept {
    if (to == breaker_state::half_open) return !records(state_);
    return !(to == breaker_state::open && state_ == breaker_state::metrics_only);
  }

  /// The same state starts its wait anew and is no change.
  void transition_to(breaker_state to, time_point now, breaker_news& news) noexcept {
    if (to != state_) return enter(to, now, news);
    entered_ = now;
    if (to == breaker_state::open) open_until_ = plus(now, wait(openings_));
  }

  void reset(time_point now, breaker_news& news) noexcept {
    enter(breaker_state::closed, now, news);
    news.add({.type = breaker_event_type::reset, .at = now});
  }

  /// Other numbers for the same state: a wait in open that has begun is kept.
  void reconfigure(const circuit_breaker_config& config, time_point now, breaker_news& news) noexcept {
    config_ = config;
    if (state_ == breaker_state::half_open) decide(now, news);
  }

  /// The counts that metrics show, if they are those of the probes and not those of the window.
  [[nodiscard]] const call_counts* probes() const noexcept { return shows_probes_ ? &probes_ : nullptr; }
  /// After how many probes half-open decides.
  [[nodiscard]] int probes_needed() const noexcept { return std::min(config_.min_calls, config_.half_open_calls); }

  /// Whether the numbers were to be emptied since this was last asked.
  bool take_emptied() noexcept { return std::exchange(emptied_, false); }

 private:
  static constexpr int max_openings = std::numeric_limits<int>::max() - 1;

  [[nodiscard]] std::chrono::nanoseconds wait(int opening) const noexcept {
    return config_.open_for.nth(std::max(1, opening));
  }

  void enter(breaker_state to, time_point at, breaker_news& news) noexcept {
    const breaker_state from = std::exchange(state_, to);
    ++epoch_;
    entered_ = at;
    if (to == breaker_state::open) {
      openings_ = std::min(openings_ + 1, max_openings);
      open_until_ = plus(at, wait(openings_));
    } else {
      if (to == breaker_state::closed) openings_ = 0;
      shows_probes_ = to == breaker_state::half_open;
      probes_ = {};
      probes_admitted_ = 0;
      emptied_ = true;
    }
    told_ = 0;
    if (from != to) news.add({.type = breaker_event_type::transition, .from = from, .to = to, .at = at});
  }

  void decide(time_point now, breaker_news& news) noexcept {
    if (probes_.calls < probes_needed()) return;
    trip_rule rule;
    rule.set(config_.failure_rate, config_.slow_call_rate, 1, 0);
    const unsigned exceeded = rule.exceeded(probes_.calls, probes_.failed, probes_.slow);
    if (exceeded != 0) {
      exceed(exceeded, probes_, now, news);
    } else {
      enter(breaker_state::closed, now, news);
    }
  }

  /// Open and due, in a round of open and half-open that nothing else will end: skips the whole rounds before `now`.
  void skip_rounds(time_point now) noexcept {
    if (config_.half_open_for.count() <= 0) return;
    const auto round = plus(time_point{} + wait(openings_), config_.half_open_for) - time_point{};
    const auto rounds = (now - open_until_) / round;
    open_until_ += rounds * round;
    openings_ = static_cast<int>(std::min<std::int64_t>(openings_ + rounds, max_openings));
  }

  circuit_breaker_config config_;
  breaker_state state_ = breaker_state::closed;
  std::uint64_t epoch_ = 0;
  time_point entered_{};
  time_point open_until_{};
  int openings_ = 0;  ///< Since last closed.
  call_counts probes_{};
  int probes_admitted_ = 0;
  bool shows_probes_ = false;
  bool emptied_ = false;
  unsigned told_ = 0;  ///< Rates told since this state was entered.
};

}  // namespace resilience::detail
