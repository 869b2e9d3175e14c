#pragma once
/// The law of the adaptive rate limiter, free of clock, lock and I/O.
///
/// Few calls arrive at 5 to 50 a second, so it judges call by call instead of by window, and recovers by time. Two
/// loops, the lower wins: one learns from failures, one from load.

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <optional>

#include <resilience/clock.hpp>

namespace resilience {

/// Why a rate was cut.
enum class cut_cause : std::uint8_t { failures, load, breaker };

struct adaptive_cut {
  time_point at;
  double rate_before;  ///< Calls per second.
  double rate_after;
  cut_cause cause;
};

namespace detail {

/// The parts of the law that a test may switch off, to prove that each is needed.
struct adaptive_law {
  bool epochs = true;        ///< Results of calls admitted before the last cut decide nothing.
  bool acceleration = true;  ///< Growth is fast far above the last trouble.
  bool midpoint = true;  ///< After an overstep, the new centre is between what was delivered and where trouble began.
  bool baseline = true;  ///< Errors that come at any rate are not taken for overload.
  bool calm_baseline = true;  ///< What is normal is learnt only from results that decide.
};

/// What a call knows of its admission.
struct adaptive_admission {
  time_point at;
  float rate;  ///< In force then, calls per second.
  std::uint32_t epoch;
};

/// The failure ratio that the target has at any rate, e0: from blocks of results of the last minute.
class failure_floor {
 public:
  void add(time_point now, bool failed) noexcept {
    if (calls_ == 0) begun_ = now;
    ++calls_;
    failures_ += failed ? 1 : 0;
    if (calls_ < block_calls || now - begun_ < block_time) return;
    const double ratio = static_cast<double>(failures_) / calls_;
    if (ratio <= 0.5) {
      blocks_[next_ % blocks_.size()] = {now, ratio};
      ++next_;
    }
    calls_ = failures_ = 0;
  }

  /// Second lowest ratio of the last minute; the lowest of fewer than ten; the last one known if all are older.
  [[nodiscard]] double ratio(time_point now) const noexcept {
    if (next_ == 0) return 0;
    double lowest = 1, second = 1;
    std::size_t recent = 0;
    for (std::size_t i = 0; i < std::min(next_, blocks_.size()); ++i) {
      const block& b = blocks_[i];
      if (now - b.ended > memory) continue;
      ++recent;
      second = std::min(second, std::max(lowest, b.ratio));
      lowest = std::min(lowest, b.ratio);
    }
    if (recent == 0) return blocks_[(next_ - 1) % blocks_.size()].ratio;
    return recent < 10 ? lowest : second;
  }

 private:
  static constexpr int block_calls = 50;
  static constexpr std::chrono::seconds block_time{5};
  static constexpr std::chrono::seconds memory{60};
  struct block {
    time_point ended;
    double ratio;
  };
  time_point begun_{};
  int calls_ = 0;
  int failures_ = 0;
  std::array<block, 12> blocks_{};  // a minute's, at 5 s each
  std::size_t next_ = 0;
};

/// Successes per second over the shortest recent span of at least 1 s that holds ten finished calls.
class goodput_meter {
 public:
  void add(time_point now, bool delivered) noexcept {
    last_[finished_++ % last_.size()] = {now, delivered};
    bucket& b = buckets_[static_cast<std::size_t>(slot(now)) % buckets_.size()];
    if (b.slot != slot(now)) b = {slot(now), 0, 0};
    ++b.finished;
    b.delivered += delivered ? 1 : 0;
  }

  [[nodiscard]] double per_second(time_point now) const noexcept {
    std::int64_t finished = 0, delivered = 0;
    for (const bucket& b : buckets_) {
      if (b.slot <= slot(now) - per_span || b.slot > slot(now)) continue;
      finished += b.finished;
      delivered += b.delivered;
    }
    if (finished >= static_cast<std::int64_t>(last_.size())) return static_cast<double>(delivered);
    const std::size_t known = std::min(finished_, last_.size());
    if (known == 0) return 0;
    const auto delivered_last = std::count_if(last_.begin(), last_.begin() + static_cast<std::ptrdiff_t>(known),
                                              [](const call& c) { return c.delivered; });
    const std::chrono::duration<double> span = now - last_[finished_ % known].at;  // the oldest of them
    return static_cast<double>(delivered_last) / std::max(span.count(), 1.0);
  }

 private:
  static constexpr std::int64_t per_span = 20;  // buckets to the second
  static constexpr std::int64_t slot(time_point t) noexcept {
    return t.time_since_epoch() / std::chrono::milliseconds{1000 / per_span};
  }
  struct call {
    time_point at;
    bool delivered;
  };
  struct bucket {
    std::int64_t slot = -1;
    std::int64_t finished = 0;
    std::int64_t delivered = 0;
  };
  std::array<call, 10> last_{};
  std::size_t finished_ = 0;
  std::array<bucket, per_span + 1> buckets_{};
};

/// Threads: one at a time. Rates are calls per second.
class adaptive_rate {
 public:
  static constexpr std::chrono::milliseconds tick{500};

  adaptive_rate(double min, double max, double initial, adaptive_law law = {}) noexcept
      : law_(law), min_(min), max_(max), error_limit_(std::clamp(initial, min, max)), centre_(min), load_limit_(max) {
    combine();
  }

  [[nodiscard]] double rate() const noexcept { return rate_; }
  [[nodiscard]] std::uint32_t epoch() const noexcept { return epoch_; }
  [[nodiscard]] double error_limit() const noexcept { return error_limit_; }
  [[nodiscard]] double load_limit() const noexcept { return load_limit_; }
  [[nodiscard]] double min() const noexcept { return min_; }
  [[nodiscard]] double max() const noexcept { return max_; }
  [[nodiscard]] const std::optional<adaptive_cut>& last_cut() const noexcept { return last_cut_; }

  /// A call has ended. `overload`: with a failure that means overload.
  void finished(time_point now, const adaptive_admission& call, bool overload) noexcept {
    goodput_.add(now, !overload);

    const bool counted = !frozen_ && (!law_.epochs || (call.epoch == epoch_ && call.at >= counted_from_));
    // The rest would let the failures of a rate that was too high pass for normal, and keep it there.
    if (counted || !law_.calm_baseline) floor_.add(now, overload);
    if (!counted) return;

    rates_[counted_++ % rates_.size()] = call.rate;
    const double p0 = std::clamp(law_.baseline ? 1.5 * floor_.ratio(now) : 0.0, 0.02, 0.6);
    const double p1 = p0 + 0.12;
    if (!overload) {
      score_ = std::max(score_ - std::log((1 - p0) / (1 - p1)), 0.0);
      return;
    }
    if (score_ == 0) {
      const auto end = rates_.begin() + static_cast<std::ptrdiff_t>(std::min(counted_, rates_.size()));
      trouble_began_ = *std::min_element(rates_.begin(), end);
    }
    score_ += std::log(p1 / p0);
    if (score_ >= alarm) cut_for_failures(now);
  }

  /// Utilisation as last seen; 1 is fully used.
  void load(time_point now, double utilisation) noexcept {
    if (!(utilisation >= 0)) return;
    reported_ = utilisation;
    reported_at_ = now;
  }

  /// Half a second has passed, in which so many calls were admitted, and some refused or none.
  void pass_tick(time_point now, std::int64_t admitted, bool refused) noexcept {
    const double seconds = std::chrono::duration<double>(tick).count();
    const bool binds = refused || static_cast<double>(admitted) >= 0.7 * rate_ * seconds;
    if (!frozen_ && binds) grow_error_limit(seconds);
    follow_load(now, seconds, binds);
    // Neither loop may run away while the other binds.
    combine();
    error_limit_ = std::min(error_limit_, 1.25 * rate_);
    if (reported_at_) load_limit_ = std::min(load_limit_, 1.25 * rate_);
  }

  /// The breaker that guards the same target opened: what fails now says nothing about the rate.
  void freeze() noexcept { frozen_ = true; }

  /// That breaker closed: begin at the bottom. Nothing without `freeze`.
  void thaw(time_point now) noexcept {
    if (!frozen_) return;
    frozen_ = false;
    begin_epoch();
    counted_from_ = now;
    const double before = rate_;
    error_limit_ = centre_ = min_;
    recovery_length_ = 0;
    combine();
    last_cut_ = adaptive_cut{now, before, rate_, cut_cause::breaker};
  }

  /// New bounds; what was learnt is kept within them.
  void bound(double min, double max) noexcept {
    if (load_limit_ >= max_) load_limit_ = max;
    min_ = min;
    max_ = max;
    for (double* learnt : {&error_limit_, &centre_, &recovery_from_, &load_limit_}) {
      *learnt = std::clamp(*learnt, min_, max_);
    }
    combine();
  }

 private:
  static constexpr double alarm = 6;
  static constexpr double doubt = 1.5;  // a score from which growth pauses
  static constexpr std::chrono::milliseconds digestion{1500};

  void cut_for_failures(time_point now) noexcept {
    const double before = rate_;
    const double goodput = std::min(goodput_.per_second(now), rate_);
    const double began = std::min(trouble_began_, rate_);
    const bool overstepped = goodput >= 0.4 * began;  // else the target itself came down
    centre_ = std::max(overstepped && law_.midpoint ? (goodput + began) / 2 : goodput, min_);
    error_limit_ = recovery_from_ = std::max(0.9 * goodput, min_);
    recovered_ = 0;
    recovery_length_ = std::clamp(100 / centre_, 4.0, 10.0);
    begin_epoch();
    counted_from_ = now + digestion;
    combine();
    last_cut_ = adaptive_cut{now, before, rate_, cut_cause::failures};
  }

  void begin_epoch() noexcept {
    ++epoch_;
    score_ = 0;
    counted_ = 0;
  }

  void grow_error_limit(double seconds) noexcept {
    if (recovered_ < recovery_length_) {
      recovered_ = std::min(recovered_ + seconds, recovery_length_);
      const double left = 1 - recovered_ / recovery_length_;
      error_limit_ = centre_ - (centre_ - recovery_from_) * left * left * left;
      return;
    }
    if (score_ >= doubt) return;
    const double far = law_.acceleration ? std::clamp((error_limit_ / centre_ - 1.1) / 0.4, 0.0, 1.0) : 0.0;
    error_limit_ = std::min(error_limit_ + (0.4 + 0.2 * error_limit_ * far) * seconds, max_);
  }

  void follow_load(time_point now, double seconds, bool binds) noexcept {
    const double target = 0.75, dead_band = 0.03;
    if (reported_at_ && now - *reported_at_ > std::chrono::seconds{10}) {
      reported_at_.reset();  // whoever reported has fallen silent: nothing speaks against growing
      load_ = overloaded_for_ = 0;
      load_limit_ = max_;
    }
    if (!reported_at_) return;
    load_ += (reported_ - load_) * (1 - std::exp(-seconds / 2));
    overloaded_for_ = load_ > 0.95 ? overloaded_for_ + seconds : 0;
    since_load_cut_ += seconds;
    if (overloaded_for_ >= 2 && since_load_cut_ >= 8) {
      const double before = rate_;
      load_limit_ = std::max(std::min(load_limit_, rate_) * target / std::min(load_, 2.0), min_);
      since_load_cut_ = 0;
      combine();
      if (rate_ < before) last_cut_ = adaptive_cut{now, before, rate_, cut_cause::load};
      return;
    }
    if (std::abs(target - load_) <= dead_band || (load_ < target && !binds)) return;
    const double step = 0.10 * std::clamp((target - load_) / target, -1.0, 1.0) * seconds;
    load_limit_ = std::clamp(load_limit_ * std::exp(step), min_, max_);
  }

  void combine() noexcept { rate_ = std::clamp(std::min(error_limit_, load_limit_), min_, max_); }

  adaptive_law law_;
  double min_, max_;
  double rate_ = 0;
  std::uint32_t epoch_ = 0;
  time_point counted_from_ = time_point::min();
  bool frozen_ = false;
  std::optional<adaptive_cut> last_cut_;

  // The error loop. centre_ is W, where the limit was last seen to be right.
  double error_limit_;
  double centre_;
  double recovery_from_ = 0, recovered_ = 0, recovery_length_ = 0;  // seconds
  double score_ = 0;
  double trouble_began_ = 0;
  std::array<double, 10> rates_{};  // of the last counted results
  std::size_t counted_ = 0;
  goodput_meter goodput_;
  failure_floor floor_;

  // The load loop.
  double load_limit_;
  double reported_ = 0;
  std::optional<time_point> reported_at_;
  double load_ = 0;
  double overloaded_for_ = 0, since_load_cut_ = 8;
};

}  // namespace detail
}  // namespace resilience
