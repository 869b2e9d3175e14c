#include <resilience/detail/count_window.hpp>

#include <catch2/catch.hpp>
#include <vector>

#include <resilience/circuit_breaker_config.hpp>

#include "window_proof.hpp"

using namespace resilience;
using namespace resilience::detail;
using proof::disproof;
using proof::plan;

namespace {

using small = small_window<proof::word>;
using ring = ring_window<proof::word>;

/// The first disproof of the window under these plans.
std::optional<std::string> disproof_of_either(const plan& p) {
  if (p.size <= small::max_size) {
    small window;
    if (auto wrong = disproof(window, p)) return wrong;
  }
  ring window(p.size);
  return disproof(window, p);
}

/// Takes a slot by ticket and then adds to the counts, as if nobody came between: what one would write first.
class ticket_window {
 public:
  explicit ticket_window(int size) : slots_(static_cast<std::size_t>(size)) {}
  template <class Current>
  record_result record(unsigned outcome, const trip_rule& rule, bool, Current current) {
    if (frozen()) return {record_status::frozen};
    if (!current()) return {record_status::stale};
    proof::word& slot = slots_[ticket_.fetch_add(1) % slots_.size()];
    const std::uint64_t old = slot.load();
    slot.store(4 | outcome);
    std::uint64_t more = delta(outcome);
    more -= old & 4 ? delta(static_cast<unsigned>(old & 3)) : 0;
    const call_counts c = read(counts_.fetch_add(more) + more);
    return {record_status::recorded, rule.exceeded(c.calls, c.failed, c.slow)};
  }
  call_counts counts() const { return read(counts_.load()); }
  bool frozen() const { return frozen_.load() != 0; }
  bool freeze() { return frozen_.store(1), false; }
  void thaw() { frozen_.store(0); }
  void clear() {
    for (auto& s : slots_) s.store(0);
    counts_.store(0);
    ticket_.store(0);
  }
  void refill(int, std::vector<std::uint8_t>) { clear(); }
  void copy_to(std::vector<std::uint8_t>& to) const {
    const std::uint64_t end = ticket_.load();
    const std::uint64_t n = slots_.size();
    for (std::uint64_t i = end > n ? end - n : 0; i < end; ++i) to.push_back(slots_[i % n].load() & 3);
  }

 private:
  static std::uint64_t delta(unsigned o) {
    return 1 | (o & 1 ? 1ull << 16 : 0) | (o & 2 ? 1ull << 32 : 0) | (o == 3 ? 1ull << 48 : 0);
  }
  static call_counts read(std::uint64_t w) {
    return {static_cast<int>(w & 0xffff), static_cast<int>(w >> 16 & 0xffff), static_cast<int>(w >> 32 & 0xffff),
            static_cast<int>(w >> 48)};
  }
  std::vector<proof::word> slots_;
  proof::word ticket_{0};
  proof::word counts_{0};
  proof::word frozen_{0};
};

/// Exchanges its control word rightly, but every record writes its own slot afterwards: nobody helps, and nothing tells
/// a slot of this lap from one of the lap before.
class helpless_window {
 public:
  explicit helpless_window(int size) : slots_(static_cast<std::size_t>(size)) {}
  template <class Current>
  record_result record(unsigned outcome, const trip_rule& rule, bool, Current current) {
    for (;;) {
      std::uint64_t seen = control_.load();
      if (seen & 1) return {record_status::frozen};
      if (!current()) return {record_status::stale};
      const std::uint64_t n = slots_.size();
      std::uint64_t total = seen >> 1 & 0xffffff, failed = seen >> 25 & 0x1fff, slow = seen >> 38 & 0x1fff;
      const std::uint64_t displaced = total >= n ? slots_[total % n].load() : 0;
      failed = failed + (outcome & 1) - (displaced & 1);
      slow = slow + (outcome >> 1) - (displaced >> 1);
      proof::word& slot = slots_[total % n];
      ++total;
      const std::uint64_t next = total << 1 | (failed & 0x1fff) << 25 | (slow & 0x1fff) << 38;
      if (!control_.compare_exchange_strong(seen, next)) continue;
      const std::uint64_t place = proof::here.exchanged;
      slot.store(outcome);
      proof::here.exchanged = place;
      return {record_status::recorded,
              rule.exceeded(static_cast<int>(std::min(total, n)), static_cast<int>(failed), static_cast<int>(slow))};
    }
  }
  call_counts counts() const {
    const std::uint64_t w = control_.load();
    call_counts c{static_cast<int>(std::min<std::uint64_t>(w >> 1 & 0xffffff, slots_.size())),
                  static_cast<int>(w >> 25 & 0x1fff), static_cast<int>(w >> 38 & 0x1fff)};
    return c;
  }
  bool frozen() const { return control_.load() & 1; }
  bool freeze() { return false; }
  void thaw() {}
  void clear() { control_.store(0); }
  void refill(int, std::vector<std::uint8_t>) { clear(); }
  void copy_to(std::vector<std::uint8_t>& to) const {
    const std::uint64_t end = control_.load() >> 1 & 0xffffff;
    const std::uint64_t n = slots_.size();
    for (std::uint64_t i = end > n ? end - n : 0; i < end; ++i) to.push_back(slots_[i % n].load() & 3);
  }

 private:
  std::vector<proof::word> slots_;
  proof::word control_{0};
};

}  // namespace

TEST_CASE("a window is exact under threads, resets and trips", "[count_window]") {
  const auto seed = static_cast<unsigned>(Catch::rngSeed()) % 10'000 + 1;
  CAPTURE(seed);
  for (const int threads : {1, 2, 4, 16}) {
    for (const int size : {2, 3, 10, 20, 21, 100, 1000, 10'000}) {
      const int records = (size == 10'000 ? 24'000 : std::max(4'000, 4 * size)) / threads;
      for (const bool trips : {false, true}) {
        const unsigned failing = trips ? 29 : 20;
        const auto wrong = disproof_of_either({threads, size, records, failing, 12, 4, trips, seed});
        CAPTURE(threads, size, trips, wrong.value_or(""));
        CHECK_FALSE(wrong.has_value());
      }
      // Mostly fast successes, where most records change nothing.
      const auto wrong = disproof_of_either({threads, size, records, 1, 1, 1, false, seed});
      CAPTURE(threads, size, wrong.value_or(""));
      CHECK_FALSE(wrong.has_value());
    }
  }
}

TEST_CASE("a record from before a reset never counts after it", "[count_window]") {
  for (unsigned seed = 1; seed <= 10; ++seed) {
    for (const int size : {1, 2, 10, 22, 30}) {
      const auto wrong = disproof_of_either({8, size, 500, 20, 12, 1500, false, seed});
      CAPTURE(size, wrong.value_or(""));
      CHECK_FALSE(wrong.has_value());
    }
  }
}

TEST_CASE("the proof sees through a ring of tickets", "[count_window]") {
  bool seen = false;
  for (unsigned seed = 1; seed <= 50 && !seen; ++seed) {
    ticket_window window(5);
    seen = disproof(window, {8, 5, 500, 20, 12, 0, false, seed}).has_value();
  }
  CHECK(seen);
}

TEST_CASE("the proof sees through a ring whose records write their slots themselves", "[count_window]") {
  bool seen = false;
  for (unsigned seed = 1; seed <= 50 && !seen; ++seed) {
    helpless_window window(5);
    const auto wrong = disproof(window, {8, 5, 500, 20, 0, 0, false, seed});
    seen = wrong.has_value();
  }
  CHECK(seen);
}

TEST_CASE("the broken windows are right as long as nobody comes between", "[count_window]") {
  ticket_window tickets(5);
  CHECK(disproof(tickets, {1, 5, 3'000, 20, 12, 4, false, 1}).value_or("") == "");
  helpless_window helpless(5);
  const auto wrong = disproof(helpless, {1, 5, 3'000, 20, 0, 0, false, 1});
  CHECK(wrong.value_or("") == "");
}

namespace {
struct with_flaw {
  explicit with_flaw(proof::flaw f) { proof::broken = f; }
  ~with_flaw() { proof::broken = proof::flaw::none; }
};
}  // namespace

TEST_CASE("the proof sees a slot that a late helper overwrites", "[count_window]") {
  const with_flaw flawed(proof::flaw::slots_overwritten);
  bool seen = false;
  for (unsigned seed = 1; seed <= 100 && !seen; ++seed) {
    ring window(2);
    seen = disproof(window, {16, 2, 500, 20, 20, 0, false, seed}).has_value();
  }
  CHECK(seen);
}

TEST_CASE("the proof sees an exchange that is none", "[count_window]") {
  const with_flaw flawed(proof::flaw::exchange_torn);
  const int size = GENERATE(10, 30);
  bool seen = false;
  for (unsigned seed = 1; seed <= 50 && !seen; ++seed) {
    seen = disproof_of_either({8, size, 500, 20, 20, 0, false, seed}).has_value();
  }
  CHECK(seen);
}

TEST_CASE("laps that run over are still told apart", "[count_window]") {
  // The largest ring has 6 bits for the lap, and a clear takes two: slots not written for long must not look new.
  const int clears = GENERATE(5, 15, 17, 23, 31, 33, 100);  // between two looks at the same slots
  ring_window<> window(max_window);
  trip_rule never;
  never.set(percent{100}, percent{100}, max_window, max_window);
  const auto record = [&](unsigned outcome) { window.record(outcome, never, false, [] { return true; }); };
  window.thaw();
  for (int round = 0; round < 300; ++round) {
    const int records = round % clears == 0 ? 1000 : 3;
    const bool slow = round / clears % 2 == 0;  // so that what a slot held before is not what it has to hold
    for (int n = 0; n < records; ++n) record(slow ? 3 : 1);
    REQUIRE(window.counts() == call_counts{records, records, slow ? records : 0, slow ? records : 0});
    window.freeze();
    window.clear();
    window.thaw();
  }
}
