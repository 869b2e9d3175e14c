#include "common/service.hpp"

#include <prometheus/histogram.h>
#include <prometheus/text_serializer.h>
#include <signal.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <sstream>
#include <tuple>

#include "common/json_writer.hpp"
#include "common/log.hpp"

namespace common {
namespace {

using namespace std::chrono_literals;

// Blocks the signals that end a service, before there is a second thread, so that only `wait` sees them.
class ending_signals {
 public:
  ending_signals() {
    sigemptyset(&set_);
    sigaddset(&set_, SIGTERM);
    sigaddset(&set_, SIGINT);
    pthread_sigmask(SIG_BLOCK, &set_, nullptr);
    signal(SIGPIPE, SIG_IGN);
  }
  void wait() const {
    int received = 0;
    while (sigwait(&set_, &received) != 0) {
    }
  }
  [[nodiscard]] bool came_within(std::chrono::milliseconds limit) const {
    const timespec t{.tv_sec = limit.count() / 1000, .tv_nsec = limit.count() % 1000 * 1'000'000};
    return sigtimedwait(&set_, nullptr, &t) > 0;
  }

 private:
  sigset_t set_{};
};

// Counts and durations of requests. Its labels are ours: clients choose neither routes nor, here, methods.
class request_metrics {
 public:
  explicit request_metrics(prometheus::Registry& registry)
      : family_(prometheus::BuildHistogram()
                    .Name("http_server_requests_seconds")
                    .Help("Requests answered and the time from their first byte to the answer")
                    .Register(registry)) {}

  // Called on the server's I/O thread only.
  void observe(const http::exchange& e) {
    static constexpr std::array<std::string_view, 7> methods{"GET",   "HEAD",   "POST",   "PUT",
                                                             "PATCH", "DELETE", "OPTIONS"};
    const auto known = std::ranges::find(methods, e.method);
    const std::string_view method = known == methods.end() ? "other" : *known;
    const std::tuple key{method, e.pattern, e.status};
    auto at = series_.find(key);
    if (at == series_.end()) {
      const prometheus::Histogram::BucketBoundaries seconds{.0005, .001, .0025, .005, .01, .025, .05, .1,
                                                            .25,   .5,   1,     2.5,  5,   10,   30};
      auto& made = family_.Add(
          {{"method", std::string(method)}, {"route", std::string(e.pattern)}, {"status", std::to_string(e.status)}},
          seconds);
      at = series_.emplace(std::tuple{std::string(method), std::string(e.pattern), e.status}, &made).first;
    }
    at->second->Observe(std::chrono::duration<double>(e.duration).count());
  }

 private:
  prometheus::Family<prometheus::Histogram>& family_;
  std::map<std::tuple<std::string, std::string, int>, prometheus::Histogram*, std::less<>> series_;
};

void log_exchange(const http::exchange& e) {
  if (!log::enabled(log::level::debug)) return;
  log::debug("request", {{"method", e.method},
                         {"path", e.path},
                         {"status", e.status},
                         {"durationMs", std::chrono::duration<double, std::milli>(e.duration).count()},
                         {"requestBytes", e.request_bytes},
                         {"responseBytes", e.response_bytes},
                         {"correlationId", e.correlation_id}});
}

http::response ready_response(const http::server& server, const application* running) {
  const readiness how = running ? running->ready() : readiness{.ready = false};
  const bool ready = how.ready && !server.draining();
  json_writer w;
  w.begin_object().member("status", ready ? "UP" : "OUT_OF_SERVICE");
  w.key("restore").begin_object().member("done", how.restored).member("total", how.to_restore).end_object();
  w.end_object();
  return http::json(std::move(w).text(), ready ? 200 : 503);
}

http::response metrics_response(const prometheus::Registry& metrics, const resilience::prometheus_exporter& policies) {
  std::ostringstream text;
  const prometheus::TextSerializer serializer;
  serializer.Serialize(text, metrics.Collect());
  serializer.Serialize(text, policies.Collect());
  http::response out;
  out.content_type = "text/plain; version=0.0.4; charset=utf-8";
  out.body = std::move(text).str();
  return out;
}

// From the first signal on. The exit code.
int end(const ending_signals& signals, http::server& server, application& running, const config& settings) {
  log::info("draining");
  const auto begun = std::chrono::steady_clock::now();
  const std::chrono::milliseconds limit(settings.integer("drain.timeout-ms"));
  server.begin_drain();
  running.drain();
  bool hurry = signals.came_within(std::chrono::milliseconds(settings.integer("drain.delay-ms")));
  bool idle = false;
  while (!idle && !hurry && std::chrono::steady_clock::now() - begun < limit) {
    idle = server.wait_idle(20ms);
    hurry = !idle && signals.came_within(0ms);
  }
  if (!idle) idle = server.wait_idle(0ms);
  if (!idle) {
    // A handler that hangs would hang the orderly way out too.
    log::error(hurry ? "ended by a second signal; requests were cut" : "requests were cut at the end of the drain");
    std::_Exit(1);
  }
  server.stop();
  log::info("stopped");
  return 0;
}

}  // namespace

std::vector<option> service_options(std::uint16_t port) {
  return {
      {"address", "127.0.0.1", "IP address to listen on."},
      {"port", std::to_string(port), "Port to listen on, 0-65535; 0: the system chooses, the log tells.",
       option::type::integer, 0, 65535},
      {"workers", "16", "Threads that answer requests, 1-1024.", option::type::integer, 1, 1024},
      {"log.level", "info", "Least level that is logged: debug (every request), info, warn, error."},
      {"drain.delay-ms", "500", "Milliseconds of answering 503 after SIGTERM before the end, 0-60000.",
       option::type::integer, 0, 60'000},
      {"drain.timeout-ms", "60000", "Milliseconds that requests have to finish after SIGTERM, 0-600000.",
       option::type::integer, 0, 600'000},
  };
}

void add_standard_routes(http::router& routes, std::string_view openapi, const http::server& server,
                         std::function<const application*()> running, const prometheus::Registry& metrics,
                         const resilience::prometheus_exporter& policies) {
  routes.add("GET", "/livez", [](const http::request&) { return http::json(R"({"status":"UP"})"); }).while_draining =
      true;
  routes.add("GET", "/readyz", [&server, running](const http::request&) { return ready_response(server, running()); })
      .while_draining = true;
  routes
      .add("GET", "/health",
           [running](const http::request&) {
             resilience::health_report health;
             if (const application* app = running()) app->describe(health);
             return http::json(health.json());
           })
      .while_draining = true;
  http::route& scrape = routes.add(
      "GET", "/metrics", [&metrics, &policies](const http::request&) { return metrics_response(metrics, policies); });
  scrape.while_draining = true;
  scrape.produces = "text/plain";
  routes.add("GET", "/openapi.json", [openapi](const http::request&) { return http::json(std::string(openapi)); })
      .while_draining = true;
}

int run_service(const service_definition& service, int argc, const char* const* argv) {
  std::vector<option> options = service_options(service.port);
  options.insert(options.end(), service.options.begin(), service.options.end());
  std::vector<std::string> environment;
  for (char** entry = environ; *entry != nullptr; ++entry) environment.emplace_back(*entry);
  auto settings = config::read(service.name, options, std::vector<std::string>(argv + 1, argv + argc), environment);
  if (!settings) {
    std::fputs(settings.error().text.c_str(), settings.error().status == 0 ? stdout : stderr);
    return settings.error().status;
  }
  const auto level = log::level_of(settings->text("log.level"));
  if (!level) {
    std::fputs("log.level must be debug, info, warn or error\n", stderr);
    return 2;
  }
  log::set_level(*level);

  const ending_signals signals;
  prometheus::Registry metrics;
  resilience::prometheus_exporter policies;
  request_metrics requests(metrics);
  http::server_settings listening;
  listening.address = settings->text("address");
  listening.port = static_cast<std::uint16_t>(settings->integer("port"));
  listening.workers = static_cast<int>(settings->integer("workers"));
  std::unique_ptr<application> running;
  http::server server(std::move(listening));
  server.on_exchange([&requests](const http::exchange& e) {
    requests.observe(e);
    log_exchange(e);
  });
  add_standard_routes(
      server.routes(), service.openapi, server, [&running] { return running.get(); }, metrics, policies);
  try {
    service_context context{*settings, server, metrics, policies};
    running = service.make(context);
  } catch (const std::invalid_argument& e) {
    std::fputs((std::string(e.what()) + '\n').c_str(), stderr);
    return 2;
  } catch (const std::exception& e) {
    log::error("cannot start", {{"service", service.name}, {"reason", e.what()}});
    return 1;
  }
  const auto port = server.start();
  if (!port) {
    log::error("cannot start", {{"service", service.name}, {"reason", port.error()}});
    return 1;
  }
  log::info("listening", {{"service", service.name}, {"address", settings->text("address")}, {"port", *port}});
  signals.wait();
  return end(signals, server, *running, *settings);
}

}  // namespace common
