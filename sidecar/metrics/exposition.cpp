#include "sidecar/metrics/exposition.hpp"

#include <array>
#include <string>

namespace sidecar {
namespace {

using resilience::metric_page;

/// The sum over all workers of one counter of the shard.
template <class Counters, class Pick>
std::uint64_t total(const Counters& counters, Pick pick) {
  return counters.sum([&](const auto& shard) { return pick(shard).read(); });
}

/// Zeros too: a counter that first appears with its first increment hides that increment from rate().
void write_by_reason(metric_page& page, std::string_view name, std::string_view help, const route_counters& r,
                     std::array<counter, reason_count> route_shard::* counts) {
  for (std::size_t i = 0; i < reason_count; ++i) {
    const std::uint64_t n = total(r, [&](const route_shard& s) -> const counter& { return (s.*counts)[i]; });
    page.counter(name, help, static_cast<double>(n), {{"route", r.name}, {"reason", reason_texts[i].token}});
  }
}

void write_time_limiter(metric_page& page, const route_counters& r, std::uint64_t finished, std::uint64_t errors) {
  const std::uint64_t timed_out = total(r, [](const route_shard& s) -> const counter& { return s.timed_out; });
  // Requests cut by the timeout are errors too; a fallback may have answered some of them with success.
  const std::uint64_t failed = errors > timed_out ? errors - timed_out : 0;
  const std::uint64_t successful = finished > failed + timed_out ? finished - failed - timed_out : 0;
  const auto count = [&](std::string_view kind, std::uint64_t n) {
    page.counter("resilience4j_timelimiter_calls_total", "Finished calls, by result", static_cast<double>(n),
                 {{"kind", kind}, {"name", r.name}});
  };
  count("successful", successful);
  count("failed", failed);
  count("timeout", timed_out);
}

void write_route(metric_page& page, const route_counters& r) {
  std::uint64_t errors = 0;
  for (std::size_t code = 100; code < 600; ++code) {
    const std::uint64_t n = total(r, [&](const route_shard& s) -> const counter& { return s.by_code[code]; });
    if (n == 0) continue;
    if (code >= 500) errors += n;
    page.counter("sidecar_requests_total", "Answered requests", static_cast<double>(n),
                 {{"route", r.name}, {"code", std::to_string(code)}});
  }
  write_by_reason(page, "sidecar_local_responses_total", "Answers made here instead of by an upstream", r,
                  &route_shard::local);
  if (!r.name.empty()) {
    write_by_reason(page, "sidecar_fallbacks_total", "Requests answered by a fallback, by what it stood in for", r,
                    &route_shard::fallbacks);
  }

  std::array<std::uint64_t, duration_bounds.size() + 1> durations{};
  std::uint64_t finished = 0;
  for (std::size_t i = 0; i < durations.size(); ++i) {
    durations[i] = total(r, [&](const route_shard& s) -> const counter& { return s.durations[i]; });
    finished += durations[i];
  }
  const std::uint64_t spent = total(r, [](const route_shard& s) -> const counter& { return s.duration_ns; });
  page.histogram("sidecar_request_duration_seconds", "From a request's head to the end of its answer", duration_bounds,
                 durations, static_cast<double>(spent) * 1e-9, {{"route", r.name}});
  const std::uint64_t flying = total(r, [](const route_shard& s) -> const counter& { return s.in_flight; });
  page.gauge("sidecar_requests_in_flight", "Requests being served", static_cast<double>(flying), {{"route", r.name}});
  if (!r.name.empty()) write_time_limiter(page, r, finished, errors);
}

void write_upstream(metric_page& page, const upstream_counters& u) {
  for (std::size_t i = 0; i < attempt_result_texts.size(); ++i) {
    const std::uint64_t n = total(u, [&](const upstream_shard& s) -> const counter& { return s.attempts[i]; });
    page.counter("sidecar_upstream_attempts_total", "Attempts at an upstream, by result", static_cast<double>(n),
                 {{"upstream", u.name}, {"result", attempt_result_texts[i]}});
  }
  for (std::size_t i = 0; i < retry_suppression_texts.size(); ++i) {
    const std::uint64_t n = total(u, [&](const upstream_shard& s) -> const counter& { return s.suppressed[i]; });
    page.counter("sidecar_retries_suppressed_total", "Failures that were not repeated, by reason",
                 static_cast<double>(n), {{"upstream", u.name}, {"reason", retry_suppression_texts[i]}});
  }
}

void write_limits(metric_page& page, const policies& all) {
  constexpr std::string_view name = "sidecar_rate_limit", help = "Calls per second that a limiter lets through now";
  for (const auto& [key, limiter] : all.rate_limiter) {
    page.gauge(name, help, limiter->config().limit.per_second(), {{"name", key}});
  }
  for (const auto& [key, limiter] : all.adaptive_rate_limiter) {
    const resilience::adaptive_explanation why = limiter->explain();
    page.gauge(name, help, why.rate, {{"name", key}});
    constexpr std::string_view loops = "sidecar_adaptive_limit";
    constexpr std::string_view loops_help = "What each loop of an adaptive limiter would allow; the lower one binds";
    page.gauge(loops, loops_help, why.error_loop_limit, {{"name", key}, {"loop", "error_loop"}});
    page.gauge(loops, loops_help, why.load_loop_limit, {{"name", key}, {"loop", "load_loop"}});
  }
}

}  // namespace

void write_metrics(metric_page& page, const runtime& from) {
  for (const auto& r : from.routes()) write_route(page, *r);
  for (const auto& u : from.upstreams()) write_upstream(page, *u);
  const auto connections = [&](std::string_view side, counter connection_shard::* which) {
    const std::uint64_t n =
        total(from.connections(), [&](const connection_shard& s) -> const counter& { return s.*which; });
    page.gauge("sidecar_connections", "Open connections", static_cast<double>(n), {{"side", side}});
  };
  connections("client", &connection_shard::client);
  connections("upstream", &connection_shard::upstream);
  write_limits(page, from.all_policies());
}

}  // namespace sidecar
