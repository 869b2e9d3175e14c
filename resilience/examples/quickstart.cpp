// How do I keep a call from hurting me, or the one I call, when it fails?

#include <cstdio>
#include <expected>
#include <string>
#include <system_error>
#include <thread>

#include <resilience/resilience.hpp>

using namespace std::chrono_literals;

namespace {

/// Stands for a payment provider that is down for its first four calls.
std::expected<int, std::error_code> charge() {
  static int calls = 0;
  if (++calls <= 4) return std::unexpected(std::make_error_code(std::errc::host_unreachable));
  return calls;
}

}  // namespace

int main() {
  resilience::circuit_breaker breaker{
      "payment", {.window = resilience::calls{4}, .min_calls = 4, .open_for = 50ms, .half_open_calls = 1}};
  resilience::retry retry{"payment", {.max_attempts = 3, .interval = 5ms}};
  resilience::pipeline guarded{retry, breaker};  // retry( breaker( call ) )

  const auto watching = breaker.events().on_transition([](const auto& e) {
    std::printf("  the breaker went from %s to %s\n", std::string(to_string(e.from)).c_str(),
                std::string(to_string(e.to)).c_str());
  });

  for (int i = 1; i <= 8; ++i) {
    const auto receipt = guarded.execute(charge);
    if (receipt) {
      std::printf("call %d: receipt %d\n", i, *receipt);
    } else if (receipt.error() == resilience::condition::not_attempted) {
      std::printf("call %d: not attempted, for %s\n", i, receipt.error().message().c_str());
      std::this_thread::sleep_for(20ms);
    } else {
      std::printf("call %d: failed, for %s\n", i, receipt.error().message().c_str());
    }
  }
}
