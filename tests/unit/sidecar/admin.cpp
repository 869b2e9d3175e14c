#include "sidecar/admin/admin.hpp"

#include <prometheus/text_serializer.h>

#include <catch2/catch.hpp>

#include "sidecar/admin/event_log.hpp"
#include "sidecar/admin/origin.hpp"
#include "sidecar/admin/overrides.hpp"
#include "sidecar/metrics/exposition.hpp"

using namespace sidecar;
using namespace std::chrono_literals;

namespace {

common::http::request from(common::http::pairs fields) {
  common::http::request r;
  r.fields = std::move(fields);
  return r;
}

settings one_route() {
  auto loaded = load_text(R"(version: 1
listen: { address: 127.0.0.1:0 }
admin: { address: 127.0.0.1:0 }
upstreams: { app: { targets: ["127.0.0.1:9"] } }
routes:
  - { name: app, match: { path_prefix: / }, upstream: app, rate_limiter: { limit: 30/m }, circuit_breaker: {} }
)",
                          "test.yaml");
  REQUIRE(loaded.has_value());
  return loaded->values;
}

std::string metrics_of(const runtime& of) {
  resilience::metric_page page;
  write_metrics(page, of);
  return prometheus::TextSerializer().Serialize(page.take());
}

std::vector<std::string> members(const boost::json::array& events, std::string_view name) {
  std::vector<std::string> all;
  for (const auto& e : events) {
    const auto& v = e.at(name);
    all.push_back(v.is_string() ? std::string(v.get_string()) : boost::json::serialize(v));
  }
  return all;
}

}  // namespace

TEST_CASE("only its own pages, and programs that are no browsers, may write to the admin address", "[admin]") {
  CHECK(may_write(from({{"Host", "127.0.0.1:17282"}}), "127.0.0.1"));
  CHECK(may_write(from({{"Host", "[::1]:17282"}}), "::1"));
  CHECK(may_write(from({{"Host", "localhost"}}), "127.0.0.1"));
  CHECK(may_write(from({{"Host", "admin.internal:17282"}}), "admin.internal"));
  CHECK(may_write(from({{"Host", "10.0.0.7:1"}, {"Origin", "http://10.0.0.7:1"}, {"Sec-Fetch-Site", "same-origin"}}),
                  "0.0.0.0"));

  CHECK_FALSE(may_write(from({}), "127.0.0.1"));
  CHECK_FALSE(may_write(from({{"Host", ""}}), "127.0.0.1"));
  CHECK_FALSE(may_write(from({{"Host", "evil.example:17282"}}), "127.0.0.1"));
  CHECK_FALSE(may_write(from({{"Host", "127.0.0.1.evil.example"}}), "127.0.0.1"));
  CHECK_FALSE(may_write(from({{"Host", "127.0.0.1:1"}, {"Origin", "http://127.0.0.1:2"}}), "127.0.0.1"));
  CHECK_FALSE(may_write(from({{"Host", "127.0.0.1:1"}, {"Origin", "null"}}), "127.0.0.1"));
  CHECK_FALSE(may_write(from({{"Host", "127.0.0.1:1"}, {"Sec-Fetch-Site", "same-site"}}), "127.0.0.1"));
}

TEST_CASE("the sidecar's counters come out under their names, summed over workers", "[admin]") {
  runtime state(2);
  state.apply(one_route());
  const auto counters = state.current()->routes.at(0).counters;
  counters->of(0).by_code[200].add(2);
  counters->of(1).by_code[200].add();
  counters->of(1).by_code[503].add();
  counters->of(0).local[static_cast<std::size_t>(reason::circuit_open)].add();
  for (const std::chrono::nanoseconds took : {500us, 501us, 2000000us, 100000000us}) counters->of(1).observe(took);
  counters->of(0).in_flight.add();
  counters->of(1).in_flight.subtract();  // begun on one worker's shard, ended on another's
  state.connections().of(1).client.add(3);

  const std::string page = metrics_of(state);
  for (const std::string line :
       {R"(sidecar_requests_total{route="app",code="200"} 3)", R"(sidecar_requests_total{route="app",code="503"} 1)",
        R"(sidecar_local_responses_total{route="app",reason="circuit_open"} 1)",
        R"(sidecar_request_duration_seconds_bucket{route="app",le="0.0005"} 1)",
        R"(sidecar_request_duration_seconds_bucket{route="app",le="0.001"} 2)",
        R"(sidecar_request_duration_seconds_bucket{route="app",le="60"} 3)",
        R"(sidecar_request_duration_seconds_bucket{route="app",le="+Inf"} 4)",
        R"(sidecar_request_duration_seconds_count{route="app"} 4)", R"(sidecar_requests_in_flight{route="app"} 0)",
        R"(sidecar_rate_limit{name="app"} 0.5)", R"(sidecar_connections{side="client"} 3)",
        R"(resilience4j_timelimiter_calls_total{kind="successful",name="app"} 3)",
        R"(resilience4j_timelimiter_calls_total{kind="failed",name="app"} 1)",
        R"(resilience4j_timelimiter_calls_total{kind="timeout",name="app"} 0)"}) {
    INFO(line);
    CHECK(page.contains(line + '\n'));
  }
}

TEST_CASE("a breaker's events are told in Resilience4j's words, the last hundred of them", "[admin]") {
  policies all;
  auto breaker = std::make_shared<resilience::circuit_breaker>(
      "app", resilience::circuit_breaker_config{.window = resilience::calls{2}, .min_calls = 2});
  all.circuit_breaker["app"] = breaker;
  event_log log;
  log.follow(all);
  for (int n = 0; n < 2; ++n)
    (void)breaker->execute([] { return std::make_error_code(std::errc::connection_refused); });
  (void)breaker->try_acquire();

  auto events = log.circuit_breaker({});
  auto types = members(events, "type");
  CHECK(std::ranges::count(types, "ERROR") == 2);
  CHECK(std::ranges::count(types, "FAILURE_RATE_EXCEEDED") == 1);
  CHECK(std::ranges::count(types, "STATE_TRANSITION") == 1);
  CHECK(types.back() == "NOT_PERMITTED");
  CHECK(members(log.circuit_breaker({.name = "app", .type = "STATE_TRANSITION"}), "stateTransition") ==
        std::vector<std::string>{"CLOSED_TO_OPEN"});
  const auto error = log.circuit_breaker({.type = "ERROR"}).at(0);
  CHECK(error.at("errorMessage").as_string() == std::make_error_code(std::errc::connection_refused).message());
  CHECK(error.at("durationInMs").as_int64() == 0);
  CHECK(error.at("stateTransition").is_null());
  CHECK(log.circuit_breaker({.name = "other"}).empty());

  breaker->reset();
  for (int n = 0; n < 150; ++n) (void)breaker->execute([] { return std::error_code{}; });
  events = log.circuit_breaker({});
  CHECK(members(events, "type") == std::vector<std::string>(100, "SUCCESS"));

  all.circuit_breaker["app"] = std::make_shared<resilience::circuit_breaker>("app");
  log.follow(all);  // another instance of that name
  CHECK(log.circuit_breaker({}).empty());
}

TEST_CASE("an override ends by its timer unless another came in between", "[admin]") {
  boost::asio::io_context io;
  overrides set_by_hand(io.get_executor());
  const auto breaker = std::make_shared<resilience::circuit_breaker>("app");
  set_by_hand.set(breaker, override_state::force_open, 1ms, "test");
  CHECK(breaker->state() == resilience::breaker_state::forced_open);
  io.run();
  CHECK(breaker->state() == resilience::breaker_state::closed);

  io.restart();
  set_by_hand.set(breaker, override_state::disable, 1ms, "test");
  set_by_hand.set(breaker, override_state::force_open, std::nullopt, "test");
  io.run();
  CHECK(breaker->state() == resilience::breaker_state::forced_open);
  set_by_hand.set(breaker, override_state::close, 1h, "test");
  io.restart();
  CHECK(io.run() == 0);  // nothing left to end
  CHECK(breaker->state() == resilience::breaker_state::closed);
}
