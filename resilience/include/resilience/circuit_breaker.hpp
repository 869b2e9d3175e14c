#pragma once
/// Stops calling what fails, and tries it again with a few probes.

#include <atomic>
#include <chrono>
#include <cstdint>
#include <expected>
#include <functional>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <type_traits>
#include <utility>
#include <vector>

#include <resilience/circuit_breaker_config.hpp>
#include <resilience/clock.hpp>
#include <resilience/detail/breaker_core.hpp>
#include <resilience/detail/breaker_window.hpp>
#include <resilience/detail/run.hpp>
#include <resilience/error.hpp>
#include <resilience/events.hpp>
#include <resilience/outcome.hpp>

namespace resilience {

/// What a breaker tells those who watch. Each `on_…` returns a subscription whose destructor unsubscribes. Consumers
/// run in the thread that caused the event, with no lock held. Two threads may tell two quick transitions out of order:
/// a gauge reads `state()`.
class breaker_events {
 public:
  template <class Event>
  using consumer = std::function<void(const Event&)>;

  subscription on_transition(consumer<breaker_transition> f) { return transition_.subscribe(std::move(f)); }
  subscription on_failure_rate_exceeded(consumer<breaker_rate_exceeded> f) {
    return failure_rate_.subscribe(std::move(f));
  }
  subscription on_slow_call_rate_exceeded(consumer<breaker_rate_exceeded> f) {
    return slow_call_rate_.subscribe(std::move(f));
  }
  subscription on_not_permitted(consumer<breaker_not_permitted> f) { return not_permitted_.subscribe(std::move(f)); }
  subscription on_reset(consumer<breaker_reset> f) { return reset_.subscribe(std::move(f)); }
  /// Every finished call. While somebody watches, calls are timed even where the breaker need not know.
  subscription on_call(consumer<breaker_call> f) { return call_.subscribe(std::move(f)); }

  /// The last 100 events but on_call, oldest first.
  [[nodiscard]] std::vector<breaker_event> recent() const { return recent_.recent(); }

 private:
  template <clock_source Clock>
  friend class basic_circuit_breaker;

  void publish(std::string_view policy, const breaker_event& e) const noexcept {
    switch (e.type) {
      case breaker_event_type::transition:
        return transition_.publish({policy, e.from, e.to, e.at});
      case breaker_event_type::failure_rate_exceeded:
        return failure_rate_.publish({policy, e.rate, e.at});
      case breaker_event_type::slow_call_rate_exceeded:
        return slow_call_rate_.publish({policy, e.rate, e.at});
      case breaker_event_type::not_permitted:
        return not_permitted_.publish({policy, e.at});
      case breaker_event_type::reset:
        return reset_.publish({policy, e.at});
    }
  }

  signal<breaker_transition> transition_;
  signal<breaker_rate_exceeded> failure_rate_;
  signal<breaker_rate_exceeded> slow_call_rate_;
  signal<breaker_not_permitted> not_permitted_;
  signal<breaker_reset> reset_;
  signal<breaker_call> call_;
  event_ring<breaker_event> recent_;
};

/// A circuit breaker. `execute` and `async_execute` call under it; `try_acquire` is for calls that do not fit a
/// function.
///
/// Threads: any. Closed, disabled and metrics_only admit, and open and forced_open refuse, without a lock; so are
/// outcomes recorded in a window of calls. A window of seconds takes a short lock per outcome, half-open per probe.
/// Cost: no allocation, unless a state changes or somebody watches. The clock is read twice per call, not at all when
/// `slow_call` is `nanoseconds::max()`, the window one of calls and on_call not watched.
///
/// Changes of state due at a time (`automatic_half_open`, the end of `half_open_for`) hold from that time on for
/// whoever looks; there is no timer, so their events come with the first look after it.
template <clock_source Clock>
class basic_circuit_breaker : public detail::policy_base<basic_circuit_breaker<Clock>> {
 public:
  /// What a finished call says about the one called. Asked for all outcomes but our own rejections and cancellations,
  /// which abandon the call. Not recorded as a failure is a success, unless ignored.
  using classifier = std::function<verdict(const outcome&)>;

  /// A call admitted, which has to say what came of it. The first verdict stands; a permit destroyed without one is
  /// abandoned: a probe's place is given back and nothing recorded. A verdict on a call that was admitted before the
  /// last change of state changes nothing. Must not outlive the breaker. Threads: one at a time.
  class [[nodiscard]] permit {
   public:
    permit(permit&& other) noexcept
        : breaker_(std::exchange(other.breaker_, nullptr)), word_(other.word_), started_(other.started_) {}
    permit& operator=(permit&& other) noexcept {
      if (this != &other) {
        abandon();
        breaker_ = std::exchange(other.breaker_, nullptr);
        word_ = other.word_;
        started_ = other.started_;
      }
      return *this;
    }
    ~permit() { abandon(); }

    /// Without a duration, the time since the permit was granted counts, where calls are timed.
    void success() noexcept { finish(verdict::success, {}); }
    void failure() noexcept { finish(verdict::failure, {}); }
    void ignore() noexcept { finish(verdict::ignore, {}); }
    void success(std::chrono::nanoseconds took) noexcept { finish(verdict::success, {}, took); }
    void failure(std::chrono::nanoseconds took) noexcept { finish(verdict::failure, {}, took); }
    void ignore(std::chrono::nanoseconds took) noexcept { finish(verdict::ignore, {}, took); }

    /// Gives the verdict of the breaker's classifier; our own rejections and cancellations abandon.
    /// Exceptions: those of the classifier, and then no verdict has been given.
    void settle(const outcome& o) { judge(o, std::nullopt); }
    void settle(const outcome& o, std::chrono::nanoseconds took) { judge(o, took); }

   private:
    friend basic_circuit_breaker;
    static constexpr time_point untimed = time_point::min();

    permit(basic_circuit_breaker& breaker, std::uint64_t word, time_point started) noexcept
        : breaker_(&breaker), word_(word), started_(started) {}

    void judge(const outcome& o, std::optional<std::chrono::nanoseconds> took) {
      if (!breaker_) return;
      if (!breaker_->classify_ && o.ok()) return finish(verdict::success, {}, took);
      judge_other(o, took);
    }
    [[gnu::noinline]] void judge_other(const outcome& o, std::optional<std::chrono::nanoseconds> took) {
      if (is_rejection(o.error) || is_cancellation(o.error)) return abandon();
      finish(breaker_->classify_ ? breaker_->classify_(o) : classify(o), o.error, took);
    }
    void finish(verdict v, const std::error_code& error,
                std::optional<std::chrono::nanoseconds> took = std::nullopt) noexcept {
      if (auto* const breaker = std::exchange(breaker_, nullptr)) breaker->finish(word_, v, started_, took, error);
    }
    void abandon() noexcept {
      if (auto* const breaker = std::exchange(breaker_, nullptr)) breaker->abandon(word_);
    }

    basic_circuit_breaker* breaker_;
    std::uint64_t word_;
    time_point started_;
  };

  /// Exceptions: std::invalid_argument for a configuration that `check` refuses.
  explicit basic_circuit_breaker(std::string name, circuit_breaker_config config = {}, Clock clock = {},
                                 classifier classify = {})
      : clock_(std::move(clock)),
        classify_(std::move(classify)),
        name_(std::move(name)),
        core_(detail::checked(config), clock_.now()),
        window_(config, core_.word()) {
    set_measures(config);
    set_times();
    core_.take_emptied();
  }
  basic_circuit_breaker(const basic_circuit_breaker&) = delete;
  basic_circuit_breaker& operator=(const basic_circuit_breaker&) = delete;

  /// Asks for one call, without waiting.
  ///
  /// Errors: errc::circuit_open; retry_after is the rest of the wait, 0 in forced_open and when all probes are out.
  std::expected<permit, rejection> try_acquire() noexcept {
    const std::uint64_t word = window_.state();
    switch (detail::state_of(word)) {
      case breaker_state::closed:
      case breaker_state::metrics_only:
      case breaker_state::disabled:
        return permit{*this, word, start()};
      default:
        return try_acquire_other(word);
    }
  }

  [[nodiscard]] breaker_state state() const noexcept {
    const breaker_state s = detail::state_of(window_.state());
    if (s == breaker_state::open || s == breaker_state::half_open) {
      const auto due = time_point{std::chrono::nanoseconds{due_.load(std::memory_order_acquire)}};
      if (due != time_point::max() && clock_.now() >= due) {
        return self().locked([&](time_point, auto&) { return core_.state(); });
      }
    }
    return s;
  }

  /// Of this moment: a window of seconds ages here too. One short lock.
  [[nodiscard]] breaker_metrics metrics() const {
    return self().locked([&](time_point now, auto&) {
      const detail::call_counts* const probes = core_.probes();
      const detail::call_counts c = probes ? *probes : self().window_.counts(now);
      const int needed = probes ? core_.probes_needed() : window_.rule().min_calls();
      breaker_metrics m{.calls = c.calls,
                        .failed_calls = c.failed,
                        .slow_calls = c.slow,
                        .slow_failed_calls = c.slow_failed,
                        .not_permitted_calls = not_permitted_.load(std::memory_order_relaxed)};
      if (c.calls >= needed) {
        m.failure_rate = detail::share(c.failed, c.calls);
        m.slow_call_rate = detail::share(c.slow, c.calls);
      }
      return m;
    });
  }

  /// Changes the state by hand. The same state is no event: open starts its wait anew, half-open its limit, others go
  /// on as they are.
  /// Exceptions: std::logic_error from closed or metrics_only to half_open, and from metrics_only to open.
  void transition_to(breaker_state to) {
    const auto refused = locked([&](time_point now, auto& news) -> std::optional<breaker_state> {
      if (!core_.allows(to)) return core_.state();
      if (to != core_.state()) halt(now, news);
      core_.transition_to(to, now, news);
      return std::nullopt;
    });
    if (refused) {
      throw std::logic_error("circuit breaker " + name_ + ": no transition from " + std::string(to_string(*refused)) +
                             " to " + std::string(to_string(to)));
    }
  }

  /// Back to closed with an empty window.
  void reset() {
    locked([&](time_point now, auto& news) {
      halt(now, news);
      core_.reset(now, news);
      return true;
    });
  }

  /// Changes the configuration of a breaker in use: the state, a wait that has begun, permits given out and the newest
  /// outcomes of the window stay (a window of calls that becomes one of seconds, or the reverse, starts empty).
  /// `initial_state` means nothing here. Exceptions: std::invalid_argument, as the constructor.
  void configure(const circuit_breaker_config& config) {
    detail::checked(config);
    locked([&](time_point now, auto& news) {
      halt(now, news);
      apply();
      window_.reconfigure(config, now);
      core_.reconfigure(config, now, news);
      set_measures(config);
      return true;
    });
  }

  [[nodiscard]] const std::string& name() const noexcept { return name_; }
  [[nodiscard]] circuit_breaker_config config() const {
    const std::lock_guard lock(mutex_);
    return core_.config();
  }
  [[nodiscard]] breaker_events& events() noexcept { return events_; }
  [[nodiscard]] const breaker_events& events() const noexcept { return events_; }

  /// The policy itself, for `execute` and `pipeline`; see detail/run.hpp.
  template <class Next>
  auto run(detail::call_context& call, Next&& next) -> std::invoke_result_t<Next&, detail::call_context&> {
    auto admitted = try_acquire();
    if (!admitted) return detail::refuse<std::invoke_result_t<Next&, detail::call_context&>>(admitted.error());
    return detail::run_settled(*admitted, call, next, [](permit& p, const outcome& o) { p.settle(o); });
  }

  /// The same for awaitables. Cancellation: the call is abandoned and its permit given back.
  template <class Next>
  auto async_run(detail::call_context call, Next next) -> std::invoke_result_t<Next&, detail::call_context> {
    using traits = detail::async_traits<std::invoke_result_t<Next&, detail::call_context>>;
    using value = typename traits::value_type;
    auto admitted = try_acquire();
    if (!admitted) co_return detail::refuse<value>(admitted.error());
    permit held = std::move(*admitted);
    try {
      if constexpr (std::is_void_v<value>) {
        co_await next(call);
        held.settle(outcome{});
      } else {
        value result = co_await next(call);
        const outcome came_of_it{detail::error_of(result), nullptr};
        held.settle(came_of_it);
        co_return result;
      }
    } catch (...) {
      const outcome came_of_it{traits::code_of_current_exception(), std::current_exception()};
      held.settle(came_of_it);
      throw;
    }
  }

 private:
  /// Looking lets changes happen that are due, so observers need what they observe unconst.
  basic_circuit_breaker& self() const noexcept { return const_cast<basic_circuit_breaker&>(*this); }

  /// When a call began that is to be timed.
  [[nodiscard]] time_point start() const noexcept {
    if (timed_.load(std::memory_order_relaxed) || events_.call_.watched()) return clock_.now();
    return permit::untimed;
  }

  [[gnu::noinline]] std::expected<permit, rejection> try_acquire_other(std::uint64_t word) noexcept {
    if (detail::state_of(word) == breaker_state::forced_open) {
      not_permitted_.fetch_add(1, std::memory_order_relaxed);
      return std::unexpected(rejection{errc::circuit_open, name_, {}});
    }
    if (detail::state_of(word) == breaker_state::open) {
      const time_point until{std::chrono::nanoseconds{open_until_.load(std::memory_order_acquire)}};
      const time_point now = clock_.now();
      if (now < until) return refuse(now, until - now);
    }
    time_point asked{};
    const auto admitted = locked([&](time_point now, auto& news) {
      asked = now;
      auto answer = core_.admit(now, news);
      word = core_.word();
      return answer;
    });
    if (admitted) return permit{*this, word, asked};
    if (detail::state_of(word) == breaker_state::forced_open) return try_acquire_other(word);
    return refuse(asked, admitted.error());
  }

  std::expected<permit, rejection> refuse(time_point now, std::chrono::nanoseconds retry_after) noexcept {
    not_permitted_.fetch_add(1, std::memory_order_relaxed);
    tell({.type = breaker_event_type::not_permitted, .at = now});
    return std::unexpected(rejection{errc::circuit_open, name_, retry_after});
  }

  void finish(std::uint64_t word, verdict v, time_point started, std::optional<std::chrono::nanoseconds> given,
              const std::error_code& error) noexcept {
    const breaker_state admitted_in = detail::state_of(word);
    if (admitted_in == breaker_state::disabled) return;
    std::chrono::nanoseconds took{0};
    if (given) {
      took = *given;
    } else if (started != permit::untimed) {
      took = clock_.now() - started;
    }
    if (v == verdict::ignore) {
      abandon(word);
    } else {
      const auto slow_call = std::chrono::nanoseconds{slow_call_.load(std::memory_order_relaxed)};
      const unsigned outcome_bits =
          (v == verdict::failure ? detail::failed_bit : 0) | (took > slow_call ? detail::slow_bit : 0);
      if (admitted_in == breaker_state::half_open) {
        finish_probe(word, outcome_bits);
      } else {
        record(word, outcome_bits);
      }
    }
    if (events_.call_.watched()) events_.call_.publish({name_, v, took, error});
  }

  void abandon(std::uint64_t word) noexcept {
    if (detail::state_of(word) == breaker_state::half_open) give_back(word);
  }

  [[gnu::noinline]] void give_back(std::uint64_t word) noexcept {
    locked([&](time_point, auto&) {
      if (core_.word() == word) core_.give_back();
      return true;
    });
  }

  [[gnu::noinline]] void finish_probe(std::uint64_t word, unsigned outcome_bits) noexcept {
    locked([&](time_point now, auto& news) {
      if (core_.word() == word) core_.probed(outcome_bits, now, news);
      return true;
    });
  }

  /// Most records end here, without a lock.
  void record(std::uint64_t word, unsigned outcome_bits) noexcept {
    const detail::record_result r = window_.record(word, outcome_bits);
    if (!done(r)) record_other(word, outcome_bits, r);
  }

  [[nodiscard]] bool done(const detail::record_result& r) const noexcept {
    return r.status == detail::record_status::stale ||
           (r.status == detail::record_status::recorded && (r.exceeded & ~told_.load(std::memory_order_relaxed)) == 0);
  }

  /// Takes the lock for what `r` asks for, and then records if that has not been done.
  [[gnu::noinline]] void record_other(std::uint64_t word, unsigned outcome_bits, detail::record_result r) noexcept {
    for (;;) {
      if (r.status == detail::record_status::frozen && window_.by_time()) {
        if (record_by_time(word, outcome_bits)) return;
      } else {
        locked([&](time_point now, auto& news) {  // a change of state that is under way ends here
          if (r.status == detail::record_status::recorded && core_.word() == word) {
            tell_exceeded(r.exceeded, now, news);
          }
          return true;
        });
        if (r.status != detail::record_status::frozen) return;
      }
      r = window_.record(word, outcome_bits);
      if (done(r)) return;
    }
  }

  /// Returns false if the window is no longer one of seconds.
  bool record_by_time(std::uint64_t word, unsigned outcome_bits) noexcept {
    return locked([&](time_point now, auto& news) {
      if (!window_.by_time()) return false;
      if (core_.word() != word) return true;
      const detail::record_result r = window_.record_at(now, word, outcome_bits);
      if (r.exceeded != 0) tell_exceeded(r.exceeded, now, news);
      return true;
    });
  }

  /// Locked.
  void tell_exceeded(unsigned exceeded, time_point now, detail::breaker_news& news) noexcept {
    const detail::call_counts c = window_.counts(now);
    exceeded &= window_.rule().exceeded(c.calls, c.failed, c.slow);  // others may have recorded since
    if (exceeded == 0) return;
    core_.exceed(exceeded, c, now, news);
    told_.store(core_.told(), std::memory_order_relaxed);
  }

  /// Locked: opens if a record has tripped the window.
  void trip(time_point now, detail::breaker_news& news) noexcept {
    const detail::call_counts c = window_.counts(now);
    core_.exceed(window_.rule().exceeded(c.calls, c.failed, c.slow), c, now, news);
  }

  /// Locked: stops recording before a change, and lets a record that came just before have its effect.
  void halt(time_point now, detail::breaker_news& news) noexcept {
    if (core_.state() == breaker_state::closed && window_.halt()) trip(now, news);
  }

  /// Runs `step(now, news)` under the lock, after all that was to happen before, and tells the news once unlocked.
  template <class Step>
  auto locked(Step step) {
    detail::breaker_news news;
    std::unique_lock lock(mutex_);
    const time_point now = clock_.now();
    if (window_.tripped()) trip(now, news);
    core_.catch_up(now, news);
    const auto answer = step(now, news);
    apply();
    for (const breaker_event& e : news.events()) events_.recent_.push(e);
    lock.unlock();
    for (const breaker_event& e : news.events()) events_.publish(name_, e);
    return answer;
  }

  /// Locked: makes the state of the rules the one that all threads see.
  void apply() noexcept {
    set_times();
    if (core_.word() == window_.state()) return;
    const bool emptied = core_.take_emptied();
    window_.enter(core_.word(), emptied);
    if (emptied) not_permitted_.store(0, std::memory_order_relaxed);
    told_.store(core_.told(), std::memory_order_relaxed);
  }

  void set_times() noexcept {
    open_until_.store(core_.open_until().time_since_epoch().count(), std::memory_order_release);
    due_.store(core_.due().time_since_epoch().count(), std::memory_order_release);
  }

  void set_measures(const circuit_breaker_config& config) noexcept {
    slow_call_.store(config.slow_call.count(), std::memory_order_relaxed);
    timed_.store(config.slow_call != std::chrono::nanoseconds::max(), std::memory_order_relaxed);
  }

  void tell(const breaker_event& e) noexcept {
    events_.recent_.push(e);
    events_.publish(name_, e);
  }

  [[no_unique_address]] Clock clock_;
  const classifier classify_;
  const std::string name_;
  std::atomic<std::int64_t> slow_call_ = 0;   ///< Nanoseconds.
  std::atomic<bool> timed_ = true;            ///< Whether calls have to be timed.
  std::atomic<unsigned> told_ = 0;            ///< What metrics_only has told.
  std::atomic<std::int64_t> open_until_ = 0;  ///< Of the clock, in nanoseconds.
  std::atomic<std::int64_t> due_ = 0;         ///< When the state changes by itself.
  mutable std::mutex mutex_;                  ///< Guards core_ and the changes of window_.
  detail::breaker_core core_;
  detail::breaker_window<> window_;
  std::atomic<std::int64_t> not_permitted_ = 0;
  breaker_events events_;
};

using circuit_breaker = basic_circuit_breaker<std::chrono::steady_clock>;

}  // namespace resilience
