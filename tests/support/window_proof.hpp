#pragma once
/// Proves a window of calls exact: threads record, reset and look; the order in which that happened is recovered; then
/// it is replayed in that order on a model too simple to be wrong.
///
/// The order comes from the words of the window. A `proof::word` does what an atomic does, numbers every exchange, and
/// lets its thread stall before an operation now and then, so that interleavings that are rare in life are common here.
/// A record stands where its last exchange does; one that changed nothing stands at the load that told it so.

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <deque>
#include <mutex>
#include <optional>
#include <random>
#include <resilience/detail/count_window.hpp>
#include <string>
#include <thread>
#include <vector>

namespace proof {

/// What a proof can be asked to overlook, to see that it would not.
enum class flaw { none, slots_overwritten, exchange_torn };
inline flaw broken = flaw::none;

/// Per thread: where its last exchange stands in the sequence, and where the sequence stood at its last load.
struct thread_place {
  std::uint64_t exchanged = 0;
  std::uint64_t loaded = 0;
  std::minstd_rand random{1};
  bool stalls = false;
};
inline thread_local thread_place here;

/// One sequence for all words; a test runs one window at a time.
inline std::mutex one_at_a_time;
inline std::uint64_t sequence = 0;

/// Sometimes long enough for others to go once round the window.
inline void maybe_stall() {
  if (!here.stalls) return;
  const auto dice = here.random() % 256;
  if (dice >= 24) return;
  for (int n = dice == 0 ? 60 : 1; n > 0; --n) std::this_thread::yield();
}

class word {
 public:
  word() = default;  // a slot
  explicit word(std::uint64_t value) : value_(value), control_(true) {}

  std::uint64_t load(std::memory_order = std::memory_order_seq_cst) const {
    maybe_stall();
    const std::lock_guard lock(one_at_a_time);
    here.loaded = sequence;
    return value_;
  }
  void store(std::uint64_t value, std::memory_order = std::memory_order_seq_cst) {
    maybe_stall();
    const std::lock_guard lock(one_at_a_time);
    here.exchanged = ++sequence;
    value_ = value;
  }
  std::uint64_t fetch_add(std::uint64_t more, std::memory_order = std::memory_order_seq_cst) {
    maybe_stall();
    const std::lock_guard lock(one_at_a_time);
    here.exchanged = ++sequence;
    const std::uint64_t before = value_;
    value_ += more;
    return before;
  }
  bool compare_exchange_strong(std::uint64_t& expected, std::uint64_t desired,
                               std::memory_order = std::memory_order_seq_cst,
                               std::memory_order = std::memory_order_seq_cst) {
    maybe_stall();
    if (broken == flaw::exchange_torn) {
      if (load() != expected) return expected = load(), false;
      maybe_stall();
      return store(desired), true;
    }
    const std::lock_guard lock(one_at_a_time);
    if (value_ != expected && (control_ || broken != flaw::slots_overwritten)) {
      expected = value_;
      here.loaded = sequence;
      return false;
    }
    value_ = desired;
    here.exchanged = ++sequence;
    return true;
  }
  bool compare_exchange_weak(std::uint64_t& expected, std::uint64_t desired,
                             std::memory_order success = std::memory_order_seq_cst,
                             std::memory_order failure = std::memory_order_seq_cst) {
    return compare_exchange_strong(expected, desired, success, failure);
  }

 private:
  std::uint64_t value_ = 0;
  bool control_ = false;
};

using resilience::detail::call_counts;
using resilience::detail::record_result;
using resilience::detail::record_status;
using resilience::detail::trip_rule;

/// One thing that a thread did.
struct deed {
  enum class kind { record, clear, look } what;
  std::uint64_t place;
  bool at_load;  ///< It changed nothing, and stands after the exchange of the same number.
  unsigned outcome = 0;
  record_result result{};
  call_counts seen{};
  std::uint64_t epoch = 0;  ///< That a record was admitted in.
};

struct plan {
  int threads;
  int size;
  int records;       ///< Per thread.
  unsigned failing;  ///< Of 64, as are the others.
  unsigned slow;
  unsigned resets;  ///< Of 4096.
  bool trips;
  unsigned seed;
};

/// Carries out a plan on a window, replays it, and returns the first thing that is wrong.
template <class Window>
std::optional<std::string> disproof(Window& window, const plan& p) {
  trip_rule rule;
  rule.set(resilience::percent{50}, resilience::percent{60}, std::max(1, p.size / 2), p.size);
  window.refill(p.size, {});
  window.thaw();
  word state{1};
  std::mutex owner;
  std::vector<std::vector<deed>> deeds(static_cast<std::size_t>(p.threads));
  std::atomic<int> hung = 0;

  const auto new_epoch = [&](std::vector<deed>& mine) {
    window.freeze();
    state.store(state.load() + 1);
    window.clear();
    const std::uint64_t place = here.exchanged;
    window.thaw();
    mine.push_back({deed::kind::clear, place, false});
  };
  const auto work = [&](std::size_t t) {
    here = {.random = std::minstd_rand(p.seed * 100 + static_cast<unsigned>(t) + 1), .stalls = p.threads > 1};
    std::minstd_rand dice(p.seed * 1000 + static_cast<unsigned>(t) + 1);
    auto& mine = deeds[t];
    for (int n = 0; n < p.records; ++n) {
      if (dice() % 4096 < p.resets) {
        const std::lock_guard lock(owner);
        if (!window.frozen()) new_epoch(mine);
      }
      if (dice() % 16 == 0) {
        const call_counts seen = window.counts();
        mine.push_back({deed::kind::look, here.loaded, true, 0, {}, seen});
      }
      const unsigned outcome = (dice() % 64 < p.failing ? 1u : 0u) | (dice() % 64 < p.slow ? 2u : 0u);
      const std::uint64_t admitted = state.load();
      int tries = 0;
      while (hung == 0) {
        std::uint64_t asked = 0;
        here.exchanged = 0;
        const record_result r = window.record(outcome, rule, p.trips, [&] {
          asked = here.loaded;
          if (++tries > 10'000) hung = 1;
          return hung == 0 && state.load() == admitted;
        });
        if (r.status == record_status::stale) break;
        if (r.status == record_status::frozen) {
          const std::lock_guard lock(owner);
          if (window.frozen() && state.load() == admitted) new_epoch(mine);
          continue;
        }
        const bool at_load = here.exchanged <= asked;
        mine.push_back({deed::kind::record, at_load ? asked : here.exchanged, at_load, outcome, r, {}, admitted});
        if (r.status == record_status::tripped) {
          const std::lock_guard lock(owner);
          if (state.load() == admitted) new_epoch(mine);
        }
        break;
      }
    }
  };
  {
    std::vector<std::jthread> threads;
    for (std::size_t t = 0; t < deeds.size(); ++t) threads.emplace_back(work, t);
  }
  here = {};
  if (hung != 0) return "a record never came to an end";

  std::vector<deed> order;
  for (const auto& mine : deeds) order.insert(order.end(), mine.begin(), mine.end());
  std::ranges::sort(order, {}, [](const deed& d) { return std::pair(d.place, d.at_load); });

  std::deque<unsigned> model;
  call_counts counts;
  bool tripped = false;
  std::uint64_t epoch = 1;
  const auto wrong = [&](const deed& d, const char* what) {
    return std::string(what) + " at " + std::to_string(d.place) + " of a window of " + std::to_string(p.size) +
           " with " + std::to_string(p.threads) + " threads, seed " + std::to_string(p.seed);
  };
  std::size_t steps = 0;
  for (const deed& d : order) {
    if (p.size <= 50 || ++steps % 64 == 0) {  // count again from nothing
      call_counts again;
      for (const unsigned o : model) again.add(o);
      if (again != counts) return wrong(d, "the model is broken");
    }
    switch (d.what) {
      case deed::kind::clear:
        model.clear();
        counts = {};
        tripped = false;
        ++epoch;
        break;
      case deed::kind::look:
        if (d.seen != counts) return wrong(d, "other counts were seen");
        break;
      case deed::kind::record: {
        if (d.epoch != epoch) return wrong(d, "a record of another epoch");
        if (tripped) return wrong(d, "a record after the trip");
        if (d.at_load && (d.outcome != 0 || counts != call_counts{p.size, 0, 0, 0}))
          return wrong(d, "a record was left out");
        model.push_back(d.outcome);
        counts.add(d.outcome);
        if (model.size() > static_cast<std::size_t>(p.size)) {
          call_counts gone;
          gone.add(model.front());
          counts -= gone;
          model.pop_front();
        }
        const unsigned exceeded = rule.exceeded(counts.calls, counts.failed, counts.slow);
        if (d.result.exceeded != exceeded) return wrong(d, "another rate was found");
        tripped = p.trips && exceeded != 0;
        if (tripped != (d.result.status == record_status::tripped)) return wrong(d, "a trip too many or too few");
        break;
      }
    }
  }
  window.freeze();
  if (window.counts() != counts) return "other counts at the end";
  std::vector<std::uint8_t> left;
  window.copy_to(left);
  if (!std::ranges::equal(left, model)) return "other outcomes at the end";
  return std::nullopt;
}

}  // namespace proof
