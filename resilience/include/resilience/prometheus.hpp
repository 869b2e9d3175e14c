#pragma once
/// Policies as Prometheus metrics, in Resilience4j's names and labels, so that its dashboards work unchanged.
/// Needs prometheus-cpp (core).

#include <prometheus/collectable.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <resilience/adaptive_rate_limiter.hpp>
#include <resilience/bulkhead.hpp>
#include <resilience/circuit_breaker.hpp>
#include <resilience/events.hpp>
#include <resilience/metric_page.hpp>
#include <resilience/rate_limiter.hpp>
#include <resilience/registry.hpp>
#include <resilience/retry.hpp>
#include <resilience/time_limiter.hpp>

namespace resilience {

namespace detail {

/// Number, total and recent maximum of durations. Threads: any; adding takes no lock.
class duration_meter {
 public:
  void add(std::chrono::nanoseconds took) noexcept {
    count_.fetch_add(1, std::memory_order_relaxed);
    sum_.fetch_add(took.count(), std::memory_order_relaxed);
    const std::int64_t now = minute();
    slot& s = recent_[static_cast<std::size_t>(now % 2)];
    // The first of a new minute starts the slot anew; a maximum lost to the race between two firsts is no harm.
    if (s.minute.exchange(now, std::memory_order_relaxed) != now) s.max.store(0, std::memory_order_relaxed);
    std::int64_t seen = s.max.load(std::memory_order_relaxed);
    while (took.count() > seen && !s.max.compare_exchange_weak(seen, took.count(), std::memory_order_relaxed)) {
    }
  }

  [[nodiscard]] std::uint64_t count() const noexcept { return count_.load(std::memory_order_relaxed); }
  [[nodiscard]] std::chrono::nanoseconds sum() const noexcept {
    return std::chrono::nanoseconds{sum_.load(std::memory_order_relaxed)};
  }
  /// Of this minute and the one before.
  [[nodiscard]] std::chrono::nanoseconds max() const noexcept {
    const std::int64_t now = minute();
    std::int64_t most = 0;
    for (const slot& s : recent_) {
      if (s.minute.load(std::memory_order_relaxed) >= now - 1) {
        most = std::max(most, s.max.load(std::memory_order_relaxed));
      }
    }
    return std::chrono::nanoseconds{most};
  }

 private:
  struct slot {
    std::atomic<std::int64_t> minute = -1, max = 0;
  };
  static std::int64_t minute() noexcept {
    return std::chrono::floor<std::chrono::minutes>(std::chrono::steady_clock::now().time_since_epoch()).count();
  }

  std::atomic<std::uint64_t> count_ = 0;
  std::atomic<std::int64_t> sum_ = 0;
  std::array<slot, 2> recent_;
};

inline void write_rejections(metric_page& page, std::string_view name, errc reason, double n) {
  page.counter("resilience_rejections_total", "Calls a policy refused, by reason", n,
               {{"name", name}, {"reason", to_string(reason)}});
}
inline void write_passage(metric_page& page, std::string_view kind, std::string_view name, double admitted,
                          std::chrono::nanoseconds waited) {
  page.counter("resilience_admitted_total", "Calls a policy let through", admitted, {{"kind", kind}, {"name", name}});
  page.counter("resilience_waited_seconds_total", "Time that calls waited before they were let through",
               std::chrono::duration<double>(waited).count(), {{"kind", kind}, {"name", name}});
}

/// What must be written down while the policy lives, because its own numbers do not hold it. Most hold everything.
template <class Policy>
class meter;

template <class Clock>
class meter<basic_circuit_breaker<Clock>> {
 public:
  explicit meter(basic_circuit_breaker<Clock>& breaker) {
    calls_heard_ = breaker.events().on_call(
        [this](const breaker_call& c) { calls_[static_cast<std::size_t>(c.verdict)].add(c.duration); });
    refusals_heard_ = breaker.events().on_not_permitted(
        [this](const breaker_not_permitted&) { not_permitted_.fetch_add(1, std::memory_order_relaxed); });
  }

  void write(const basic_circuit_breaker<Clock>& breaker, metric_page& page) const {
    const std::string_view name = breaker.name();
    const breaker_state state = breaker.state();
    for (const breaker_state s : {breaker_state::disabled, breaker_state::metrics_only, breaker_state::closed,
                                  breaker_state::open, breaker_state::forced_open, breaker_state::half_open}) {
      page.gauge("resilience4j_circuitbreaker_state", "The states of the circuit breaker", s == state ? 1 : 0,
                 {{"name", name}, {"state", to_string(s)}});
    }
    constexpr std::array<std::pair<verdict, std::string_view>, 3> kinds{
        {{verdict::success, "successful"}, {verdict::failure, "failed"}, {verdict::ignore, "ignored"}}};
    for (const auto& [v, kind] : kinds) {
      const duration_meter& m = calls_[static_cast<std::size_t>(v)];
      page.timer("resilience4j_circuitbreaker_calls_seconds", "Finished calls and the time they took", m.count(),
                 m.sum(), {{"kind", kind}, {"name", name}});
      page.gauge("resilience4j_circuitbreaker_calls_seconds_max", "The longest finished call of the last two minutes",
                 std::chrono::duration<double>(m.max()).count(), {{"kind", kind}, {"name", name}});
    }
    const auto refused = static_cast<double>(not_permitted_.load(std::memory_order_relaxed));
    page.counter("resilience4j_circuitbreaker_not_permitted_calls_total", "Calls refused by the circuit breaker",
                 refused, {{"kind", "not_permitted"}, {"name", name}});
    write_rejections(page, name, errc::circuit_open, refused);

    const breaker_metrics m = breaker.metrics();
    const auto split = [&](std::string_view family, std::string_view help, int failed, int all) {
      page.gauge(family, help, failed, {{"kind", "failed"}, {"name", name}});
      page.gauge(family, help, all - failed, {{"kind", "successful"}, {"name", name}});
    };
    split("resilience4j_circuitbreaker_buffered_calls", "Calls in the window", m.failed_calls, m.calls);
    split("resilience4j_circuitbreaker_slow_calls", "Slow calls in the window", m.slow_failed_calls, m.slow_calls);
    page.gauge("resilience4j_circuitbreaker_failure_rate",
               "Percent of the window's calls; -1 below the minimum of calls", m.failure_rate, {{"name", name}});
    page.gauge("resilience4j_circuitbreaker_slow_call_rate",
               "Percent of the window's calls; -1 below the minimum of calls", m.slow_call_rate, {{"name", name}});
  }

 private:
  std::array<duration_meter, 3> calls_;
  std::atomic<std::uint64_t> not_permitted_ = 0;
  // Last, so that nobody calls back into what is gone.
  subscription calls_heard_, refusals_heard_;
};

/// Both limiters.
template <class Limiter>
class limiter_meter {
 public:
  explicit limiter_meter(Limiter&) {}
  void write(const Limiter& limiter, metric_page& page) const {
    const std::string_view name = limiter.name();
    const rate_limiter_metrics m = limiter.metrics();
    page.gauge("resilience4j_ratelimiter_available_permissions",
               "Permissions left; negative when owed to those who wait", m.available_permissions, {{"name", name}});
    page.gauge("resilience4j_ratelimiter_waiting_threads", "Calls that wait for a permission", m.waiting,
               {{"name", name}});
    write_rejections(page, name, errc::rate_limited, static_cast<double>(m.rejected));
    write_passage(page, "rate_limiter", name, static_cast<double>(m.granted), m.waited);
  }
};

template <class Clock>
class meter<basic_rate_limiter<Clock>> : public limiter_meter<basic_rate_limiter<Clock>> {
  using limiter_meter<basic_rate_limiter<Clock>>::limiter_meter;
};

template <class Clock>
class meter<basic_adaptive_rate_limiter<Clock>> : public limiter_meter<basic_adaptive_rate_limiter<Clock>> {
  using limiter_meter<basic_adaptive_rate_limiter<Clock>>::limiter_meter;
};

template <class Clock>
class meter<basic_bulkhead<Clock>> {
 public:
  explicit meter(basic_bulkhead<Clock>&) {}
  void write(const basic_bulkhead<Clock>& b, metric_page& page) const {
    const std::string_view name = b.name();
    const bulkhead_metrics m = b.metrics();
    page.gauge("resilience4j_bulkhead_available_concurrent_calls", "Places that are free", m.available,
               {{"name", name}});
    page.gauge("resilience4j_bulkhead_max_allowed_concurrent_calls", "Places in all", m.max_concurrent,
               {{"name", name}});
    page.gauge("resilience_bulkhead_waiting_calls", "Calls that wait for a place", m.waiting, {{"name", name}});
    write_rejections(page, name, errc::bulkhead_full, static_cast<double>(m.rejected));
    write_passage(page, "bulkhead", name, static_cast<double>(m.permitted), m.waited);
  }
};

template <class Clock>
class meter<basic_retry<Clock>> {
 public:
  explicit meter(basic_retry<Clock>&) {}
  void write(const basic_retry<Clock>& r, metric_page& page) const {
    const retry_metrics m = r.metrics();
    const auto count = [&](std::string_view kind, std::int64_t n) {
      page.counter("resilience4j_retry_calls_total", "Finished calls, by result and whether they were repeated",
                   static_cast<double>(n), {{"kind", kind}, {"name", r.name()}});
    };
    count("successful_without_retry", m.successful_without_retry);
    count("successful_with_retry", m.successful_with_retry);
    count("failed_without_retry", m.failed_without_retry);
    count("failed_with_retry", m.failed_with_retry);
  }
};

template <class Clock>
class meter<basic_time_limiter<Clock>> {
 public:
  explicit meter(basic_time_limiter<Clock>&) {}
  void write(const basic_time_limiter<Clock>& limiter, metric_page& page) const {
    const time_limiter_metrics m = limiter.metrics();
    const auto count = [&](std::string_view kind, std::int64_t n) {
      page.counter("resilience4j_timelimiter_calls_total", "Finished calls, by result", static_cast<double>(n),
                   {{"kind", kind}, {"name", limiter.name()}});
    };
    count("successful", m.successful);
    count("failed", m.failed);
    count("timeout", m.timed_out);
  }
};

}  // namespace detail

/// A policy whose numbers can be exported.
template <class Policy>
concept measured_policy =
    requires(Policy& policy, metric_page& page) { detail::meter<Policy>(policy).write(policy, page); };

/// The metrics of every policy that was added, for a `prometheus::Exposer` or any other who collects. Calls of a
/// breaker and its refusals count from the moment it is added. Labels are names of instances, which a configuration
/// chooses.
///
///     auto exporter = std::make_shared<resilience::prometheus_exporter>();
///     exporter->add(breaker);             // a std::shared_ptr: leaves by itself when the breaker goes
///     auto shown = exporter->add(local);  // a reference: leaves with the handle, which must go first
///     exposer.RegisterCollectable(exporter);
///
/// Threads: any. Cost while a call runs: none, but for a breaker's calls, each of which is written down.
class prometheus_exporter final : public prometheus::Collectable {
 public:
  /// Exports `policy` as long as the handle lives; the policy must outlive the handle.
  template <measured_policy Policy>
  [[nodiscard]] subscription add(Policy& policy) {
    auto kept = std::make_shared<detail::meter<Policy>>(policy);
    return scrapes_.subscribe([&policy, kept](const scrape& s) { kept->write(policy, *s.page); });
  }

  /// Exports `policy` as long as someone else holds it. Adding it again changes nothing.
  template <measured_policy Policy>
  void add(const std::shared_ptr<Policy>& policy) {
    const std::lock_guard lock(mutex_);
    std::erase_if(shared_, [](const shared& s) { return s.policy.expired(); });
    const auto same = [&](const shared& s) { return s.policy.lock() == policy; };
    if (!policy || std::ranges::any_of(shared_, same)) return;
    auto kept = std::make_shared<detail::meter<Policy>>(*policy);
    const std::weak_ptr<Policy> weak = policy;
    shared_.push_back({policy, scrapes_.subscribe([weak, kept](const scrape& s) {
                         if (const auto alive = weak.lock()) kept->write(*alive, *s.page);
                       })});
  }

  /// Exports what is in the registry and what it gets while the handle lives.
  template <measured_policy Policy, class Clock>
  [[nodiscard]] subscription add(registry<Policy, Clock>& all) {
    const auto came = [this](const registry_event<Policy>& e) { add(e.now); };
    const auto went = [this](const registry_event<Policy>& e) { remove(e.before.get()); };
    using handles = std::array<subscription, 3>;
    auto following = std::make_shared<handles>(
        handles{all.on_added(came), all.on_removed(went), all.on_replaced([came, went](const auto& e) {
                  went(e);
                  came(e);
                })});
    std::vector<std::string> names;
    all.for_each([&](const std::string& name, Policy&) { names.push_back(name); });
    for (const std::string& name : names) add(all.find(name));
    return subscription([following] { *following = {}; });
  }

  [[nodiscard]] std::vector<prometheus::MetricFamily> Collect() const override {
    metric_page page;
    scrapes_.publish({&page});
    return page.take();
  }

 private:
  struct scrape {
    metric_page* page;
  };
  struct shared {
    std::weak_ptr<void> policy;
    subscription exported;
  };

  void remove(const void* policy) {
    const std::lock_guard lock(mutex_);
    std::erase_if(shared_, [&](const shared& s) { return s.policy.lock().get() == policy; });
  }

  signal<scrape> scrapes_;
  std::mutex mutex_;
  std::vector<shared> shared_;
};

}  // namespace resilience
