// Nanoseconds and allocations per call of each policy, one shared instance under 1, 2 and 4 threads.
// Time is wall time over all operations of all threads.
#include <benchmark/benchmark.h>

#include <atomic>
#include <cstdlib>
#include <new>
#include <resilience/resilience.hpp>

namespace {
std::atomic<std::int64_t> allocated_bytes = 0;
}

void* operator new(std::size_t size) {
  allocated_bytes.fetch_add(static_cast<std::int64_t>(size), std::memory_order_relaxed);
  if (void* p = std::malloc(size)) return p;
  throw std::bad_alloc();
}
void operator delete(void* p) noexcept { std::free(p); }
void operator delete(void* p, std::size_t) noexcept { std::free(p); }

namespace {

using namespace resilience;
using namespace std::chrono_literals;

/// No slow-call tracking: the closed path then needs no clock.
constexpr std::chrono::nanoseconds untracked = std::chrono::nanoseconds::max();

circuit_breaker_config breaker_of(sliding_window window, std::chrono::nanoseconds slow_call,
                                  percent failure_rate = percent{50}) {
  return {.failure_rate = failure_rate, .slow_call = slow_call, .window = window, .min_calls = 10, .open_for = 1h};
}

template <class Operation>
void measure(benchmark::State& state, Operation operation) {
  const std::int64_t before = allocated_bytes.load();
  for (auto _ : state) operation();
  if (state.thread_index() == 0) {
    state.counters["bytes"] = benchmark::Counter(static_cast<double>(allocated_bytes.load() - before) /
                                                 static_cast<double>(state.iterations()));
  }
}

/// A benchmark of one shared policy that lives as long as the program.
template <class Policy, class Operation>
void shared(const std::string& name, Policy& policy, Operation operation) {
  benchmark::RegisterBenchmark(name.c_str(),
                               [&policy, operation](benchmark::State& state) {
                                 int n = 0;
                                 measure(state, [&] { operation(policy, ++n); });
                               })
      ->Threads(1)
      ->Threads(2)
      ->Threads(4)
      ->UseRealTime();
}

int answer() { return 42; }

}  // namespace

int main(int argc, char** argv) {
  const auto execute = [](auto& policy, int) { benchmark::DoNotOptimize(policy.execute(answer)); };
  const auto every_tenth_fails = [](circuit_breaker& breaker, int n) {
    auto permit = breaker.try_acquire();
    if (!permit.has_value()) return;
    if (n % 10 == 0) {
      permit->failure();
    } else {
      permit->success();
    }
  };

  circuit_breaker closed10{"closed", breaker_of(calls{10}, untracked)};
  circuit_breaker closed100{"closed", breaker_of(calls{100}, untracked)};
  circuit_breaker closed10k{"closed", breaker_of(calls{10'000}, untracked)};
  circuit_breaker tracked{"tracked", breaker_of(calls{100}, 60s)};
  circuit_breaker timed{"timed", breaker_of(seconds_window{10}, 60s)};
  circuit_breaker mixed10{"mixed", breaker_of(calls{10}, untracked, percent{100})};
  circuit_breaker mixed100{"mixed", breaker_of(calls{100}, untracked, percent{100})};
  circuit_breaker mixed10k{"mixed", breaker_of(calls{10'000}, untracked, percent{100})};
  circuit_breaker open{"open", breaker_of(calls{10}, untracked)};
  open.transition_to(breaker_state::open);
  rate_limiter granting{"granting", {.limit = per_second(1'000'000'000)}};
  rate_limiter rejecting{"rejecting", {.limit = rate{1, 1h}}};
  (void)rejecting.try_acquire();
  bulkhead room{"room", {.max_concurrent = 1000}};
  retry once{"once"};
  pipeline all{once, closed100, granting, room};
  pipeline all_tracked{once, tracked, granting, room};

  shared("breaker_closed_10", closed10, execute);
  shared("breaker_closed_100", closed100, execute);
  shared("breaker_closed_10000", closed10k, execute);
  shared("breaker_closed_100_slow_calls_tracked", tracked, execute);
  shared("breaker_closed_10s", timed, execute);
  shared("breaker_every_tenth_fails_10", mixed10, every_tenth_fails);
  shared("breaker_every_tenth_fails_100", mixed100, every_tenth_fails);
  shared("breaker_every_tenth_fails_10000", mixed10k, every_tenth_fails);
  shared("breaker_open", open, [](circuit_breaker& b, int) { benchmark::DoNotOptimize(b.try_acquire().has_value()); });
  const auto acquire = [](auto& policy, int) { benchmark::DoNotOptimize(policy.try_acquire().has_value()); };
  shared("limiter_granted", granting, acquire);
  shared("limiter_rejected", rejecting, acquire);
  shared("bulkhead", room, acquire);
  shared("retry_first_try", once, execute);
  shared("all_composed", all, execute);
  shared("all_composed_slow_calls_tracked", all_tracked, execute);

  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  benchmark::RunSpecifiedBenchmarks();
}
