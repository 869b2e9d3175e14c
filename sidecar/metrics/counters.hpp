#pragma once
/// What the data path counts: one shard per worker, each written by its own thread only and summed when read.
/// A write is a relaxed load and store of a cache line nobody else writes; labels are route and upstream names, codes
/// and reasons, never anything a client sent.

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "sidecar/reason.hpp"

namespace sidecar {

/// Counts up or down from one thread, read from any.
class counter {
 public:
  void add(std::uint64_t n = 1) noexcept {
    value_.store(value_.load(std::memory_order_relaxed) + n, std::memory_order_relaxed);
  }
  void subtract(std::uint64_t n = 1) noexcept { add(0 - n); }
  [[nodiscard]] std::uint64_t read() const noexcept { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<std::uint64_t> value_ = 0;
};

inline constexpr std::size_t reason_count = reason_texts.size();

/// Upper bounds of the duration histogram, in seconds; one more bucket takes the rest.
inline constexpr std::array<double, 16> duration_bounds{0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1,
                                                        0.25,   0.5,   1,      2.5,   5,    10,    30,   60};

/// How an attempt at an upstream ended.
enum class attempt_result : std::uint8_t { ok, error_status, transport_error, timeout, abandoned };
inline constexpr std::array<std::string_view, 5> attempt_result_texts{"ok", "error_status", "transport_error",
                                                                      "timeout", "abandoned"};

/// Why a retryable failure was not repeated.
enum class retry_suppression : std::uint8_t { budget_exhausted, not_replayable, retry_after, deadline };
inline constexpr std::array<std::string_view, 4> retry_suppression_texts{"budget_exhausted", "not_replayable",
                                                                         "retry_after", "deadline"};

/// The last three of what a `timeout` guards: how resilience4j_timelimiter_calls_total counts.
struct timeout_outcomes {
  std::uint64_t successful = 0, failed = 0, timed_out = 0;
};

/// A set of counters of type Shard, one for each worker.
template <class Shard>
class sharded {
 public:
  explicit sharded(std::size_t workers) : shards_(std::make_unique<padded[]>(workers)), workers_(workers) {}

  [[nodiscard]] Shard& of(std::size_t worker) noexcept { return shards_[worker].shard; }

  /// The sum over all workers of what `pick(shard)` returns.
  template <class Pick>
  [[nodiscard]] std::uint64_t sum(Pick pick) const {
    std::uint64_t total = 0;
    for (std::size_t i = 0; i < workers_; ++i) total += pick(std::as_const(shards_[i].shard));
    return total;
  }

 private:
  struct alignas(64) padded {
    Shard shard;
  };
  std::unique_ptr<padded[]> shards_;
  std::size_t workers_;
};

struct route_shard {
  std::array<counter, 600> by_code;  ///< By status; only 100 to 599 are used.
  std::array<counter, reason_count> local;
  std::array<counter, reason_count> fallbacks;
  std::array<counter, duration_bounds.size() + 1> durations;
  counter duration_ns;
  counter in_flight;
  counter timed_out;  ///< Requests cut by `timeout`.

  void observe(std::chrono::nanoseconds took) noexcept {
    const double seconds = static_cast<double>(took.count()) * 1e-9;
    std::size_t i = 0;
    while (i < duration_bounds.size() && seconds > duration_bounds[i]) ++i;
    durations[i].add();
    duration_ns.add(static_cast<std::uint64_t>(took.count()));
  }
};

struct upstream_shard {
  std::array<counter, attempt_result_texts.size()> attempts;
  std::array<counter, retry_suppression_texts.size()> suppressed;
};

struct connection_shard {
  counter client, upstream;
  counter replayed;  ///< Requests sent again, free, because their pooled connection turned out to be stale.
};

/// The counters of one route (or of no route: name ""), kept as long as the process lives.
struct route_counters : sharded<route_shard> {
  route_counters(std::string route, std::size_t workers) : sharded(workers), name(std::move(route)) {}
  std::string name;
};

struct upstream_counters : sharded<upstream_shard> {
  upstream_counters(std::string upstream, std::size_t workers) : sharded(workers), name(std::move(upstream)) {}
  std::string name;
};

}  // namespace sidecar
