#include <resilience/registry.hpp>

#include <catch2/catch.hpp>

#include <atomic>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include <resilience/retry.hpp>
#include <resilience/testing.hpp>

using namespace resilience;
using namespace std::chrono_literals;

namespace {
const auto make_retry = [] { return std::make_shared<retry>("any"); };
}  // namespace

TEST_CASE("an instance is made once and shared", "[registry]") {
  registry<retry> retries;
  int made = 0;
  const auto make = [&] {
    ++made;
    return std::make_shared<retry>("stock");
  };
  CHECK(retries.find("stock") == nullptr);
  const auto first = retries.find_or_make("stock", make);
  CHECK(retries.find_or_make("stock", make) == first);
  CHECK(retries.find("stock") == first);
  CHECK(made == 1);
  CHECK(retries.size() == 1);
  // A make that returns the policy itself.
  CHECK(retries.find_or_make("direct", [] { return retry{"direct"}; })->name() == "direct");
}

TEST_CASE("a make that throws leaves no trace", "[registry]") {
  registry<retry> retries;
  int added = 0;
  auto watching = retries.on_added([&](const auto&) { ++added; });
  CHECK_THROWS_WITH(retries.find_or_make("stock", []() -> std::shared_ptr<retry> { throw std::runtime_error("no"); }),
                    "no");
  CHECK_THROWS_AS(retries.find_or_make("stock", [] { return std::shared_ptr<retry>(); }), std::invalid_argument);
  CHECK(retries.find("stock") == nullptr);
  CHECK(retries.size() == 0);
  CHECK(added == 0);
  CHECK(retries.find_or_make("stock", make_retry) != nullptr);
  CHECK(added == 1);
}

TEST_CASE("threads that ask for one name at once get one instance", "[registry]") {
  registry<retry> retries;
  std::atomic<int> made = 0;
  std::atomic<retry*> seen = nullptr;
  std::atomic<bool> differed = false;
  {
    std::vector<std::jthread> all;
    for (int t = 0; t < 4; ++t) {
      all.emplace_back([&] {
        for (int i = 0; i < 200; ++i) {
          const auto it = retries.find_or_make("stock", [&] {
            ++made;
            return make_retry();
          });
          retry* expected = nullptr;
          if (!seen.compare_exchange_strong(expected, it.get()) && expected != it.get()) differed = true;
          retries.find_or_make("n" + std::to_string(i), make_retry);
        }
      });
    }
  }
  CHECK(made == 1);
  CHECK_FALSE(differed);
  CHECK(retries.size() == 201);
}

TEST_CASE("remove and replace hand back what was there", "[registry]") {
  registry<retry> retries;
  std::vector<std::string> events;
  auto a = retries.on_added([&](const auto& e) { events.push_back("added " + std::string(e.name)); });
  auto r = retries.on_removed([&](const auto& e) {
    events.push_back("removed " + std::string(e.name));
    CHECK(e.before != nullptr);
    CHECK(retries.find(e.name) == nullptr);  // no lock is held
  });
  auto p = retries.on_replaced([&](const auto& e) {
    events.push_back("replaced " + std::string(e.name));
    CHECK(e.before != e.now);
  });
  CHECK(retries.replace("stock", make_retry()) == nullptr);
  CHECK(retries.find("stock") == nullptr);
  const auto first = retries.find_or_make("stock", make_retry, {{"team", "supply"}});
  const auto second = make_retry();
  CHECK(retries.replace("stock", second) == first);
  CHECK(retries.find("stock") == second);
  CHECK(retries.tags("stock").at("team") == "supply");
  CHECK(retries.tags("other").empty());
  CHECK_THROWS_AS(retries.replace("stock", nullptr), std::invalid_argument);
  CHECK(retries.remove("stock") == second);
  CHECK(retries.remove("stock") == nullptr);
  CHECK(events == std::vector<std::string>{"added stock", "replaced stock", "removed stock"});
}

TEST_CASE("instances are visited in the order of their names, and may be changed meanwhile", "[registry]") {
  registry<retry> retries;
  for (const char* name : {"c", "a", "d", "b"}) retries.find_or_make(name, make_retry);
  std::string order;
  retries.for_each([&](const std::string& name, retry&) {
    order += name;
    retries.remove("d");
  });
  CHECK(order == "abcd");
  CHECK(retries.size() == 3);
}

TEST_CASE("named configurations inherit field by field", "[registry]") {
  registry<retry> retries;
  CHECK(retries.config() == retry_config{});
  retries.add_config("patient", [](retry_config& c) { c.max_attempts = 7; });
  retries.add_config("steady", [](retry_config& c) { c.interval = fixed{5ms}; }, "patient");
  CHECK(retries.config("steady").max_attempts == 7);
  CHECK(retries.config("steady").interval == retry_interval(5ms));
  // A base that changes shows in what inherits from it, not in instances.
  const auto before = retries.find_or_make("stock", "steady");
  retries.add_config("default", [](retry_config& c) { c.fail_after_max_attempts = true; });
  CHECK(retries.config("steady").fail_after_max_attempts);
  CHECK(retries.config("steady").max_attempts == 7);
  CHECK_FALSE(before->config().fail_after_max_attempts);
  CHECK(before->config().max_attempts == 7);
  CHECK(retries.find_or_make("plain")->config().fail_after_max_attempts);
  CHECK(retries.find_or_make("plain")->name() == "plain");
  retries.add_config("alone", retry_config{.max_attempts = 2});
  CHECK_FALSE(retries.config("alone").fail_after_max_attempts);
}

TEST_CASE("unknown and circular bases are refused", "[registry]") {
  registry<retry> retries;
  const auto edit = [](retry_config&) {};
  CHECK_THROWS_AS(retries.add_config("a", edit, "b"), std::invalid_argument);
  CHECK_THROWS_AS(retries.add_config("a", edit, "a"), std::invalid_argument);
  retries.add_config("a", edit);
  retries.add_config("b", edit, "a");
  CHECK_THROWS_AS(retries.add_config("a", edit, "b"), std::invalid_argument);
  CHECK_FALSE(retries.find_config("c").has_value());
  CHECK_THROWS_AS(retries.config("c"), std::invalid_argument);
  CHECK_THROWS_AS(retries.find_or_make("stock", "c"), std::invalid_argument);
  CHECK(retries.find("stock") == nullptr);
}

TEST_CASE("idle instances are forgotten, those in use are not", "[registry]") {
  manual_clock clock;
  registry<retry, manual_clock> clients{{.idle = 60s}, clock};
  std::vector<std::string> removed;
  auto watching = clients.on_removed([&](const auto& e) { removed.emplace_back(e.name); });
  const auto held = clients.find_or_make("held", make_retry);
  clients.find_or_make("idle", make_retry);
  clients.find_or_make("asked", make_retry);
  clock.advance(60s - 1ns);
  CHECK(clients.evict_idle() == 0);
  CHECK(clients.find("asked") != nullptr);
  clock.advance(1ns);
  CHECK(clients.evict_idle() == 1);
  CHECK(removed == std::vector<std::string>{"idle"});
  CHECK(clients.find("held") == held);
  clock.advance(60s);
  clients.find_or_make("new", make_retry);  // making one is an occasion to look
  CHECK(clients.find("asked") == nullptr);
}

TEST_CASE("with many keys the memory stays bounded, and the latest stay", "[registry]") {
  manual_clock clock;
  registry<retry, manual_clock> clients{{.max_entries = 100}, clock};
  const auto held = clients.find_or_make("held", make_retry);
  std::size_t most = 0;
  for (int i = 0; i < 10'000; ++i) {
    clock.advance(1ms);
    clients.find_or_make("client" + std::to_string(i), make_retry);
    most = std::max(most, clients.size());
  }
  CHECK(most == 100);
  CHECK(clients.find("held") == held);
  CHECK(clients.find("client9999") != nullptr);
  CHECK(clients.find("client9950") != nullptr);
  CHECK(clients.find("client9000") == nullptr);
}

TEST_CASE("when all are in use none is forgotten", "[registry]") {
  manual_clock clock;
  registry<retry, manual_clock> clients{{.max_entries = 10}, clock};
  std::vector<std::shared_ptr<retry>> held;
  for (int i = 0; i < 50; ++i) held.push_back(clients.find_or_make(std::to_string(i), make_retry));
  CHECK(clients.size() == 50);
  held.clear();
  for (int i = 0; i < 50; ++i) clients.find_or_make("later" + std::to_string(i), make_retry);
  CHECK(clients.size() <= 10);
}
