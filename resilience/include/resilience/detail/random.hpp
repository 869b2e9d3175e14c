#pragma once
/// Randomness for jitter: cheap, one generator per thread, of no use for secrets.

#include <atomic>
#include <chrono>
#include <cstdint>

namespace resilience::detail {

/// The state of this thread's generator (splitmix64). A test that stores a value here gets the same numbers again.
inline std::uint64_t& random_state() noexcept {
  static std::atomic<std::uint64_t> threads{0};
  thread_local std::uint64_t state =
      static_cast<std::uint64_t>(std::chrono::steady_clock::now().time_since_epoch().count()) +
      0x9e3779b97f4a7c15ULL * (threads.fetch_add(1, std::memory_order_relaxed) + 1);
  return state;
}

/// Evenly spread over [0, 1).
inline double random_unit() noexcept {
  std::uint64_t z = random_state() += 0x9e3779b97f4a7c15ULL;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
  z ^= z >> 31;
  return static_cast<double>(z >> 11) * 0x1p-53;
}

}  // namespace resilience::detail
