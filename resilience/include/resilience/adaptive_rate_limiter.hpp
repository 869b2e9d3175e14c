#pragma once
/// A rate limiter that finds the rate by itself: what the target fails at and how loaded it is decide, between bounds.

#include <algorithm>
#include <atomic>
#include <bit>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <exception>
#include <expected>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include <resilience/clock.hpp>
#include <resilience/detail/adaptive_rate.hpp>
#include <resilience/detail/gcra.hpp>
#include <resilience/detail/run.hpp>
#include <resilience/error.hpp>
#include <resilience/outcome.hpp>
#include <resilience/rate_limiter.hpp>
#include <resilience/units.hpp>

namespace resilience {

struct adaptive_rate_limiter_config {
  /// Never lower. At least 1 call in a period of more than zero, as the others.
  rate min_rate = per_second(5);
  /// Never higher. At least `min_rate`.
  rate max_rate = per_second(50);
  /// Where it begins; held between the other two.
  rate initial_rate = per_second(20);

  friend constexpr bool operator==(const adaptive_rate_limiter_config&, const adaptive_rate_limiter_config&) = default;
};
static_assert(std::is_trivially_copyable_v<adaptive_rate_limiter_config>);

/// Returns the first broken bound, or nothing when `c` can be used.
constexpr std::optional<config_error> check(const adaptive_rate_limiter_config& c) noexcept {
  const struct {
    std::string_view field;
    rate value;
  } rates[] = {{"min_rate", c.min_rate}, {"max_rate", c.max_rate}, {"initial_rate", c.initial_rate}};
  for (const auto& [field, value] : rates) {
    if (value.calls < 1) return config_error{field, "be at least 1 call", static_cast<double>(value.calls)};
    if (value.period <= std::chrono::nanoseconds::zero()) {
      return config_error{field, "have a period of more than 0", value.period};
    }
  }
  if (c.max_rate.per_second() < c.min_rate.per_second()) {
    return config_error{"max_rate", "be at least min_rate", c.max_rate.per_second()};
  }
  return std::nullopt;
}
static_assert(!check(adaptive_rate_limiter_config{}), "the defaults must be usable");

/// Which of the two loops, or which bound, makes the rate what it is.
enum class adaptive_binding : std::uint8_t { error_loop, load_loop, min_rate, max_rate };

/// Why the rate is what it is. Rates are calls per second.
struct adaptive_explanation {
  double rate;
  double error_loop_limit;
  double load_loop_limit;
  adaptive_binding binding;
  std::optional<adaptive_cut> last_cut;
};

/// Threads: any. Admission is lock-free; a verdict, and the half-second's tick that some call or look carries out, take
/// a short lock. Allocates nothing. Lives longer than its permits.
template <clock_source Clock = std::chrono::steady_clock>
class basic_adaptive_rate_limiter : public detail::policy_base<basic_adaptive_rate_limiter<Clock>> {
 public:
  /// A token spent, and a verdict to come that the limiter learns from. The first verdict counts; one that is dropped
  /// without a verdict says nothing.
  class [[nodiscard]] permit {
   public:
    permit(permit&& other) noexcept : owner_(std::exchange(other.owner_, nullptr)), admission_(other.admission_) {}
    permit& operator=(permit&& other) noexcept {
      owner_ = std::exchange(other.owner_, nullptr);
      admission_ = other.admission_;
      return *this;
    }

    /// Anything but overload; a client's mistake too.
    void success(std::chrono::nanoseconds = {}) noexcept { tell(false); }
    /// What means overload: a timeout, 5xx, 429, a failed connection.
    void failure(std::chrono::nanoseconds = {}) noexcept { tell(true); }
    void ignore(std::chrono::nanoseconds = {}) noexcept { owner_ = nullptr; }
    /// The verdict that `classify` gives; every failure means overload.
    void settle(const outcome& o) noexcept {
      switch (classify(o)) {
        case verdict::success:
          return success();
        case verdict::failure:
          return failure();
        case verdict::ignore:
          return ignore();
      }
    }

   private:
    friend basic_adaptive_rate_limiter;
    permit(basic_adaptive_rate_limiter& owner, detail::adaptive_admission admission) noexcept
        : owner_(&owner), admission_(admission) {}
    void tell(bool overload) noexcept {
      if (auto* owner = std::exchange(owner_, nullptr)) owner->finished(admission_, overload);
    }

    basic_adaptive_rate_limiter* owner_;
    detail::adaptive_admission admission_;
  };

  /// Throws std::invalid_argument when `config` breaks a bound. `law` is for tests.
  explicit basic_adaptive_rate_limiter(std::string name, adaptive_rate_limiter_config config = {}, Clock clock = {},
                                       detail::adaptive_law law = {})
      : name_(std::move(name)),
        clock_(std::move(clock)),
        config_(detail::checked(config)),
        core_(config.min_rate.per_second(), config.max_rate.per_second(), config.initial_rate.per_second(), law),
        present_(present(core_)),
        tick_due_((clock_.now() + detail::adaptive_rate::tick).time_since_epoch().count()),
        gcra_(terms(core_.rate(), clock_.now())) {}
  basic_adaptive_rate_limiter(const basic_adaptive_rate_limiter&) = delete;
  basic_adaptive_rate_limiter& operator=(const basic_adaptive_rate_limiter&) = delete;

  /// Takes a token without waiting, or says after what time one would be there at the present rate.
  /// Errors: errc::rate_limited.
  std::expected<permit, rejection> try_acquire() {
    const time_point now = clock_.now();
    catch_up(now);
    const std::uint64_t present = present_.load(std::memory_order_relaxed);
    const detail::gcra::answer answer = gcra_.acquire(1, now, std::chrono::nanoseconds::zero());
    if (!answer.granted) {
      rejected_.fetch_add(1, std::memory_order_relaxed);
      events_.publish({name_, rate_limiter_event_type::rejected, 1, answer.wait, now});
      return std::unexpected(rejection{errc::rate_limited, name_, answer.wait});
    }
    granted_.fetch_add(1, std::memory_order_relaxed);
    events_.publish({name_, rate_limiter_event_type::acquired, 1, {}, now});
    const auto rate = std::bit_cast<float>(static_cast<std::uint32_t>(present));
    return permit(*this, {.at = now, .rate = rate, .epoch = static_cast<std::uint32_t>(present >> 32)});
  }

  /// Calls per second now.
  [[nodiscard]] double rate() const { return explain().rate; }

  /// How loaded the target is, 1 being fully: its own word, or what load_probe.hpp reads. About once a second; ten
  /// seconds of silence count as no load.
  void report_load(double utilisation) noexcept {
    const std::lock_guard lock(mutex_);
    const time_point now = clock_.now();
    core_.load(now, utilisation);
    pass_ticks(now);
  }

  [[nodiscard]] adaptive_explanation explain() const {
    const std::lock_guard lock(mutex_);
    pass_ticks(clock_.now());
    const auto binding = [this] {
      if (core_.rate() <= core_.min()) return adaptive_binding::min_rate;
      if (core_.rate() >= core_.max()) return adaptive_binding::max_rate;
      return core_.load_limit() < core_.error_limit() ? adaptive_binding::load_loop : adaptive_binding::error_loop;
    };
    return {core_.rate(), core_.error_limit(), core_.load_limit(), binding(), core_.last_cut()};
  }

  /// The breaker that guards the same target has opened: the rate stays as it is until `breaker_closed`.
  void breaker_opened() noexcept {
    const std::lock_guard lock(mutex_);
    pass_ticks(clock_.now());
    core_.freeze();
  }

  /// That breaker went from half-open to closed: the rate climbs again from `min_rate`. Does nothing when it was not
  /// open.
  void breaker_closed() noexcept {
    const std::lock_guard lock(mutex_);
    const time_point now = clock_.now();
    pass_ticks(now);
    core_.thaw(now);
    publish(now);
  }

  /// Changes the bounds; the learnt rate is held between them. `initial_rate` no longer matters.
  void configure(const adaptive_rate_limiter_config& config) {
    detail::checked(config);
    const std::lock_guard lock(mutex_);
    const time_point now = clock_.now();
    pass_ticks(now);
    core_.bound(config.min_rate.per_second(), config.max_rate.per_second());
    config_ = config;
    publish(now);
  }

  /// Whole tokens that could be taken now.
  [[nodiscard]] int available() const { return level().tokens; }
  [[nodiscard]] limiter_level level() const noexcept {
    const detail::gcra::level level = gcra_.look(clock_.now());
    return {static_cast<int>(level.tokens), level.until_full};
  }

  [[nodiscard]] std::string_view name() const noexcept { return name_; }
  [[nodiscard]] adaptive_rate_limiter_config config() const {
    const std::lock_guard lock(mutex_);
    return config_;
  }
  [[nodiscard]] rate_limiter_events& events() noexcept { return events_; }
  [[nodiscard]] rate_limiter_metrics metrics() const noexcept {
    return {.available_permissions = level().tokens,
            .waiting = 0,
            .granted = granted_.load(std::memory_order_relaxed),
            .rejected = rejected_.load(std::memory_order_relaxed),
            .waited = {}};
  }

  /// For pipelines. Never waits.
  template <class Next>
  auto run(detail::call_context& call, Next&& next) -> std::invoke_result_t<Next&, detail::call_context&> {
    auto held = try_acquire();
    if (!held) return detail::refuse<std::invoke_result_t<Next&, detail::call_context&>>(held.error());
    return detail::run_settled(*held, call, next, [](permit& p, const outcome& o) { p.settle(o); });
  }

  /// Cancellation: terminal and total; the token is spent, and the limiter learns nothing.
  template <class Next>
  auto async_run(detail::call_context call, Next next) -> std::invoke_result_t<Next&, detail::call_context> {
    using awaitable = std::invoke_result_t<Next&, detail::call_context>;
    using result_type = detail::awaited_t<awaitable>;
    auto held = try_acquire();
    if (!held) co_return detail::refuse<result_type>(held.error());
    try {
      if constexpr (std::is_void_v<result_type>) {
        co_await next(call);
        held->success();
      } else {
        result_type result = co_await next(call);
        held->settle(outcome{detail::error_of(result), nullptr});
        co_return result;
      }
    } catch (...) {
      held->settle(outcome{detail::async_traits<awaitable>::code_of_current_exception(), std::current_exception()});
      throw;
    }
  }

 private:
  /// Epoch and rate in one word, so that an admission reads both at once.
  static std::uint64_t present(const detail::adaptive_rate& core) noexcept {
    return static_cast<std::uint64_t>(core.epoch()) << 32 |
           std::bit_cast<std::uint32_t>(static_cast<float>(core.rate()));
  }

  static detail::gcra_terms terms(double per_second, time_point now) noexcept {
    const double apart = std::clamp(1e9 / per_second, 1.0, 1e18);
    const double burst = std::clamp(std::ceil(0.2 * per_second), 1.0, 1e9);
    return detail::smooth_terms({1, std::chrono::nanoseconds{std::llround(apart)}}, static_cast<int>(burst), now);
  }

  void finished(const detail::adaptive_admission& call, bool overload) noexcept {
    const std::lock_guard lock(mutex_);
    const time_point now = clock_.now();
    pass_ticks(now);
    core_.finished(now, call, overload);
    publish(now);
  }

  void catch_up(time_point now) const {
    if (now.time_since_epoch().count() < tick_due_.load(std::memory_order_relaxed)) return;
    const std::unique_lock lock(mutex_, std::try_to_lock);
    if (lock.owns_lock()) pass_ticks(now);
  }

  /// Under the lock. Long silence counts as a few idle ticks.
  void pass_ticks(time_point now) const noexcept {
    constexpr int most = 40;
    time_point due{std::chrono::nanoseconds{tick_due_.load(std::memory_order_relaxed)}};
    if (now < due) return;
    if (now - due > most * detail::adaptive_rate::tick) due = now - most * detail::adaptive_rate::tick;
    const std::uint64_t granted = granted_.load(std::memory_order_relaxed);
    const std::uint64_t rejected = rejected_.load(std::memory_order_relaxed);
    auto admitted = static_cast<std::int64_t>(granted - granted_before_);
    bool refused = rejected != rejected_before_;
    for (; due <= now; due += detail::adaptive_rate::tick) {
      core_.pass_tick(due, admitted, refused);
      admitted = 0;
      refused = false;
    }
    granted_before_ = granted;
    rejected_before_ = rejected;
    tick_due_.store(due.time_since_epoch().count(), std::memory_order_relaxed);
    publish(now);
  }

  /// Under the lock: makes admissions follow the rules.
  void publish(time_point now) const noexcept {
    const std::uint64_t next = present(core_);
    if (next == present_.load(std::memory_order_relaxed)) return;
    present_.store(next, std::memory_order_relaxed);
    gcra_.publish(terms(core_.rate(), now), now, detail::gcra::keep::time);
  }

  const std::string name_;
  [[no_unique_address]] Clock clock_;
  // Time passes for whoever looks, so what time changes is mutable.
  mutable std::mutex mutex_;
  adaptive_rate_limiter_config config_;
  mutable detail::adaptive_rate core_;
  mutable std::uint64_t granted_before_ = 0;
  mutable std::uint64_t rejected_before_ = 0;
  mutable std::atomic<std::uint64_t> present_;
  mutable std::atomic<std::int64_t> tick_due_;
  mutable detail::gcra gcra_;
  alignas(64) std::atomic<std::uint64_t> granted_ = 0;
  std::atomic<std::uint64_t> rejected_ = 0;
  rate_limiter_events events_;
};

using adaptive_rate_limiter = basic_adaptive_rate_limiter<std::chrono::steady_clock>;

}  // namespace resilience
