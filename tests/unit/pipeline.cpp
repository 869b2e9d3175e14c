#include <resilience/resilience.hpp>

#include <catch2/catch.hpp>

#include <cstdlib>
#include <expected>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include <resilience/testing.hpp>

using namespace resilience;
using namespace std::chrono_literals;

// Sanitizers bring an operator new of their own.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define COUNTS_ALLOCATIONS 0
#elif defined(__has_feature)
#define COUNTS_ALLOCATIONS !(__has_feature(address_sanitizer) || __has_feature(thread_sanitizer))
#else
#define COUNTS_ALLOCATIONS 1
#endif

#if COUNTS_ALLOCATIONS
namespace {
thread_local std::size_t allocations = 0;
}

[[gnu::noinline]] void* operator new(std::size_t n) {
  ++allocations;
  if (void* p = std::malloc(n)) return p;
  throw std::bad_alloc();
}
[[gnu::noinline]] void* operator new(std::size_t n, const std::nothrow_t&) noexcept {
  ++allocations;
  return std::malloc(n);
}
[[gnu::noinline]] void* operator new(std::size_t n, std::align_val_t a) {
  ++allocations;
  const auto align = static_cast<std::size_t>(a);
  if (void* p = std::aligned_alloc(align, (n + align - 1) / align * align)) return p;
  throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* p) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete(void* p, std::size_t) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete(void* p, std::align_val_t) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete(void* p, std::size_t, std::align_val_t) noexcept { std::free(p); }
#endif

namespace {

using result = std::expected<int, std::error_code>;
const std::error_code broken = std::make_error_code(std::errc::io_error);

/// Writes down when it is entered and left.
class tracing : public detail::policy_base<tracing> {
 public:
  tracing(std::string name, std::string& log) : name_(std::move(name)), log_(&log) {}

  template <class Next>
  auto run(detail::call_context& call, Next&& next) -> std::invoke_result_t<Next&, detail::call_context&> {
    *log_ += name_ + "(";
    struct at_end {
      std::string& log;
      ~at_end() { log += ")"; }
    } const end{*log_};
    return next(call);
  }

 private:
  std::string name_;
  std::string* log_;
};

}  // namespace

TEST_CASE("policies apply outermost first, in the order they are written", "[pipeline]") {
  std::string log;
  tracing a{"a", log};
  tracing b{"b", log};
  pipeline guarded{a, b, tracing{"c", log}};
  CHECK(guarded.execute([&] {
    log += "call";
    return 5;
  }) == 5);
  CHECK(log == "a(b(c(call)))");
}

TEST_CASE("an empty pipeline is the call itself", "[pipeline]") {
  const pipeline<> guarded;
  CHECK(guarded.execute([] { return 5; }) == 5);
}

TEST_CASE("pipelines nest, and may be constant or copied", "[pipeline]") {
  std::string log;
  tracing a{"a", log};
  tracing b{"b", log};
  tracing c{"c", log};
  const pipeline inner{b, c};
  const pipeline outer{a, inner};
  const auto copy = outer;
  copy.execute([&] { log += "call"; });
  CHECK(log == "a(b(c(call)))");
  log.clear();
  const pipeline held{a, pipeline{b, c}};
  held.execute([&] { log += "call"; });
  CHECK(log == "a(b(c(call)))");
}

TEST_CASE("named policies are referenced, shared ones held", "[pipeline]") {
  retry named{"stock"};
  auto shared = std::make_shared<retry>("shared");
  const std::weak_ptr<retry> watch = shared;
  {
    const pipeline guarded{named, shared};
    shared.reset();
    CHECK_FALSE(watch.expired());
    guarded.execute([] {});
    CHECK(named.metrics().successful_without_retry == 1);
    CHECK(watch.lock()->metrics().successful_without_retry == 1);
    const pipeline moved{watch.lock(), std::as_const(named).name().empty() ? watch.lock() : watch.lock()};
    moved.execute([] {});
  }
  CHECK(watch.expired());
}

TEST_CASE("the call's own type comes back: values, references, nothing, things that only move", "[pipeline]") {
  retry retry{"stock"};
  const pipeline guarded{retry};
  int place = 0;
  int& same = guarded.execute([&]() -> int& { return place; });
  CHECK(&same == &place);
  guarded.execute([&] { place = 1; });
  CHECK(place == 1);
  const auto owned = guarded.execute([] { return std::make_unique<int>(3); });
  CHECK(*owned == 3);
  const auto expected = guarded.execute([] { return std::expected<std::unique_ptr<int>, std::error_code>(nullptr); });
  CHECK(expected.has_value());
  auto once = [p = std::make_unique<int>(4)]() mutable { return *p; };
  CHECK(guarded.execute(once) == 4);
}

TEST_CASE("a rejection is a value where there is room for it, else it is thrown", "[pipeline]") {
  manual_clock clock;
  basic_retry retry{"stock", {.interval = fixed{1ms}}, clock};
  basic_bulkhead bulkhead{"stock", {.max_concurrent = 0}, clock};
  const pipeline guarded{retry, bulkhead};
  const auto value = guarded.execute([]() -> result { return 1; });
  CHECK(value.error() == errc::bulkhead_full);
  CHECK(value.error() == condition::not_attempted);
  CHECK(guarded.execute([] { return std::error_code{}; }) == errc::bulkhead_full);
  try {
    guarded.execute([] { return 1; });
    FAIL("nothing was thrown");
  } catch (const rejected& e) {
    CHECK(e.why() == rejection{errc::bulkhead_full, "stock", {}});
  }
  CHECK(bulkhead.metrics().rejected == 3);  // one try each: our own rejections are not repeated
}

TEST_CASE("all policies together: retries feed the breaker, which then refuses", "[pipeline]") {
  manual_clock clock;
  basic_circuit_breaker breaker{"stock", {.window = calls{4}, .min_calls = 4}, clock};
  basic_retry retry{"stock", {.max_attempts = 3, .interval = fixed{1ms}}, clock};
  basic_rate_limiter limiter{"stock", {}, clock};
  basic_bulkhead bulkhead{"stock", {}, clock};
  basic_time_limiter total{"stock", {}, clock};
  const pipeline guarded{fallback{[](const rejection&) { return -1; }}, limiter, bulkhead, total, retry, breaker};
  int made = 0;
  const auto call = [&]() -> result {
    ++made;
    return std::unexpected(broken);
  };
  CHECK(guarded.execute(call).error() == broken);
  CHECK(made == 3);
  // The fourth failure opens it; the fifth attempt is refused, but something was attempted.
  CHECK(guarded.execute(call).error() == broken);
  CHECK(made == 4);
  CHECK(breaker.state() == breaker_state::open);
  CHECK(guarded.execute(call).value() == -1);
  CHECK(made == 4);
  CHECK(bulkhead.metrics().in_use == 0);
}

#if COUNTS_ALLOCATIONS
TEST_CASE("a call that succeeds allocates nothing", "[pipeline]") {
  circuit_breaker breaker{"stock"};
  retry retry{"stock", {}, {}, std::make_shared<retry_budget>("stock")};
  rate_limiter limiter{"stock", {.limit = per_second(1'000'000)}};
  bulkhead bulkhead{"stock"};
  time_limiter total{"stock"};
  const pipeline guarded{fallback{[](const rejection&) { return -1; }}, limiter, bulkhead, total, retry, breaker};
  const auto call = []() -> result { return 1; };
  const auto plain = [] { return 1; };
  guarded.execute(call);
  const auto before = allocations;
  int sum = 0;
  for (int i = 0; i < 1000; ++i) {
    sum += guarded.execute(call).value();
    sum += guarded.execute(plain);
  }
  const auto after = allocations;
  // The counter counts. This is no new-expression: a compiler may leave those out.
  ::operator delete(::operator new(1));
  const auto counted = allocations;
  CHECK(sum == 2000);
  CHECK(after == before);
  CHECK(counted == after + 1);
}
#endif
