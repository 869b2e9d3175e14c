#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstdio>
#include <filesystem>
#include <fstream>

#include <resilience/testing.hpp>
#include <resilience/yaml.hpp>

using namespace resilience;
using namespace std::chrono_literals;

namespace {

constexpr std::string_view text = R"(policies:
  circuit_breaker:
    configs: { default: { window: 4 calls, min_calls: 4, open_for: 5s } }
    instances: { orders: {}, stock: { min_calls: 2 } }
  rate_limiter: { instances: { orders: { limit: 10/s, burst: 10 } } }
  adaptive_rate_limiter: { instances: { orders: { min_rate: 5/s, max_rate: 40/s } } }
  bulkhead: { instances: { orders: { max_concurrent: 2 } } }
  retry: { instances: { orders: { max_attempts: 4, interval: 50ms }, free: {} } }
  retry_budget: { instances: { orders: { ratio: 10%, min: 1/s } } }
  time_limiter: { instances: { orders: { timeout: 2s, cancel: false } } }
)";

/// A file of this process, removed in the end.
struct temporary_file {
  explicit temporary_file(std::string_view content)
      : path(
            (std::filesystem::temp_directory_path() / ("resilience-policies-" + std::to_string(::getpid()))).string()) {
    write(content);
  }
  ~temporary_file() { std::remove(path.c_str()); }
  void write(std::string_view content) const { std::ofstream(path, std::ios::binary) << content; }
  std::string path;
};

void fail(auto& breaker) {
  auto permit = breaker.try_acquire();
  REQUIRE(permit.has_value());
  permit->failure();
}

}  // namespace

TEST_CASE("a file gives policies by kind and name", "[policies]") {
  const temporary_file file(text);
  const auto loaded = load_policies(file.path);
  CHECK(loaded.circuit_breaker("orders")->config().min_calls == 4);
  CHECK(loaded.circuit_breaker("stock")->config().min_calls == 2);
  CHECK(loaded.circuit_breaker("stock")->name() == "stock");
  CHECK(loaded.rate_limiter("orders")->config().limit == per_second(10));
  CHECK(loaded.adaptive_rate_limiter("orders")->config().max_rate == per_second(40));
  CHECK(loaded.bulkhead("orders")->config().max_concurrent == 2);
  CHECK(loaded.retry("orders")->config().max_attempts == 4);
  CHECK(loaded.retry("orders")->budget().get() == loaded.retry_budget("orders").get());
  CHECK(loaded.retry("free")->budget() == nullptr);
  CHECK(loaded.time_limiter("orders")->config().timeout == 2s);
  CHECK_THROWS_AS(loaded.bulkhead("nobody"), std::out_of_range);
  int count = 0;
  loaded.for_each([&](const auto& policy) { count += policy.name().empty() ? 0 : 1; });
  CHECK(count == 9);
}

TEST_CASE("a wrong file throws everything that is wrong with it", "[policies]") {
  const temporary_file file("policies:\n  bulkhead: { instances: { a: { max_concurent: 1, max_wait: 5 } } }\n");
  try {
    load_policies(file.path);
    FAIL("it was read");
  } catch (const invalid_configuration& e) {
    REQUIRE(e.problems().size() == 2);
    CHECK(e.problems()[0].line == 2);
    CHECK(std::string(e.what()).find(
              file.path + ":2:33: error: unknown key `max_concurent`; did you mean `max_concurrent`?\n2 |") == 0);
  }
  CHECK_THROWS_AS(load_policies("/does/not/exist.yaml"), invalid_configuration);
}

TEST_CASE("a reload keeps the state of every instance whose name remains", "[policies]") {
  manual_clock clock;
  auto loaded = basic_policies<manual_clock>::from_text(text, "first", clock);
  const auto breaker = loaded.circuit_breaker("orders");
  const auto limiter = loaded.rate_limiter("orders");
  const auto bulkhead = loaded.bulkhead("orders");
  const auto retry = loaded.retry("orders");
  const auto gone = loaded.circuit_breaker("stock");
  for (int i = 0; i < 4; ++i) fail(*breaker);
  REQUIRE(breaker->state() == breaker_state::open);
  clock.advance(2s);
  for (int i = 0; i < 10; ++i) REQUIRE(limiter->try_acquire().has_value());
  auto held = bulkhead->try_acquire();
  REQUIRE(held.has_value());

  loaded.reload_text(R"(policies:
  circuit_breaker: { instances: { orders: { window: 8 calls, min_calls: 8, open_for: 5s }, new: {} } }
  rate_limiter: { instances: { orders: { limit: 20/s, burst: 20 } } }
  bulkhead: { instances: { orders: { max_concurrent: 1 } } }
  retry: { instances: { orders: { max_attempts: 2 } } }
  retry_budget: { instances: { orders: {} } }
)");
  CHECK(loaded.circuit_breaker("orders") == breaker);
  CHECK(breaker->config().window == sliding_window(calls{8}));
  CHECK(breaker->state() == breaker_state::open);
  clock.advance(3s - 1ns);
  CHECK_FALSE(breaker->try_acquire().has_value());
  CHECK(loaded.rate_limiter("orders") == limiter);
  CHECK(loaded.bulkhead("orders") == bulkhead);
  CHECK_FALSE(bulkhead->try_acquire().has_value());
  held->success();
  CHECK(bulkhead->try_acquire().has_value());
  CHECK(loaded.retry("orders") == retry);
  CHECK(retry->config().max_attempts == 2);
  CHECK(loaded.circuit_breaker("new")->state() == breaker_state::closed);
  CHECK_THROWS_AS(loaded.circuit_breaker("stock"), std::out_of_range);
  CHECK(gone->try_acquire().has_value());  // whoever holds it may go on
}

TEST_CASE("a reload that fails changes nothing", "[policies]") {
  const temporary_file file(text);
  auto loaded = load_policies(file.path);
  const auto breaker = loaded.circuit_breaker("orders");
  const auto refused = [&](std::string_view next) {
    file.write(next);
    CHECK_THROWS_AS(loaded.reload(file.path), invalid_configuration);
    CHECK(loaded.circuit_breaker("orders") == breaker);
    CHECK(breaker->config().min_calls == 4);
    CHECK(loaded.bulkhead("orders")->config().max_concurrent == 2);
  };
  refused("");
  refused(
      "policies:\n  circuit_breaker: { instances: { orders: { min_calls: 9 } } }\n  bulkhead: { instances: { orders: { "
      "max_concurrent: -1 } } }\n");
  refused("policies: [");
  std::remove(file.path.c_str());
  CHECK_THROWS_AS(loaded.reload(file.path), invalid_configuration);
  file.write("policies: { circuit_breaker: { instances: { orders: { min_calls: 9 } } } }");
  loaded.reload(file.path);
  CHECK(breaker->config().min_calls == 9);
  CHECK_THROWS_AS(loaded.bulkhead("orders"), std::out_of_range);
}

TEST_CASE("a retry follows its budget as it comes and goes", "[policies]") {
  auto loaded = basic_policies<>::from_text("policies: { retry: { instances: { a: {} } } }");
  const auto unbound = loaded.retry("a");
  CHECK(unbound->budget() == nullptr);
  loaded.reload_text("policies: { retry: { instances: { a: {} } }, retry_budget: { instances: { a: {} } } }");
  CHECK(loaded.retry("a")->budget().get() == loaded.retry_budget("a").get());
  CHECK(loaded.retry("a") != unbound);
}

TEST_CASE("a sidecar's file serves in process too", "[policies]") {
  const auto loaded = basic_policies<>::from_text(
      "version: 1\nlisten: { address: 127.0.0.1:1 }\nroutes: []\n"
      "policies: { retry: { instances: { a: { max_attempts: 2, retry_on: [reset], replay_buffer: 1KiB } } } }\n");
  CHECK(loaded.retry("a")->config().max_attempts == 2);
}

TEST_CASE("policies are looked up while they are reloaded", "[policies]") {
  auto loaded = basic_policies<>::from_text(text);
  std::atomic<bool> done = false;
  std::atomic<int> found = 0;
  std::thread reader([&] {
    while (!done) {
      if (loaded.circuit_breaker("orders")->try_acquire().has_value()) ++found;
    }
  });
  for (int i = 0; i < 100; ++i) loaded.reload_text(text);
  while (found == 0) std::this_thread::yield();
  done = true;
  reader.join();
  CHECK(found > 0);
}
