#include <resilience/load_probe.hpp>

#include <resilience/testing.hpp>

#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>

using namespace resilience;
using namespace std::chrono_literals;
namespace fs = std::filesystem;

namespace {

/// A root directory that is removed in the end.
struct scratch {
  fs::path root = fs::temp_directory_path() / ("load_probe_" + std::to_string(std::random_device{}()));
  scratch() { fs::create_directories(root); }
  ~scratch() { fs::remove_all(root); }
  void write(const std::string& path, const std::string& text) const {
    fs::create_directories((root / path).parent_path());
    std::ofstream(root / path) << text;
  }
};

}  // namespace

TEST_CASE("load is the group's CPU time as a share of its quota", "[load_probe]") {
  const scratch files;
  manual_clock clock;
  files.write("proc/self/cgroup", "1:cpu:/old\n0::/app.slice\n");
  files.write("sys/fs/cgroup/app.slice/cpu.max", "50000 100000\n");
  files.write("sys/fs/cgroup/app.slice/cpu.stat", "usage_usec 1000000\nuser_usec 5\n");
  load_probe probe(files.root.string());
  CHECK_FALSE(probe.read(clock.now()).has_value());
  clock.advance(1s);
  files.write("sys/fs/cgroup/app.slice/cpu.stat", "usage_usec 1400000\nuser_usec 5\n");
  CHECK(probe.read(clock.now()).value() == Approx(0.8));
}

TEST_CASE("waiting for a CPU half of the time is a full load", "[load_probe]") {
  const scratch files;
  manual_clock clock;
  const auto pressure = [&](int total) {
    files.write("proc/pressure/cpu", "some avg10=0.00 avg60=0.00 avg300=0.00 total=" + std::to_string(total) +
                                         "\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n");
  };
  pressure(100);
  load_probe probe(files.root.string());
  CHECK_FALSE(probe.read(clock.now()).has_value());
  clock.advance(2s);
  pressure(100 + 1'000'000);
  CHECK(probe.read(clock.now()).value() == Approx(1.0));
  clock.advance(2s);
  CHECK(probe.read(clock.now()).value() == Approx(0.0));
}

TEST_CASE("where nothing can be read, nothing is said", "[load_probe]") {
  const scratch files;
  manual_clock clock;
  load_probe probe(files.root.string());
  for (int n = 0; n < 3; ++n) {
    CHECK_FALSE(probe.read(clock.now()).has_value());
    clock.advance(1s);
    files.write("sys/fs/cgroup/cpu.stat", "usage_usec none\n");
    files.write("proc/pressure/cpu", "some total=\n");
  }
}
