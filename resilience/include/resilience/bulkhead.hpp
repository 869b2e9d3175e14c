#pragma once
/// Lets so many calls run at a time; the others wait in line for a while, or are refused.

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <expected>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <resilience/clock.hpp>
#include <resilience/detail/run.hpp>
#include <resilience/detail/semaphore.hpp>
#include <resilience/error.hpp>
#include <resilience/events.hpp>
#include <resilience/outcome.hpp>

namespace resilience {

struct bulkhead_config {
  /// Calls that may run at a time. At least 0, which refuses all.
  int max_concurrent = 25;
  /// How long `execute` may wait for its turn. Not negative.
  std::chrono::nanoseconds max_wait{};

  friend constexpr bool operator==(const bulkhead_config&, const bulkhead_config&) = default;
};
static_assert(std::is_trivially_copyable_v<bulkhead_config>);

/// Returns the first broken bound, or nothing when `c` can be used.
constexpr std::optional<config_error> check(const bulkhead_config& c) noexcept {
  if (c.max_concurrent < 0) {
    return config_error{"max_concurrent", "be at least 0", static_cast<double>(c.max_concurrent)};
  }
  if (c.max_wait < std::chrono::nanoseconds::zero()) return config_error{"max_wait", "be at least 0", c.max_wait};
  return std::nullopt;
}
static_assert(!check(bulkhead_config{}), "the defaults must be usable");

enum class bulkhead_event_type : std::uint8_t { permitted, rejected, finished };

struct bulkhead_event {
  std::string_view policy;
  bulkhead_event_type type;
  time_point at;  ///< To some milliseconds.
};

/// What a bulkhead tells those who watch it. Consumers run with no lock held.
class bulkhead_events {
 public:
  subscription on_permitted(signal<bulkhead_event>::consumer call) { return permitted_.subscribe(std::move(call)); }
  subscription on_rejected(signal<bulkhead_event>::consumer call) { return rejected_.subscribe(std::move(call)); }
  /// A permit got its verdict; an abandoned one is given back without an event.
  subscription on_finished(signal<bulkhead_event>::consumer call) { return finished_.subscribe(std::move(call)); }
  /// The last 100, oldest first.
  [[nodiscard]] std::vector<bulkhead_event> recent() const { return ring_.recent(); }

  /// For bulkheads.
  void publish(const bulkhead_event& event) noexcept {
    ring_.push(event);
    switch (event.type) {
      case bulkhead_event_type::permitted:
        return permitted_.publish(event);
      case bulkhead_event_type::rejected:
        return rejected_.publish(event);
      case bulkhead_event_type::finished:
        return finished_.publish(event);
    }
  }

 private:
  signal<bulkhead_event> permitted_;
  signal<bulkhead_event> rejected_;
  signal<bulkhead_event> finished_;
  event_ring<bulkhead_event> ring_;
};

struct bulkhead_metrics {
  int max_concurrent = 0;
  int available = 0;  ///< Never negative, also while a shrunk bulkhead has more calls running than it may.
  int in_use = 0;
  int waiting = 0;
  std::uint64_t permitted = 0;
  std::uint64_t rejected = 0;
  std::chrono::nanoseconds waited{};  ///< Total of the waits that ended with a permit.
};

/// Threads: any; taking and giving back a permit is lock-free and allocates nothing while nobody waits. Who waits is
/// served first come, first served. Lives longer than its permits and waiters.
template <clock_source Clock = std::chrono::steady_clock>
class basic_bulkhead : public detail::policy_base<basic_bulkhead<Clock>> {
 public:
  /// One place. The first verdict, or the end of its life, gives it back.
  class [[nodiscard]] permit {
   public:
    permit(permit&& other) noexcept : owner_(std::exchange(other.owner_, nullptr)) {}
    permit& operator=(permit&& other) noexcept {
      if (this != &other) {
        abandon();
        owner_ = std::exchange(other.owner_, nullptr);
      }
      return *this;
    }
    ~permit() { abandon(); }

    void success(std::chrono::nanoseconds = {}) noexcept { finish(); }
    void failure(std::chrono::nanoseconds = {}) noexcept { finish(); }
    void ignore(std::chrono::nanoseconds = {}) noexcept { finish(); }

   private:
    friend basic_bulkhead;
    explicit permit(basic_bulkhead& owner) noexcept : owner_(&owner) {}
    void abandon() noexcept {
      if (auto* owner = std::exchange(owner_, nullptr)) owner->places_.release();
    }
    void finish() noexcept {
      if (auto* owner = std::exchange(owner_, nullptr)) owner->finished();
    }

    basic_bulkhead* owner_;
  };

  /// Someone who waits in line without blocking a thread: `enqueue` it, and `withdraw` it before it ends, always.
  class waiter : private detail::semaphore_waiter {
   public:
    /// It is this one's turn. Called once, with no lock held, by the thread that gave a place back: be quick.
    virtual void granted(permit p) noexcept = 0;

   protected:
    waiter() = default;
    virtual ~waiter() = default;

   private:
    friend basic_bulkhead;
    void served() noexcept final { granted(owner_->permitted_after(since_)); }
    basic_bulkhead* owner_ = nullptr;
    time_point since_{};
  };

  /// Throws std::invalid_argument when `config` breaks a bound.
  explicit basic_bulkhead(std::string name, bulkhead_config config = {}, Clock clock = {})
      : name_(std::move(name)),
        clock_(std::move(clock)),
        places_(detail::checked(config).max_concurrent),
        max_wait_(config.max_wait.count()) {}
  basic_bulkhead(const basic_bulkhead&) = delete;
  basic_bulkhead& operator=(const basic_bulkhead&) = delete;

  /// Takes a place without waiting, and never before someone who waits.
  /// Errors: errc::bulkhead_full, with no `retry_after`: nobody knows when a call ends.
  std::expected<permit, rejection> try_acquire() {
    if (!places_.try_acquire()) return std::unexpected(refused());
    return permitted();
  }

  /// Takes a place, blocking until one is free, but not past `deadline`.
  std::expected<permit, rejection> acquire(time_point deadline) {
    if (places_.try_acquire()) return permitted();
    if (deadline > clock_.now() && max_concurrent() > 0) {
      blocked here;
      std::optional<permit> held = enqueue(here);
      if (!held) held = here.wait(*this, deadline);
      if (held) return std::move(*held);
    }
    return std::unexpected(refused());
  }

  /// Puts `w` in line, or returns a permit at once where a place is free and nobody waits. Then `w` isn't in line.
  std::optional<permit> enqueue(waiter& w) {
    w.owner_ = this;
    w.since_ = clock_.now();
    if (places_.enqueue(w)) return std::nullopt;
    return permitted();
  }

  /// Takes `w` out of line. True: it will not be granted. False: it was granted or never in line; a call of `granted`
  /// under way in another thread has returned, so that `w` may end.
  bool withdraw(waiter& w) noexcept { return places_.withdraw(w); }

  /// What a waiter that withdrew in time reports: counts and publishes the rejection.
  rejection refused() noexcept {
    rejected_.fetch_add(1, std::memory_order_relaxed);
    events_.publish({name_, bulkhead_event_type::rejected, detail::coarse_now(clock_)});
    return {errc::bulkhead_full, name_, {}};
  }

  /// Never blocks. Growing lets waiters in; shrinking leaves running calls alone. Throws std::invalid_argument as the
  /// constructor.
  void set_max_concurrent(int n) {
    detail::checked(bulkhead_config{.max_concurrent = n});
    places_.set_max(n);
  }

  /// Changes everything; calls that run or wait go on.
  void configure(const bulkhead_config& config) {
    detail::checked(config);
    max_wait_.store(config.max_wait.count(), std::memory_order_relaxed);
    places_.set_max(config.max_concurrent);
  }

  [[nodiscard]] std::string_view name() const noexcept { return name_; }
  [[nodiscard]] bulkhead_config config() const noexcept { return {places_.max(), max_wait()}; }
  [[nodiscard]] bulkhead_events& events() noexcept { return events_; }
  [[nodiscard]] bulkhead_metrics metrics() const noexcept {
    const detail::semaphore::level level = places_.look();
    return {.max_concurrent = level.max,
            .available = std::max(level.max - level.in_use, 0),
            .in_use = level.in_use,
            .waiting = places_.waiting(),
            .permitted = permitted_.load(std::memory_order_relaxed),
            .rejected = rejected_.load(std::memory_order_relaxed),
            .waited = std::chrono::nanoseconds{waited_.load(std::memory_order_relaxed)}};
  }

  /// For pipelines: waits for at most `max_wait`, and not past the call's deadline.
  template <class Next>
  auto run(detail::call_context& call, Next&& next) -> std::invoke_result_t<Next&, detail::call_context&> {
    auto held = max_wait().count() == 0 ? try_acquire() : acquire(detail::plus(clock_.now(), allowed(call)));
    if (!held) return detail::refuse<std::invoke_result_t<Next&, detail::call_context&>>(held.error());
    return detail::run_settled(*held, call, next, settle);
  }

  /// Cancellation: terminal and total; a call cancelled while it waits leaves the line, one cancelled while it runs
  /// gives its place back.
  template <class Next>
  auto async_run(detail::call_context call, Next next) -> std::invoke_result_t<Next&, detail::call_context> {
    using awaitable = std::invoke_result_t<Next&, detail::call_context>;
    using result_type = detail::awaited_t<awaitable>;
    const std::chrono::nanoseconds patience = allowed(call);
    suspended here(*this);
    if (places_.try_acquire()) {
      here.held = permitted();
    } else if (patience.count() > 0 && max_concurrent() > 0) {
      std::function<bool(std::function<void()>)> start = [&here](std::function<void()> wake) {
        return here.start(std::move(wake));
      };
      std::function<bool()> leave = [&here] { return here.leave(); };
      co_await detail::async_traits<awaitable>::suspend_until(std::move(start), std::move(leave), patience);
    }
    if (!here.held) co_return detail::refuse<result_type>(refused());
    permit held = std::move(*here.held);
    try {
      if constexpr (std::is_void_v<result_type>) {
        co_await next(call);
        held.success();
      } else {
        result_type result = co_await next(call);
        settle(held, outcome{detail::error_of(result), nullptr});
        co_return result;
      }
    } catch (...) {
      settle(held, outcome{detail::async_traits<awaitable>::code_of_current_exception(), std::current_exception()});
      throw;
    }
  }

 private:
  /// A thread that waits.
  class blocked final : public waiter {
   public:
    void granted(permit p) noexcept override {
      const std::lock_guard lock(mutex_);
      held_ = std::move(p);
      turn_.notify_one();
    }

    std::optional<permit> wait(basic_bulkhead& from, time_point deadline) {
      if constexpr (detail::sleeping_clock<Clock>) {
        from.clock_.sleep_for(deadline - from.clock_.now());
      } else {
        constexpr std::chrono::nanoseconds longest = std::chrono::hours{1};  // what any condition variable can count
        std::unique_lock lock(mutex_);
        while (!held_) {
          const std::chrono::nanoseconds left = deadline - from.clock_.now();
          if (left <= std::chrono::nanoseconds::zero()) break;
          turn_.wait_for(lock, std::min(left, longest));
        }
      }
      from.withdraw(*this);
      return std::move(held_);
    }

   private:
    std::mutex mutex_;
    std::condition_variable turn_;
    std::optional<permit> held_;
  };

  /// A coroutine that waits; ends only when it can't be granted any more.
  class suspended final : public waiter {
   public:
    explicit suspended(basic_bulkhead& from) noexcept : from_(from) {}
    ~suspended() {
      if (started_) leave();
    }
    suspended(const suspended&) = delete;
    suspended& operator=(const suspended&) = delete;

    bool start(std::function<void()> wake) {
      started_ = true;
      wake_ = std::move(wake);
      auto at_once = from_.enqueue(*this);
      if (!at_once) return true;  // from here on `held` is for whoever grants it
      held = std::move(at_once);
      return false;
    }
    bool leave() noexcept { return from_.withdraw(*this); }
    void granted(permit p) noexcept override {
      const std::function<void()> wake = std::move(wake_);
      held = std::move(p);
      wake();  // this may be gone when it returns
    }

    std::optional<permit> held;

   private:
    basic_bulkhead& from_;
    std::function<void()> wake_;
    bool started_ = false;
  };

  static constexpr auto settle = [](permit& held, const outcome& o) noexcept {
    if (is_cancellation(o.error)) {
      held.abandon();
    } else {
      held.finish();
    }
  };

  permit permitted() noexcept {
    permitted_.fetch_add(1, std::memory_order_relaxed);
    events_.publish({name_, bulkhead_event_type::permitted, detail::coarse_now(clock_)});
    return permit(*this);
  }
  permit permitted_after(time_point since) noexcept {
    waited_.fetch_add((clock_.now() - since).count(), std::memory_order_relaxed);
    return permitted();
  }
  void finished() noexcept {
    places_.release();
    events_.publish({name_, bulkhead_event_type::finished, detail::coarse_now(clock_)});
  }

  [[nodiscard]] int max_concurrent() const noexcept { return places_.max(); }
  [[nodiscard]] std::chrono::nanoseconds max_wait() const noexcept {
    return std::chrono::nanoseconds{max_wait_.load(std::memory_order_relaxed)};
  }
  [[nodiscard]] std::chrono::nanoseconds allowed(const detail::call_context& call) const noexcept {
    const std::chrono::nanoseconds most = max_wait();
    return call.deadline && most.count() != 0 ? std::min<std::chrono::nanoseconds>(most, *call.deadline - clock_.now())
                                              : most;
  }

  const std::string name_;
  [[no_unique_address]] Clock clock_;
  detail::semaphore places_;
  alignas(64) std::atomic<std::int64_t> max_wait_;
  std::atomic<std::uint64_t> permitted_ = 0;
  std::atomic<std::uint64_t> rejected_ = 0;
  std::atomic<std::int64_t> waited_ = 0;
  bulkhead_events events_;
};

using bulkhead = basic_bulkhead<std::chrono::steady_clock>;

}  // namespace resilience
