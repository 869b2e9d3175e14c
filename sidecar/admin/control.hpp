#pragma once
/// Changes the configuration of a running sidecar: loads the file, applies it or keeps the old one, and knows which.

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>

#include "sidecar/config/load.hpp"
#include "sidecar/proxy/runtime.hpp"

namespace sidecar {

enum class reload_result : std::uint8_t { applied, unchanged, rejected, ignored };
constexpr std::string_view to_string(reload_result r) noexcept {
  switch (r) {
    case reload_result::applied:
      return "applied";
    case reload_result::unchanged:
      return "unchanged";
    case reload_result::rejected:
      return "rejected";
    case reload_result::ignored:
      return "ignored";
  }
  return "unknown";
}

/// Threads: any; reloads come one after the other.
class control {
 public:
  using clock = std::chrono::system_clock;

  struct refusal {
    clock::time_point time;
    problem_list errors;  ///< Without warnings.
  };
  struct status {
    std::uint64_t generation = 0;
    clock::time_point loaded_at;
    std::shared_ptr<const configuration> current;
    std::optional<refusal> last_error;  ///< None once a reload has succeeded.
    std::uint64_t applied = 0, unchanged = 0, rejected = 0;
  };

  struct settings_source {
    std::string file;
    load_options options;
    /// What the command line says over the file.
    std::function<void(settings&)> override = [](settings&) {};
  };

  /// `loaded` is what the file said at the start; it is applied at once. `target` outlives this.
  control(settings_source source, configuration loaded, runtime& target);

  /// Reads the file again. Blocks while names are looked up. Ignored while draining.
  /// Whatever the result but `rejected` and `ignored`, changes made by hand (PATCH) are gone, and `published` is
  /// called.
  struct outcome {
    reload_result result{};
    std::uint64_t generation = 0;
    problem_list errors;
  };
  outcome reload();

  [[nodiscard]] status now() const;
  [[nodiscard]] const settings_source& source() const noexcept { return source_; }
  [[nodiscard]] runtime& target() const noexcept { return target_; }

  /// Called after each reload that leaves a configuration in force, and after each of any result. Set before the first.
  std::function<void()> published = [] {};
  std::function<void(const outcome&)> reloaded = [](const outcome&) {};

  /// From the first signal to leave on: not ready any more, and reloads are ignored.
  std::atomic<bool> draining = false;

 private:
  outcome attempt();
  outcome refused(problem_list problems);
  void adopt(configuration loaded);
  void log_reload(const outcome& o, const configuration& before) const;

  const settings_source source_;
  runtime& target_;
  std::mutex reloading_;
  mutable std::mutex mutex_;  // of status_
  status status_;
};

}  // namespace sidecar
