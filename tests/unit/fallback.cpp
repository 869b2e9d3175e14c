#include <resilience/fallback.hpp>

#include <catch2/catch.hpp>

#include <expected>
#include <stdexcept>
#include <string>
#include <system_error>

#include <resilience/pipeline.hpp>
#include <resilience/retry.hpp>
#include <resilience/testing.hpp>

using namespace resilience;
using namespace std::chrono_literals;

namespace {

using result = std::expected<int, std::error_code>;
const std::error_code broken = std::make_error_code(std::errc::io_error);

result failed(std::error_code e) { return std::unexpected(e); }

}  // namespace

TEST_CASE("a call that succeeds never asks the fallback", "[fallback]") {
  fallback f{[] { return -1; }};
  CHECK(f.execute([] { return 5; }) == 5);
  CHECK(f.execute([]() -> result { return 5; }).value() == 5);
  CHECK(f.metrics().used == 0);
  CHECK(f.name() == "fallback");
  fallback named{"stock", [] {}};
  CHECK(named.name() == "stock");
}

TEST_CASE("a function of a rejection answers what our policies decide, and lets the rest pass", "[fallback]") {
  rejection seen;
  fallback f{"stock", [&](const rejection& why) {
               seen = why;
               return -1;
             }};
  CHECK(f.execute([]() -> int { throw rejected({errc::circuit_open, "payment", 3s}); }) == -1);
  CHECK(seen == rejection{errc::circuit_open, "payment", 3s});
  CHECK(f.execute([] { return failed(make_error_code(errc::rate_limited)); }).value() == -1);
  CHECK(seen.reason == errc::rate_limited);
  CHECK(f.execute([]() -> int { throw rejected({errc::timed_out, "payment", {}}); }) == -1);
  CHECK(f.metrics().used == 3);
  CHECK(f.execute([] { return failed(broken); }).error() == broken);
  CHECK_THROWS_WITH(f.execute([]() -> int { throw std::runtime_error("real"); }), "real");
  CHECK(f.metrics().used == 3);
}

TEST_CASE("a function of a code, an outcome, an exception, or nothing answers any failure", "[fallback]") {
  const auto boom = []() -> int { throw std::system_error(broken); };
  const auto bad = [] { return failed(broken); };
  std::error_code code;
  fallback by_code{[&](std::error_code e) {
    code = e;
    return 1;
  }};
  CHECK(by_code.execute(boom) == 1);
  CHECK(code == broken);
  CHECK(by_code.execute(bad).value() == 1);

  bool threw = false;
  fallback by_outcome{[&](const outcome& o) {
    threw = o.exception != nullptr;
    return 2;
  }};
  CHECK(by_outcome.execute(boom) == 2);
  CHECK(threw);
  CHECK(by_outcome.execute(bad).value() == 2);
  CHECK_FALSE(threw);

  std::string what;
  fallback by_exception{[&](std::exception_ptr e) {
    try {
      std::rethrow_exception(e);
    } catch (const std::system_error& s) {
      code = s.code();
    } catch (const std::exception& s) {
      what = s.what();
    }
    return 3;
  }};
  CHECK(by_exception.execute([]() -> int { throw std::runtime_error("real"); }) == 3);
  CHECK(what == "real");
  code.clear();
  CHECK(by_exception.execute(bad).value() == 3);
  CHECK(code == broken);

  fallback by_nothing{[] { return 4; }};
  CHECK(by_nothing.execute(boom) == 4);
  CHECK(by_nothing.execute(bad).value() == 4);

  fallback by_anything{[](const auto&) { return 5; }};
  CHECK(by_anything.execute(bad).value() == 5);
}

TEST_CASE("the answer converts to the call's result", "[fallback]") {
  fallback passing{[](std::error_code) -> result { return failed(make_error_code(errc::attempts_exhausted)); }};
  CHECK(passing.execute([] { return failed(broken); }).error() == errc::attempts_exhausted);
  fallback to_code{[] { return std::error_code{}; }};
  CHECK_FALSE(to_code.execute([] { return broken; }));
  int used = 0;
  fallback counting{[&] { ++used; }};
  counting.execute([] { throw std::runtime_error("x"); });
  CHECK(used == 1);
}

TEST_CASE("a cancelled call passes, and what the fallback throws goes on", "[fallback]") {
  fallback f{[] { return 1; }};
  CHECK(f.execute([] { return failed(make_error_code(errc::cancelled)); }).error() == errc::cancelled);
  CHECK_THROWS_AS(
      f.execute([]() -> int { throw std::system_error(std::make_error_code(std::errc::operation_canceled)); }),
      std::system_error);
  fallback throwing{[](std::error_code) -> int { throw std::logic_error("worse"); }};
  CHECK_THROWS_WITH(throwing.execute([] { return failed(broken); }), "worse");
}

TEST_CASE("a fallback stands outermost in a pipeline, named or held", "[fallback]") {
  manual_clock clock;
  basic_retry retry{"stock", {.max_attempts = 3, .interval = fixed{1ms}}, clock};
  int calls = 0;
  pipeline guarded{fallback{[](const outcome&) { return -1; }}, retry};
  CHECK(guarded.execute([&]() -> int {
    ++calls;
    throw std::runtime_error("x");
  }) == -1);
  CHECK(calls == 3);
}
