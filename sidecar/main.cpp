// resilience-sidecar: the verbs, the signals, and the watch over the file.
#include <algorithm>
#include <boost/asio.hpp>
#include <csignal>
#include <cstdlib>
#include <iostream>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "common/log.hpp"
#include "sidecar/admin/admin.hpp"
#include "sidecar/admin/control.hpp"
#include "sidecar/arguments.hpp"
#include "sidecar/config/load.hpp"
#include "sidecar/config/verbs.hpp"
#include "sidecar/file_watch.hpp"
#include "sidecar/proxy/proxy.hpp"

namespace sidecar {
namespace {

namespace asio = boost::asio;
namespace log = common::log;

constexpr int ok = 0, failed = 1, unusable = 2;

/// Serves until told to leave; returns the exit code.
class service {
 public:
  service(const run_arguments& given, configuration loaded, const file_watch::identity& read)
      : workers_(worker_count(given, loaded)),
        state_(workers_),
        control_({.file = given.file,
                  .options = {.enable_chaos = given.enable_chaos},
                  .override = [given](settings& s) { override_with(given, s); }},
                 std::move(loaded), state_),
        proxy_(state_),
        admin_(control_),
        watch_(io_, given.file, read) {
    control_.published = [this] { proxy_.publish(); };
  }

  int run() {
    const auto port = proxy_.start();
    if (!port) return cannot_listen("listen", port.error());
    const auto admin_port = admin_.start();  // second: who is ready serves, and a reload needs a proxy that runs
    if (!admin_port) return cannot_listen("admin", admin_port.error());
    const settings& config = state_.current()->config;
    log::info("listening", {{"address", config.listen.address.host},
                            {"port", *port},
                            {"admin_address", config.admin.host},
                            {"admin_port", *admin_port},
                            {"threads", workers_},
                            {"generation", state_.current()->generation}});
    wait_for_signal();
    watch_.start([this] { reload_soon(); });
    io_.run();
    // A reload that has begun uses what is destroyed next.
    background_.join();
    return exit_code_;
  }

 private:
  static std::size_t worker_count(const run_arguments& given, const configuration& loaded) {
    settings s = loaded.values;
    override_with(given, s);
    const unsigned cpus = std::max(std::thread::hardware_concurrency(), 1u);
    return s.listen.threads > 0 ? static_cast<std::size_t>(s.listen.threads) : cpus;
  }

  static int cannot_listen(std::string_view what, const std::string& why) {
    std::cerr << "resilience-sidecar: cannot listen (" << what << "): " << why << '\n';
    return failed;
  }

  void wait_for_signal() {
    signals_.async_wait([this](const boost::system::error_code& ec, int number) {
      if (ec) return;
      if (number == SIGHUP) {
        reload_soon();
      } else if (control_.draining) {
        leave_at_once();
      } else {
        drain();
      }
      wait_for_signal();
    });
  }

  /// Off the thread that waits for signals: looking names up may take long.
  void reload_soon() {
    asio::post(background_, [this] { control_.reload(); });
  }

  void drain() {
    control_.draining = true;
    const drain_settings times = state_.current()->config.drain;
    log::info("draining", {{"delay_ms", std::chrono::duration_cast<std::chrono::milliseconds>(times.delay).count()},
                           {"in_flight", proxy_.requests_in_flight()}});
    deadline_.expires_after(times.timeout);
    deadline_.async_wait([this](const boost::system::error_code& ec) {
      if (!ec) leave(proxy_.force());
    });
    delay_.expires_after(times.delay);
    delay_.async_wait([this](const boost::system::error_code& ec) {
      if (ec) return;
      proxy_.stop_accepting();
      proxy_.drain([this] { asio::post(io_, [this] { leave(0); }); });
    });
  }

  void leave(std::size_t cut) {
    if (cut > 0) log::warn("requests were cut", {{"count", cut}});
    log::info("leaving");
    exit_code_ = cut > 0 ? failed : ok;
    io_.stop();
  }

  void leave_at_once() {
    const std::size_t cut = proxy_.requests_in_flight();
    log::warn("leaving at once", {{"cut", cut}});
    std::_Exit(cut > 0 ? failed : ok);
  }

  asio::io_context io_{1};
  asio::signal_set signals_{io_, SIGHUP, SIGTERM, SIGINT};
  asio::steady_timer delay_{io_}, deadline_{io_};
  int exit_code_ = ok;
  const std::size_t workers_;
  runtime state_;
  control control_;
  proxy proxy_;
  admin admin_;
  asio::thread_pool background_{1};
  file_watch watch_;
};

constexpr std::string_view help =
    "usage:\n"
    "  resilience-sidecar [run] FILE [options]   serves what FILE configures\n"
    "  resilience-sidecar validate FILE          says everything that is wrong with FILE\n"
    "  resilience-sidecar explain FILE           says every effective setting and where it comes from\n"
    "  resilience-sidecar schema                 prints the JSON Schema of the file\n"
    "  --help and --version on every verb\n"
    "\n"
    "options of run, which override the file:\n"
    "  --listen ADDRESS:PORT   where clients connect\n"
    "  --admin ADDRESS:PORT    where health, metrics and the live page are\n"
    "  --threads N             event loops; 0 is one for each CPU\n"
    "  --log-level LEVEL       debug, info (default), warn or error\n"
    "  --enable-chaos          lets routes inject faults\n"
    "SIGHUP, or a change of the file, reads it again; SIGTERM and SIGINT drain, twice leave at once.\n"
    "\n"
    "exit codes: 0 ok, 1 failure while running, 2 bad configuration or usage\n";

bool has(std::span<const std::string> args, std::string_view word) {
  return std::ranges::find(args, word) != args.end();
}

int run(std::span<const std::string> args) {
  if (has(args, "--help") || has(args, "-h")) {
    std::cout << help;
    return ok;
  }
  const auto given = parse_run(args);
  if (!given) {
    std::cerr << "resilience-sidecar: " << given.error() << "\nTry 'resilience-sidecar --help'.\n";
    return unusable;
  }
  std::signal(SIGPIPE, SIG_IGN);
  if (given->log_level) log::set_level(*given->log_level);
  const file_watch::identity read = file_watch::look(given->file);
  auto loaded = load(given->file, {.enable_chaos = given->enable_chaos});
  std::cerr << resilience::to_string(loaded ? loaded->warnings : loaded.error());
  if (!loaded) return unusable;
  return service(*given, std::move(*loaded), read).run();
}

int main(std::span<const std::string> args) {
  if (has(args, "--version")) {
    std::cout << "resilience-sidecar " SIDECAR_VERSION "\n";
    return ok;
  }
  const std::string_view verb = args.empty() ? "" : std::string_view(args[0]);
  if (verb == "validate") return validate(args.subspan(1), std::cout, std::cerr);
  if (verb == "explain") return explain(args.subspan(1), std::cout, std::cerr);
  if (verb == "schema") return schema(args.subspan(1), std::cout, std::cerr);
  return run(verb == "run" ? args.subspan(1) : args);
}

}  // namespace
}  // namespace sidecar

int main(int argc, char** argv) {
  try {
    const std::vector<std::string> args(argv + 1, argv + argc);
    return sidecar::main(args);
  } catch (const std::exception& e) {
    std::cerr << "resilience-sidecar: " << e.what() << '\n';
    return 1;
  }
}
