#pragma once
/// How loaded this process's own machine is, for `adaptive_rate_limiter::report_load`.

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <exception>
#include <fstream>
#include <optional>
#include <string>
#include <thread>
#include <utility>

#include <resilience/clock.hpp>

namespace resilience {

/// Reads Linux' cgroup v2 and pressure files; what is absent is left out. Threads: one at a time.
class load_probe {
 public:
  /// `root` is where `proc` and `sys` are found.
  explicit load_probe(std::string root = "") : root_(std::move(root)) {}

  /// Utilisation since the last reading: the larger of the cgroup's CPU time as a share of its quota (without one, of
  /// all CPUs) and the share of time in which some task waited for a CPU, a half counting as full.
  /// Nothing at the first reading and where nothing can be read. Call it about once a second.
  std::optional<double> read(time_point now) {
    const std::optional<std::int64_t> used = number_after(cgroup() + "cpu.stat", "usage_usec ");
    std::optional<std::int64_t> stalled = number_after(cgroup() + "cpu.pressure", "some ", "total=");
    if (!stalled) stalled = number_after(root_ + "/proc/pressure/cpu", "some ", "total=");

    std::optional<double> load;
    const double microseconds = std::chrono::duration<double, std::micro>(now - read_at_).count();
    const auto add = [&](std::optional<std::int64_t> before, std::optional<std::int64_t> after, double full) {
      if (!before || !after || microseconds <= 0) return;
      load = std::max(load.value_or(0), static_cast<double>(*after - *before) / (microseconds * full));
    };
    add(used_, used, cpus());
    add(stalled_, stalled, 0.5);
    used_ = used;
    stalled_ = stalled;
    read_at_ = now;
    return load;
  }

 private:
  /// The directory of the process's own group, with a slash at its end.
  std::string cgroup() const {
    std::ifstream file(root_ + "/proc/self/cgroup");
    std::string line;
    while (std::getline(file, line)) {
      if (line.starts_with("0::/")) return root_ + "/sys/fs/cgroup" + line.substr(3) + (line.size() > 4 ? "/" : "");
    }
    return root_ + "/sys/fs/cgroup/";
  }

  /// How many CPUs the group may use.
  double cpus() const {
    std::ifstream file(cgroup() + "cpu.max");
    double quota = 0, period = 0;
    if (file >> quota >> period && quota > 0 && period > 0) return quota / period;
    return std::max(1U, std::thread::hardware_concurrency());
  }

  /// The number behind `key` (in the line that begins with it), or behind `then` after that.
  static std::optional<std::int64_t> number_after(const std::string& path, const std::string& key,
                                                  const std::string& then = "") {
    std::ifstream file(path);
    std::string line;
    while (std::getline(file, line)) {
      if (!line.starts_with(key)) continue;
      const std::size_t at = line.find(then, key.size());
      if (at == std::string::npos) return std::nullopt;
      try {
        return std::stoll(line.substr(at + then.size()));
      } catch (const std::exception&) {
        return std::nullopt;
      }
    }
    return std::nullopt;
  }

  std::string root_;
  std::optional<std::int64_t> used_, stalled_;  // microseconds
  time_point read_at_{};
};

}  // namespace resilience
