// Any bytes as a configuration: read, or refused with problems that have a place in the text; never a crash, and the
// same again the second time.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "sidecar/config/load.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const sidecar::load_options options{.enable_chaos = true, .policies_alone = true};
  const auto read = sidecar::load_text(text, "f", options);
  const auto& problems = read ? read->warnings : read.error();
  if (!read && problems.empty()) std::abort();
  bool error = false;
  for (const auto& p : problems) {
    if (p.line < 1 || p.column < 1 || p.message.empty() || p.source.size() > 1000) std::abort();
    error = error || !p.warning;
    (void)resilience::to_string(p);
  }
  if (error == read.has_value()) std::abort();
  if (read) {
    (void)sidecar::to_json(*read);
    // Reading is a function of the text.
    const auto again = sidecar::load_text(text, "f", options);
    if (!again || again->hash != read->hash || !sidecar::diff(*read, *again).empty()) std::abort();
  }
  return 0;
}
