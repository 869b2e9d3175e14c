#pragma once
/// Lets so many calls through in each period: evenly (GCRA), or window by window.

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <expected>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <resilience/clock.hpp>
#include <resilience/detail/gcra.hpp>
#include <resilience/detail/run.hpp>
#include <resilience/error.hpp>
#include <resilience/events.hpp>
#include <resilience/outcome.hpp>
#include <resilience/units.hpp>

namespace resilience {

/// smooth: tokens come back evenly. fixed_window: all of them at the start of each period, counted from construction.
enum class limiter_mode : std::uint8_t { smooth, fixed_window };

struct rate_limiter_config {
  /// At least 1 call in a period of more than zero.
  rate limit = per_second(50);
  /// Calls that may come at once after a pause. 0: as many as the limit has. A fixed window has no burst but its limit.
  int burst = 0;
  /// How long `reserve` and `execute` may wait for a token. Not negative.
  std::chrono::nanoseconds max_wait{};
  limiter_mode mode = limiter_mode::smooth;

  friend constexpr bool operator==(const rate_limiter_config&, const rate_limiter_config&) = default;
};
static_assert(std::is_trivially_copyable_v<rate_limiter_config>);

/// Returns the first broken bound, or nothing when `c` can be used.
constexpr std::optional<config_error> check(const rate_limiter_config& c) noexcept {
  using std::chrono::nanoseconds;
  if (c.limit.calls < 1) return config_error{"limit", "be at least 1 call", static_cast<double>(c.limit.calls)};
  if (c.limit.period <= nanoseconds::zero()) {
    return config_error{"limit", "have a period of more than 0", c.limit.period};
  }
  if (c.burst < 0) return config_error{"burst", "be at least 0", static_cast<double>(c.burst)};
  if (c.max_wait < nanoseconds::zero()) return config_error{"max_wait", "be at least 0", c.max_wait};
  return std::nullopt;
}
static_assert(!check(rate_limiter_config{}), "the defaults must be usable");

enum class rate_limiter_event_type : std::uint8_t { acquired, rejected };

struct rate_limiter_event {
  std::string_view policy;
  rate_limiter_event_type type;
  int calls;                      ///< Tokens asked for.
  std::chrono::nanoseconds wait;  ///< acquired: until the tokens are there. rejected: `retry_after`.
  time_point at;
};

/// What a limiter tells those who watch it. Consumers run with no lock held.
class rate_limiter_events {
 public:
  subscription on_acquired(signal<rate_limiter_event>::consumer call) { return acquired_.subscribe(std::move(call)); }
  subscription on_rejected(signal<rate_limiter_event>::consumer call) { return rejected_.subscribe(std::move(call)); }
  /// The last 100, oldest first.
  [[nodiscard]] std::vector<rate_limiter_event> recent() const { return ring_.recent(); }

  /// For limiters.
  void publish(const rate_limiter_event& event) noexcept {
    ring_.push(event);
    (event.type == rate_limiter_event_type::acquired ? acquired_ : rejected_).publish(event);
  }

 private:
  signal<rate_limiter_event> acquired_;
  signal<rate_limiter_event> rejected_;
  event_ring<rate_limiter_event> ring_;
};

struct rate_limiter_metrics {
  int available_permissions = 0;  ///< Whole tokens; negative when owed to those who wait.
  int waiting = 0;                ///< Calls that wait for their token now.
  std::uint64_t granted = 0;      ///< Acquisitions, of whatever number of tokens.
  std::uint64_t rejected = 0;
  std::chrono::nanoseconds waited{};  ///< Total of the waits granted.
};

/// What is left, and how long nobody must call for it to be full: the numbers of a `RateLimit` header.
struct limiter_level {
  int tokens = 0;
  std::chrono::nanoseconds until_full{};
};

/// Threads: any; acquiring is lock-free and allocates nothing. A token is spent when granted, whatever becomes of the
/// call. Lives longer than its permits.
template <clock_source Clock = std::chrono::steady_clock>
class basic_rate_limiter : public detail::policy_base<basic_rate_limiter<Clock>> {
 public:
  /// Proof of tokens spent. Nothing hangs on its verdict.
  class [[nodiscard]] permit {
   public:
    permit(permit&&) noexcept = default;
    permit& operator=(permit&&) noexcept = default;
    void success(std::chrono::nanoseconds = {}) noexcept {}
    void failure(std::chrono::nanoseconds = {}) noexcept {}
    void ignore(std::chrono::nanoseconds = {}) noexcept {}

   private:
    friend basic_rate_limiter;
    permit() = default;
  };

  /// Throws std::invalid_argument when `config` breaks a bound.
  explicit basic_rate_limiter(std::string name, rate_limiter_config config = {}, Clock clock = {})
      : name_(std::move(name)),
        clock_(std::move(clock)),
        start_(clock_.now()),
        config_(detail::checked(config)),
        max_wait_(config.max_wait.count()),
        gcra_(terms(config, start_)) {}
  basic_rate_limiter(const basic_rate_limiter&) = delete;
  basic_rate_limiter& operator=(const basic_rate_limiter&) = delete;

  /// Takes `n` tokens without waiting, or says after what time they would be there.
  /// Errors: errc::rate_limited; `retry_after` 0 when `n` is more than can be stored.
  /// Throws std::invalid_argument for n < 1, as do the others.
  std::expected<permit, rejection> try_acquire(int n = 1) {
    const auto taken = reserve(n, std::chrono::nanoseconds::zero());
    if (!taken) return std::unexpected(taken.error());
    return permit{};
  }

  /// Takes `n` tokens that are there within the configuration's `max_wait`, now or later: the caller waits for as long
  /// as this returns before it calls, or gives them back with `cancel`. A rejection takes nothing; its `retry_after` is
  /// what is needed beyond `max_wait`.
  std::expected<std::chrono::nanoseconds, rejection> reserve(int n = 1) { return reserve(n, max_wait()); }

  /// The same with a wait of one's own.
  std::expected<std::chrono::nanoseconds, rejection> reserve(int n, std::chrono::nanoseconds max_wait) {
    if (n < 1) throw std::invalid_argument("the number of tokens must be at least 1, not " + std::to_string(n));
    const time_point now = clock_.now();
    const detail::gcra::answer answer = gcra_.acquire(n, now, std::max(max_wait, std::chrono::nanoseconds::zero()));
    if (answer.granted) {
      granted_.fetch_add(1, std::memory_order_relaxed);
      if (answer.wait.count() != 0) waited_.fetch_add(answer.wait.count(), std::memory_order_relaxed);
      events_.publish({name_, rate_limiter_event_type::acquired, n, answer.wait, now});
      return answer.wait;
    }
    rejected_.fetch_add(1, std::memory_order_relaxed);
    const std::chrono::nanoseconds beyond = answer.never ? std::chrono::nanoseconds::zero() : answer.wait - max_wait;
    events_.publish({name_, rate_limiter_event_type::rejected, n, beyond, now});
    return std::unexpected(rejection{errc::rate_limited, name_, beyond});
  }

  /// Gives back what `reserve` granted to a caller that no longer wants to wait.
  void cancel(int n = 1) noexcept { gcra_.give_back(n, clock_.now()); }

  /// Takes `n` tokens, blocking until they are there. One that can't be there by `deadline` is refused at once.
  std::expected<permit, rejection> acquire(int n, time_point deadline) {
    const auto wait = reserve(n, left(deadline));
    if (!wait) return std::unexpected(wait.error());
    block(*wait);
    return permit{};
  }

  /// Whole tokens that could be taken now; negative when owed to those who wait.
  [[nodiscard]] int available() const noexcept { return level().tokens; }

  [[nodiscard]] limiter_level level() const noexcept {
    const detail::gcra::level level = gcra_.look(clock_.now());
    return {static_cast<int>(std::clamp<std::int64_t>(level.tokens, INT32_MIN, INT32_MAX)), level.until_full};
  }

  /// Changes the limit and keeps what is owed, and what is stored up to the new burst; a burst left at its default
  /// follows. In windows a raised limit holds from the next one. Throws std::invalid_argument as the constructor.
  void set_limit(rate limit) {
    const std::lock_guard lock(mutex_);
    rate_limiter_config next = config_;
    next.limit = limit;
    change(next);
  }

  /// Changes everything, and keeps tokens as `set_limit` does.
  void configure(const rate_limiter_config& config) {
    const std::lock_guard lock(mutex_);
    change(config);
  }

  /// Takes all stored tokens away.
  void drain() noexcept { gcra_.drain(clock_.now()); }

  [[nodiscard]] std::string_view name() const noexcept { return name_; }
  [[nodiscard]] rate_limiter_config config() const {
    const std::lock_guard lock(mutex_);
    return config_;
  }
  [[nodiscard]] rate_limiter_events& events() noexcept { return events_; }
  [[nodiscard]] rate_limiter_metrics metrics() const noexcept {
    return {.available_permissions = available(),
            .waiting = waiting_.load(std::memory_order_relaxed),
            .granted = granted_.load(std::memory_order_relaxed),
            .rejected = rejected_.load(std::memory_order_relaxed),
            .waited = std::chrono::nanoseconds{waited_.load(std::memory_order_relaxed)}};
  }

  /// For pipelines: waits for at most `max_wait`, and never to the call's deadline or past it.
  template <class Next>
  auto run(detail::call_context& call, Next&& next) -> std::invoke_result_t<Next&, detail::call_context&> {
    const auto wait = reserve(1, allowed(call));
    if (!wait) return detail::refuse<std::invoke_result_t<Next&, detail::call_context&>>(wait.error());
    block(*wait);
    return next(call);
  }

  /// Cancellation: terminal and total; a call cancelled while it waits gives its token back.
  template <class Next>
  auto async_run(detail::call_context call, Next next) -> std::invoke_result_t<Next&, detail::call_context> {
    using awaitable = std::invoke_result_t<Next&, detail::call_context>;
    const auto wait = reserve(1, allowed(call));
    if (!wait) co_return detail::refuse<detail::awaited_t<awaitable>>(wait.error());
    if (wait->count() > 0) {
      pending waiter(*this);
      co_await detail::async_traits<awaitable>::sleep_for(*wait);
      waiter.done();
    }
    if constexpr (std::is_void_v<detail::awaited_t<awaitable>>) {
      co_await next(call);
    } else {
      auto result = co_await next(call);
      co_return result;
    }
  }

 private:
  /// A reservation that is waited for; one that isn't waited out is given back.
  class pending {
   public:
    explicit pending(basic_rate_limiter& owner) noexcept : owner_(owner) {
      owner_.waiting_.fetch_add(1, std::memory_order_relaxed);
    }
    ~pending() {
      owner_.waiting_.fetch_sub(1, std::memory_order_relaxed);
      if (!done_) owner_.cancel();
    }
    pending(const pending&) = delete;
    pending& operator=(const pending&) = delete;
    void done() noexcept { done_ = true; }

   private:
    basic_rate_limiter& owner_;
    bool done_ = false;
  };

  detail::gcra_terms terms(const rate_limiter_config& c, time_point now) const noexcept {
    if (c.mode == limiter_mode::fixed_window) return detail::window_terms(c.limit, start_, now);
    return detail::smooth_terms(c.limit, c.burst == 0 ? c.limit.calls : c.burst, now);
  }

  void change(const rate_limiter_config& next) {
    detail::checked(next);
    const time_point now = clock_.now();
    gcra_.publish(terms(next, now), now, detail::gcra::keep::tokens);
    max_wait_.store(next.max_wait.count(), std::memory_order_relaxed);
    config_ = next;
  }

  [[nodiscard]] std::chrono::nanoseconds max_wait() const noexcept {
    return std::chrono::nanoseconds{max_wait_.load(std::memory_order_relaxed)};
  }
  [[nodiscard]] std::chrono::nanoseconds left(time_point deadline) const noexcept {
    return std::max(deadline - clock_.now(), std::chrono::nanoseconds::zero());
  }
  [[nodiscard]] std::chrono::nanoseconds allowed(const detail::call_context& call) const noexcept {
    const std::chrono::nanoseconds most = max_wait();
    return call.deadline && most.count() != 0 ? std::min(most, left(*call.deadline)) : most;
  }

  void block(std::chrono::nanoseconds wait) {
    if (wait.count() <= 0) return;
    pending waiter(*this);
    detail::sleep_for(clock_, wait);
    waiter.done();
  }

  const std::string name_;
  [[no_unique_address]] Clock clock_;
  const time_point start_;
  mutable std::mutex mutex_;  // of config_ and its changes
  rate_limiter_config config_;
  std::atomic<std::int64_t> max_wait_;
  detail::gcra gcra_;
  alignas(64) std::atomic<std::uint64_t> granted_ = 0;
  std::atomic<std::uint64_t> rejected_ = 0;
  std::atomic<std::int64_t> waited_ = 0;
  std::atomic<int> waiting_ = 0;
  rate_limiter_events events_;
};

using rate_limiter = basic_rate_limiter<std::chrono::steady_clock>;

}  // namespace resilience
