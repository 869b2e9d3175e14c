#include "sidecar/config/load.hpp"

#include <catch2/catch.hpp>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>

#include "sidecar/config/verbs.hpp"

using namespace sidecar;
using namespace std::chrono_literals;
namespace fs = std::filesystem;

namespace {

const fs::path here = fs::path(__FILE__).parent_path();
const fs::path policies = here.parent_path().parent_path().parent_path() / "policies";

std::string contents(const fs::path& file) {
  std::ifstream in(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

constexpr std::string_view example = R"(version: 1
listen:    { address: 127.0.0.1:18282, max_connections: 500, max_header: 32KiB }
admin:     { address: 127.0.0.1:17282 }
upstreams:
  orders:  { targets: [127.0.0.1:19282], connect_timeout: 1s, idle_timeout: 4s, health_check: { path: /readyz, interval: 2s } }
policies:
  circuit_breaker:
    configs:
      default: { window: 20 calls, min_calls: 10, failure_rate: 50%, open_for: 5s, half_open_calls: 3 }
      patient: { base: calm, open_for: 30s }
      calm:    { open_for: 20s, half_open_calls: 7 }
    instances:
      orders:  { slow_call: 500ms, slow_call_rate: 80% }
      slow:    { base: patient, failure_rate: 60% }
  adaptive_rate_limiter:
    instances: { orders: { min_rate: 5/s, max_rate: 50/s } }
  bulkhead:    { instances: { orders: { max_concurrent: 25, max_wait: 0ms } } }
  retry:       { instances: { orders: { max_attempts: 3, retry_on: [reset, 503], methods: [GET], retry_after: ignore, replay_buffer: 1MiB } } }
routes:
  - name: orders
    match: { path_prefix: /order-service, methods: [GET, POST], headers: { X-Env: canary }, host: Shop.Example }
    upstream: orders
    timeout: 2s
    per_try_timeout: 600ms
    use: { adaptive_rate_limiter: orders, bulkhead: orders, retry: orders, circuit_breaker: orders }
    fallback: { when: [circuit_open, timed_out], respond: { status: 503, body: '{"status":"SERVICE_UNAVAILABLE"}' } }
    max_fields: 50
  - match: { path: /a/b/ }
    upstream: orders
    use: { circuit_breaker: slow }
    rate_limiter: { limit: 20/10s }
    fallback: { upstream: orders }
  - { match: { path_prefix: / }, upstream: orders, retry: { interval: 70ms } }
)";

configuration good(std::string_view text, load_options options = {}) {
  auto c = load_text(text, "test.yaml", options);
  if (!c) FAIL(resilience::to_string(c.error()));
  return std::move(*c);
}

std::string wrong(std::string_view text, load_options options = {}) {
  const auto c = load_text(text, "test.yaml", options);
  return c ? "" : resilience::to_string(c.error());
}

std::string value_of(const configuration& c, std::string_view path) {
  for (const effective_setting& s : c.effective) {
    if (s.dotted_path() == path) return s.value + " # " + (s.line > 0 ? std::to_string(s.line) : "default");
  }
  return "not there";
}

struct said {
  int code;
  std::string out, err;
};
template <class Verb>
said run(Verb verb, std::vector<std::string> args) {
  std::ostringstream out, err;
  const int code = verb(args, out, err);
  return {code, out.str(), err.str()};
}

std::string with_route(const std::string& route) {
  return "version: 1\nlisten: { address: 127.0.0.1:0 }\nupstreams: { app: { targets: [127.0.0.1:1] } }\nroutes:\n  - " +
         route + "\n";
}

}  // namespace

TEST_CASE("a file becomes settings", "[config]") {
  const configuration c = good(example);
  const settings& s = c.values;
  CHECK(c.warnings.empty());
  CHECK(s.listen.address == endpoint{"127.0.0.1", 18282});
  CHECK(s.listen.max_connections == 500);
  CHECK(s.admin == endpoint{"127.0.0.1", 17282});
  CHECK(s.upstreams.at("orders").health_check.value().path == "/readyz");
  CHECK(s.upstreams.at("orders").retry_budget == resilience::retry_budget_config{});
  CHECK(s.drain == drain_settings{});

  REQUIRE(s.routes.size() == 3);
  const route_settings& first = s.routes[0];
  CHECK(first.match.methods == std::set<std::string>{"GET", "POST"});
  CHECK(first.match.headers == std::map<std::string, std::string>{{"x-env", "canary"}});
  CHECK(first.match.host == "shop.example");
  CHECK(first.timeout == 2s);
  CHECK(first.per_try_timeout.value() == 600ms);
  CHECK(first.circuit_breaker.value() == "orders");
  CHECK_FALSE(first.rate_limiter.has_value());
  CHECK(first.limits.max_header == 32 * 1024);
  CHECK(first.limits.max_fields == 50);
  CHECK(first.fallback.value().when == std::set{reason::circuit_open, reason::timed_out});
  CHECK(std::get<fallback_settings::respond>(first.fallback->action).body == R"({"status":"SERVICE_UNAVAILABLE"})");

  CHECK(s.routes[1].name == "a-b");
  CHECK(s.routes[1].match.path == path_match{path_match::kind_type::exact, "/a/b/"});
  CHECK(s.routes[1].rate_limiter.value() == "a-b");
  CHECK(s.routes[1].fallback.value().when.size() == 10);
  CHECK(s.policies.rate_limiter.at("a-b").limit == resilience::rate{20, 10s});
  CHECK(s.routes[2].name == "root");
  CHECK(s.policies.retry.at("root").interval == resilience::retry_interval(70ms));

  const retry_rules& rules = s.policies.retry_rules_of.at("orders");
  CHECK_FALSE(rules.on_connect_failure);
  CHECK(rules.on_reset);
  CHECK(rules.on_status == std::set{503});
  CHECK(rules.methods == std::set<std::string>{"GET"});
  CHECK_FALSE(rules.honour_retry_after);
  CHECK(rules.replay_buffer == 1024 * 1024);
  CHECK(s.policies.retry_rules_of.at("root") == retry_rules{});
}

TEST_CASE("values come from the default, the chain of bases, the instance and the route, field by field", "[config]") {
  const configuration c = good(example);
  const auto& slow = c.values.policies.circuit_breaker.at("slow");
  CHECK(slow.failure_rate == resilience::percent{60});
  CHECK(slow.open_for == resilience::open_interval(30s));
  CHECK(slow.half_open_calls == 7);
  CHECK(slow.window == resilience::sliding_window(resilience::calls{20}));

  CHECK(value_of(c, "routes.a-b.circuit_breaker.failure_rate") == "60% # 14");
  CHECK(value_of(c, "routes.a-b.circuit_breaker.open_for") == "30s # 10");
  CHECK(value_of(c, "routes.a-b.circuit_breaker.half_open_calls") == "7 # 11");
  CHECK(value_of(c, "routes.a-b.circuit_breaker.window") == "20 calls # 9");
  CHECK(value_of(c, "routes.a-b.circuit_breaker.slow_call") == "60s # default");
  CHECK(value_of(c, "routes.a-b.retry") == "none # default");
  CHECK(value_of(c, "routes.a-b.max_header") == "32KiB # 2");
  CHECK(value_of(c, "routes.a-b.timeout") == "15s # default");
  CHECK(value_of(c, "routes.orders.pipeline") ==
        "fallback → adaptive_rate_limiter → bulkhead → timeout → retry → circuit_breaker → per_try_timeout # 20");
}

TEST_CASE("every broken file is answered with all of its errors", "[config]") {
  ::unsetenv("RESILIENCE_TEST_UNSET");
  const fs::path before = fs::current_path();
  fs::current_path(here / "broken");  // files are named as they were given
  int files = 0;
  for (const auto& entry : fs::directory_iterator(".")) {
    if (entry.path().extension() != ".yaml") continue;
    ++files;
    const std::string name = entry.path().filename().string();
    fs::path expected = entry.path();
    expected.replace_extension(".txt");
    const said answer = run(validate, {name});
    INFO(name);
    CHECK(answer.code == (name == "warnings.yaml" ? 0 : 2));
    CHECK(answer.err == contents(expected));
  }
  fs::current_path(before);
  CHECK(files >= 12);
}

TEST_CASE("the files of the project are good, and its reference is that of the program", "[config]") {
  int files = 0;
  for (const auto& entry : fs::directory_iterator(policies)) {
    if (entry.path().extension() != ".yaml") continue;
    ++files;
    const said answer = run(validate, {entry.path().string()});
    INFO(answer.err);
    CHECK(answer.code == 0);
    CHECK(answer.err.empty());
    CHECK(run(explain, {entry.path().string()}).code == 0);
  }
  CHECK(files == 6);
  // After a change of the tables: put what follows "## Every key" in policies/README.md right with this text.
  const std::string readme = contents(policies / "README.md");
  const std::string_view heading = "## Every key\n\n";
  const std::size_t at = readme.find(heading);
  REQUIRE(at != std::string::npos);
  CHECK(readme.substr(at + heading.size()) + "\n" == reference());
}

TEST_CASE("a file with policies alone can be checked, but not run", "[config]") {
  constexpr std::string_view alone = "policies: { bulkhead: { instances: { a: {} } } }\n";
  CHECK(good(alone, {.enable_chaos = false, .policies_alone = true}).warnings.empty());
  const std::string errors = wrong(alone);
  for (const char* key : {"version", "listen", "upstreams", "routes"}) {
    CHECK(errors.find("`" + std::string(key) + "` is missing") != std::string::npos);
  }
}

TEST_CASE("a file that is not there is one error", "[config]") {
  const said answer = run(validate, {"/does/not/exist.yaml"});
  CHECK(answer.code == 2);
  CHECK(answer.err == "/does/not/exist.yaml: error: can't be read: No such file or directory\n");
  CHECK(run(validate, {"/"}).code == 2);
}

TEST_CASE("the verbs tell how they are used", "[config]") {
  for (auto verb : {validate, explain, schema}) {
    CHECK(run(verb, {"--help"}).code == 0);
    CHECK(run(verb, {"--help"}).out.find("usage") != std::string::npos);
    CHECK(run(verb, {"--nonsense"}).code == 2);
  }
  CHECK(run(validate, {}).code == 2);
  CHECK(
      run(explain, {(policies / "quickstart.yaml").string(), "--route", "order"}).err.find("did you mean `orders`?") !=
      std::string::npos);
}

TEST_CASE("explain shows one route on demand, with the file and the line of each value", "[config]") {
  const std::string file = (policies / "quickstart.yaml").string();
  const said answer = run(explain, {file, "--route", "orders"});
  CHECK(answer.code == 0);
  CHECK(answer.out.find("routes.orders.retry.max_attempts = 4  # " + file + ":11\n") != std::string::npos);
  CHECK(answer.out.find("routes.orders.bulkhead.max_wait = 0ms  # default\n") != std::string::npos);
  CHECK(answer.out.find("listen.") == std::string::npos);
  CHECK(run(explain, {file}).out.find("listen.address = 127.0.0.1:8000  # " + file + ":3\n") != std::string::npos);
}

TEST_CASE("chaos needs leave", "[config]") {
  const std::string text =
      with_route("{ match: { path_prefix: / }, upstream: app, chaos: { rate: 10%, latency: 200ms, status: 503 } }");
  CHECK(wrong(text).find("--enable-chaos") != std::string::npos);
  const auto chaos = good(text, {.enable_chaos = true, .policies_alone = false}).values.routes[0].chaos;
  REQUIRE(chaos.has_value());
  CHECK(chaos->latency == 200ms);
}

TEST_CASE("a route is shadowed only by one that takes everything it would", "[config]") {
  const auto warned = [](const std::string& first, const std::string& second) {
    const auto c = good(
        "version: 1\nlisten: { address: 127.0.0.1:0 }\nupstreams: { app: { targets: [127.0.0.1:1] } }\nroutes:\n  - { "
        "name: one, upstream: app, match: " +
        first + " }\n  - { name: two, upstream: app, match: " + second + " }\n");
    return !c.warnings.empty();
  };
  CHECK(warned("{ path_prefix: / }", "{ path_regex: /a.* }"));
  CHECK(warned("{ path_prefix: /a }", "{ path: /a }"));
  CHECK(warned("{ path_prefix: /a }", "{ path_prefix: /a/b, methods: [GET] }"));
  CHECK_FALSE(warned("{ path_prefix: /a }", "{ path_prefix: /ab }"));
  CHECK_FALSE(warned("{ path_prefix: /a, methods: [GET] }", "{ path_prefix: /a }"));
  CHECK_FALSE(warned("{ path_prefix: /a, host: x }", "{ path_prefix: /a }"));
  CHECK_FALSE(warned("{ path_prefix: /a, headers: { a: b } }", "{ path_prefix: /a }"));
  CHECK_FALSE(warned("{ path: /a }", "{ path_prefix: /a }"));
}

TEST_CASE("the hash is that of the effective values, and a diff names each change", "[config]") {
  const configuration before =
      good(with_route("{ match: { path_prefix: /a }, upstream: app, bulkhead: { max_concurrent: 5 } }"));
  const configuration same =
      good("# a comment\n" +
           with_route("{ bulkhead: { max_concurrent: \"5\" }, upstream: app, match: { path_prefix: /a } }"));
  const configuration after = good(with_route(
      "{ match: { path_prefix: /a }, upstream: app, bulkhead: { max_concurrent: 6 }, per_try_timeout: 1s }"));
  CHECK(before.hash == same.hash);
  CHECK(diff(before, same).empty());
  CHECK(before.hash != after.hash);
  std::map<std::string, std::string> changes;
  for (const changed_setting& c : diff(before, after)) changes[c.path] = c.before + " to " + c.after;
  CHECK(changes["routes.a.bulkhead.max_concurrent"] == "5 to 6");
  CHECK(changes["routes.a.per_try_timeout"] == "none to 1s");
  CHECK(changes["routes.a.pipeline"] == "bulkhead → timeout to bulkhead → timeout → per_try_timeout");
  CHECK(changes.size() == 3);
  CHECK(to_json(after).find(R"("bulkhead":{"max_concurrent":6,"max_wait":"0ms"})") != std::string::npos);
}

TEST_CASE("a patch is checked as a file is", "[config]") {
  const resilience::circuit_breaker_config base{.min_calls = 4};
  const auto changed = patched(base, R"({"failure_rate": "40%", "window": "10s"})");
  REQUIRE(changed.has_value());
  CHECK(changed->failure_rate == resilience::percent{40});
  CHECK(changed->min_calls == 4);
  CHECK(settings_json(*changed).find(R"("window":"10s")") != std::string::npos);

  const auto refused = patched(base, R"({"failure_rate": "140%", "nonsense": 1})");
  REQUIRE_FALSE(refused.has_value());
  CHECK(refused.error().size() == 2);
  CHECK_FALSE(patched(base, "[]").has_value());
  CHECK_FALSE(patched(base, "").has_value());
  ::setenv("RESILIENCE_TEST_SECRET", "7", 1);
  CHECK_FALSE(patched(base, R"({"min_calls": "${RESILIENCE_TEST_SECRET}"})").has_value());
}

TEST_CASE("the schema is generated from the tables", "[config]") {
  const said answer = run(schema, {});
  CHECK(answer.code == 0);
  CHECK(answer.out.starts_with(R"({"$schema":"https://json-schema.org/draft/2020-12/schema")"));
  CHECK(std::ranges::count(answer.out, '{') > 100);
  for (const char* part : {R"("failure_rate":{"description")", R"("default":"50%")", R"("required":["address"])",
                           R"("const":"exponential")"}) {
    CHECK(answer.out.find(part) != std::string::npos);
  }
}
