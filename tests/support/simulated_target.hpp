#pragma once
// A target that can be overloaded, its clients, and one run of a limiter against it, driven by a manual clock.
//
// Demand is Poisson. With A the exponential average (1 s) of the admitted rate, capacity C delivers A while A ≤ C, else
// max(0, 1.5 C − 0.5 A): pushing harder delivers less. A call succeeds with the share delivered, after 30 ms and an
// exponential 20 ms, else it times out after 1 s.

#include <resilience/adaptive_rate_limiter.hpp>
#include <resilience/testing.hpp>

#include <chrono>
#include <cmath>
#include <functional>
#include <memory>
#include <optional>
#include <queue>
#include <random>
#include <vector>

namespace simulation {

using resilience::manual_clock;

/// From when on the target can do how many calls a second.
struct phase {
  double from;
  double capacity;
};

struct scenario {
  std::vector<phase> phases;
  double seconds;
  double demand = 100;                                  // calls per second, of each client
  double random_errors = 0;                             // share that fails whatever the load
  std::function<double(double rate)> utilisation = {};  // reported once a second, 1–4 s late
};

/// A client's limiter. `ask` returns what to call with the result, or nothing when refused.
class client {
 public:
  virtual ~client() = default;
  virtual std::function<void(bool ok)> ask() = 0;
  virtual double rate() = 0;
  virtual void load(double) {}
  virtual int cuts() const { return 0; }
};

struct second {
  double rate = 0;  // of the first client, at its end
  int admitted = 0, delivered = 0;
};

struct run_result {
  std::vector<second> seconds;
  double ideal = 0;  // calls that the capacity allows
  int admitted = 0, delivered = 0;
  std::vector<int> by_client;
  int most_in_a_second = 0;  // admissions in any window of 1 s

  double goodput() const { return 100 * delivered / ideal; }
  double failures() const { return admitted == 0 ? 0 : 100.0 * (admitted - delivered) / admitted; }

  /// Seconds after `from` until the rate first reaches `rate` (or falls to it).
  double until_rate(double from, double rate, bool falling = false) const {
    for (auto s = static_cast<std::size_t>(from); s < seconds.size(); ++s) {
      if (falling ? seconds[s].rate <= rate : seconds[s].rate >= rate) return static_cast<double>(s) + 1 - from;
    }
    return 1e9;
  }

  /// Seconds after `from` until three seconds in a row deliver `calls` a second on average.
  double until_delivered(double from, double calls) const {
    for (auto s = static_cast<std::size_t>(from); s + 2 < seconds.size(); ++s) {
      if (seconds[s].delivered + seconds[s + 1].delivered + seconds[s + 2].delivered >= 3 * calls) {
        return static_cast<double>(s) + 3 - from;
      }
    }
    return 1e9;
  }
};

inline run_result run(const scenario& s, manual_clock clock, const std::vector<std::unique_ptr<client>>& clients,
                      unsigned seed) {
  std::mt19937 random(seed);
  const auto exponential = [&](double mean) { return std::exponential_distribution<double>(1 / mean)(random); };
  const auto uniform = [&] { return std::uniform_real_distribution<double>(0, 1)(random); };

  struct event {
    double at;
    std::function<void()> happens;
    bool operator<(const event& other) const { return at > other.at; }
  };
  std::priority_queue<event> events;
  run_result result;
  result.by_client.resize(clients.size());
  result.seconds.resize(static_cast<std::size_t>(s.seconds));

  double now = 0;
  double average = 0, averaged_at = 0;
  const auto capacity = [&] {
    double c = 0;
    for (const phase& p : s.phases) c = p.from <= now ? p.capacity : c;
    return c;
  };
  std::queue<double> last_second;

  std::function<void(std::size_t)> arrive = [&](std::size_t who) {
    events.push({now + exponential(1 / s.demand), [&, who] { arrive(who); }});
    const auto finish = clients[who]->ask();
    if (!finish) return;
    average = average * std::exp(averaged_at - now) + 0.5;  // half before and half after, so that steady calls see
    averaged_at = now;                                      // their own rate
    const double c = capacity();
    const double share = average <= c ? 1 : std::max(0.0, 1.5 * c - 0.5 * average) / average;
    average += 0.5;
    const bool ok = uniform() < share && uniform() >= s.random_errors;
    auto& bin = result.seconds[static_cast<std::size_t>(now)];
    ++result.admitted;
    ++bin.admitted;
    last_second.push(now);
    while (last_second.front() <= now - 1) last_second.pop();
    result.most_in_a_second = std::max(result.most_in_a_second, static_cast<int>(last_second.size()));
    if (ok) {
      ++result.delivered;
      ++result.by_client[who];
      ++bin.delivered;
    }
    events.push({now + (ok ? 0.03 + exponential(0.02) : 1.0), [finish, ok] { finish(ok); }});
  };
  for (std::size_t who = 0; who < clients.size(); ++who) {
    events.push({exponential(1 / s.demand), [&, who] { arrive(who); }});
  }
  std::function<void()> look = [&] {
    const auto sec = static_cast<std::size_t>(std::lround(now));
    result.seconds[sec - 1].rate = clients[0]->rate();
    if (s.utilisation) {
      const double seen = s.utilisation(clients[0]->rate());
      events.push({now + 1 + 3 * uniform(), [&, seen] { clients[0]->load(seen); }});
    }
    events.push({now + 1, look});
  };
  events.push({1, look});

  while (true) {
    const event next = events.top();
    events.pop();
    if (next.at >= s.seconds) break;
    clock.advance(std::chrono::nanoseconds{std::llround(next.at * 1e9)} -
                  std::chrono::nanoseconds{std::llround(now * 1e9)});
    now = next.at;
    next.happens();
  }
  result.seconds.back().rate = clients[0]->rate();
  for (std::size_t i = 0; i < s.phases.size(); ++i) {
    const double until = i + 1 < s.phases.size() ? s.phases[i + 1].from : s.seconds;
    result.ideal +=
        (until - s.phases[i].from) * std::min(s.phases[i].capacity, s.demand * static_cast<double>(clients.size()));
  }
  return result;
}

/// The adaptive limiter.
class adaptive_client final : public client {
 public:
  explicit adaptive_client(manual_clock clock, resilience::detail::adaptive_law law = {},
                           resilience::adaptive_rate_limiter_config config = {})
      : limiter_("simulated", config, clock, law) {}
  std::function<void(bool)> ask() override {
    auto held = limiter_.try_acquire();
    if (!held) return nullptr;
    return [this, p = std::make_shared<limiter::permit>(std::move(*held))](bool ok) {
      ok ? p->success() : p->failure();
      if (const auto cut = limiter_.explain().last_cut; cut && cut->at != cut_at_) {
        cut_at_ = cut->at;
        ++cuts_;
      }
    };
  }
  double rate() override { return limiter_.rate(); }
  void load(double u) override { limiter_.report_load(u); }
  int cuts() const override { return cuts_; }

 private:
  using limiter = resilience::basic_adaptive_rate_limiter<manual_clock>;
  limiter limiter_;
  resilience::time_point cut_at_{};
  int cuts_ = 0;
};

/// A static limit.
class static_client final : public client {
 public:
  static_client(manual_clock clock, int per_second)
      : rate_(per_second),
        limiter_("simulated", {.limit = resilience::per_second(per_second), .burst = std::max(1, (per_second + 4) / 5)},
                 clock) {}
  std::function<void(bool)> ask() override {
    if (!limiter_.try_acquire()) return nullptr;
    return [](bool) {};
  }
  double rate() override { return rate_; }

 private:
  double rate_;
  resilience::basic_rate_limiter<manual_clock> limiter_;
};

/// Additive increase, multiplicative decrease, as usually written: +1/s each second, ×0.7 at a failure, at most once a
/// second.
class aimd_client final : public client {
 public:
  explicit aimd_client(manual_clock clock)
      : clock_(clock),
        raised_(clock.now()),
        cut_(clock.now()),
        limiter_("simulated", {.limit = limit(), .burst = 4}, clock) {}
  std::function<void(bool)> ask() override {
    for (; clock_.now() - raised_ >= std::chrono::seconds{1}; raised_ += std::chrono::seconds{1}) set(rate_ + 1);
    if (!limiter_.try_acquire()) return nullptr;
    return [this](bool ok) {
      if (ok || clock_.now() - cut_ < std::chrono::seconds{1}) return;
      cut_ = clock_.now();
      set(rate_ * 0.7);
    };
  }
  double rate() override { return rate_; }

 private:
  resilience::rate limit() const { return {static_cast<int>(rate_ * 1000), std::chrono::seconds{1000}}; }
  void set(double to) {
    rate_ = std::clamp(to, 5.0, 50.0);
    limiter_.configure({.limit = limit(), .burst = std::max(1, static_cast<int>(std::ceil(0.2 * rate_)))});
  }

  manual_clock clock_;
  double rate_ = 20;
  resilience::time_point raised_, cut_;
  resilience::basic_rate_limiter<manual_clock> limiter_;
};

/// C = 40, 10, 25, 50 calls per second for two minutes each.
inline scenario four_capacities() { return {.phases = {{0, 40}, {120, 10}, {240, 25}, {360, 50}}, .seconds = 480}; }

}  // namespace simulation
