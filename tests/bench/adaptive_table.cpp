// Prints the goodput of static limits, of an AIMD and of the adaptive limiter on the simulated target whose capacity
// is 40, 10, 25 and 50 calls a second for two minutes each: mean of 20 seeds, in percent of what is possible.

#include "simulated_target.hpp"

#include <cstdio>
#include <string>

using namespace simulation;

namespace {

template <class Make>
void row(const std::string& name, Make make) {
  constexpr unsigned seeds = 20;
  double goodput = 0, worst = 100, failures = 0;
  for (unsigned seed = 1; seed <= seeds; ++seed) {
    manual_clock clock;
    std::vector<std::unique_ptr<client>> clients;
    clients.push_back(make(clock));
    const run_result r = run(four_capacities(), clock, clients, seed);
    goodput += r.goodput() / seeds;
    failures += r.failures() / seeds;
    worst = std::min(worst, r.goodput());
  }
  std::printf("| %-14s | %9.1f | %10.1f | %10.1f |\n", name.c_str(), goodput, worst, failures);
}

}  // namespace

int main() {
  std::puts("| limit          | goodput % | worst seed | failures % |");
  std::puts("|----------------|----------:|-----------:|-----------:|");
  for (int limit = 5; limit <= 50; limit += 5) {
    row("static " + std::to_string(limit) + "/s",
        [limit](const manual_clock& clock) { return std::make_unique<static_client>(clock, limit); });
  }
  row("AIMD 5-50/s", [](const manual_clock& clock) { return std::make_unique<aimd_client>(clock); });
  row("adaptive", [](const manual_clock& clock) { return std::make_unique<adaptive_client>(clock); });
}
