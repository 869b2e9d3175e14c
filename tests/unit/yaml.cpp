#include <resilience/yaml.hpp>

#include <catch2/catch.hpp>

using namespace resilience;
using namespace std::chrono_literals;

namespace {

namespace yaml = detail::yaml;

std::optional<std::string> variables(const std::string& name) {
  if (name == "FIVE") return "5";
  if (name == "EMPTY") return "";
  if (name == "DOLLAR") return "${FIVE}";
  if (name == "NEWLINE") return "5\nmin_calls: 6";
  return std::nullopt;
}

/// One breaker's settings, read from what stands between the braces.
circuit_breaker_config breaker(const std::string& settings) {
  const std::string text = "policies: { circuit_breaker: { instances: { a: { " + settings + " } } } }";
  return std::get<0>(yaml::read_policies(text, "f", variables).all).at("a");
}

/// "LINE:COLUMN MESSAGE" of each problem of a text.
std::vector<std::string> problems(const std::string& text) {
  try {
    yaml::read_policies(text, "f", variables);
  } catch (const invalid_configuration& e) {
    std::vector<std::string> all;
    for (const config_problem& p : e.problems())
      all.push_back(std::to_string(p.line) + ":" + std::to_string(p.column) + " " + p.message);
    return all;
  }
  return {};
}
std::vector<std::string> problems_of_breaker(const std::string& settings) {
  return problems("policies:\n  circuit_breaker:\n    instances:\n      a: { " + settings + " }\n");
}

template <class T>
bool reads(std::string_view text) {
  return yaml::codec<T>::parse(text).has_value();
}

}  // namespace

TEST_CASE("times are whole numbers with a unit, at most a year", "[yaml]") {
  using time = yaml::codec<std::chrono::nanoseconds>;
  CHECK(time::parse("50ms").value() == 50ms);
  CHECK(time::parse("100us").value() == 100us);
  CHECK(time::parse("2s").value() == 2s);
  CHECK(time::parse("5m").value() == 5min);
  CHECK(time::parse("1h").value() == 1h);
  CHECK(time::parse("8760h").value() == 8760h);
  CHECK(time::parse("-1ms").value() == -1ms);
  for (const char* bad :
       {"", "5", "s", "5 s", "5S", "1.5s", "5sec", "8761h", "99999999999999999999s", "0x5s", "5s ", "+5s", "5s5s"}) {
    INFO(bad);
    CHECK_FALSE(time::parse(bad).has_value());
  }
  for (const auto d :
       std::initializer_list<std::chrono::nanoseconds>{0ms, 1ns, 50ms, 1500ms, 60s, 90s, 5min, 1h, 36h}) {
    CHECK(time::parse(time::show(d)).value() == d);
  }
  CHECK(time::show(60s) == "60s");
  CHECK(time::show(5min) == "5m");
}

TEST_CASE("rates, shares, sizes and windows have their units", "[yaml]") {
  CHECK(yaml::codec<rate>::parse("10/s").value() == per_second(10));
  CHECK(yaml::codec<rate>::parse("60/m").value() == per_minute(60));
  CHECK(yaml::codec<rate>::parse("20/10s").value() == rate{20, 10s});
  CHECK(yaml::codec<rate>::show({20, 10s}) == "20/10s");
  CHECK(yaml::codec<rate>::show(per_second(10)) == "10/s");
  CHECK(yaml::codec<rate>::show(per_minute(60)) == "60/m");
  for (const char* bad : {"10", "10/", "/s", "10/10", "10 / s", "10/s/s", "1.5/s", "9999999999/s"})
    CHECK_FALSE(reads<rate>(bad));

  CHECK(yaml::codec<percent>::parse("12.5%").value() == percent{12.5});
  for (const char* bad : {"50", "%", "50 %", "50%%", "nan%", "inf%", "1e1%"}) CHECK_FALSE(reads<percent>(bad));

  CHECK(yaml::codec<std::uint64_t>::parse("64KiB").value() == 65536);
  CHECK(yaml::codec<std::uint64_t>::show(65536) == "64KiB");
  CHECK(yaml::codec<std::uint64_t>::show(0) == "0B");
  for (const char* bad : {"64", "64KB", "64k", "-1B", "99999999999GiB"}) CHECK_FALSE(reads<std::uint64_t>(bad));

  CHECK(yaml::codec<sliding_window>::parse("100 calls").value() == sliding_window(calls{100}));
  CHECK(yaml::codec<sliding_window>::parse("10s").value() == sliding_window(seconds_window{10}));
  CHECK(yaml::codec<sliding_window>::parse("2m").value() == sliding_window(seconds_window{120}));
  for (const char* bad : {"100", "100calls", "500ms", "100 seconds"}) CHECK_FALSE(reads<sliding_window>(bad));

  CHECK(yaml::codec<bool>::parse("true").value());
  for (const char* bad : {"yes", "on", "True", "1", ""}) CHECK_FALSE(reads<bool>(bad));
  for (const char* bad : {"5.0", "0x5", "5 ", " 5", "1_000", "99999999999"}) CHECK_FALSE(reads<int>(bad));
}

TEST_CASE("intervals are a time, or a map that says its kind", "[yaml]") {
  CHECK(breaker("open_for: 7s").open_for == open_interval(7s));
  const auto grows = breaker("open_for: { kind: exponential, initial: 1s, factor: 3, max: 9s }").open_for.growth();
  CHECK(grows.initial == 1s);
  CHECK(grows.factor == 3);
  CHECK(grows.max == 9s);

  const auto retry = [](const std::string& interval) {
    return std::get<5>(
               yaml::read_policies("policies: { retry: { instances: { a: { interval: " + interval + " } } } }", "f")
                   .all)
        .at("a")
        .interval;
  };
  CHECK(retry("50ms") == retry_interval(50ms));
  CHECK(retry("{ kind: exponential, jitter: none }").as<exponential>().value().jitter == jitter::none);
  CHECK(retry("{ kind: randomized, base: 1s, ratio: 0.25 }") == retry_interval(randomized{1s, 0.25}));
  CHECK(problems_of_breaker("open_for: { initial: 1s }") ==
        std::vector<std::string>{"4:22 `open_for` needs a `kind`: exponential"});
  CHECK(problems_of_breaker("open_for: { kind: randomized, base: 1s }").size() == 1);
}

TEST_CASE("variables are replaced in values, checked like written text, and never parsed again", "[yaml]") {
  CHECK(breaker("min_calls: '${FIVE}'").min_calls == 5);
  CHECK(breaker("min_calls: '${FIVE}0'").min_calls == 50);
  CHECK(breaker("min_calls: '${UNSET:-7}'").min_calls == 7);
  CHECK(breaker("min_calls: '${EMPTY:-7}'").min_calls == 7);
  CHECK(breaker("open_for: '${FIVE}s'").open_for == open_interval(5s));
  CHECK(problems_of_breaker("min_calls: '${UNSET}'").size() == 1);
  CHECK(problems_of_breaker("min_calls: '${DOLLAR}'").size() == 1);
  CHECK(problems_of_breaker("min_calls: '${NEWLINE}'").size() == 1);
  CHECK(problems_of_breaker("min_calls: '$${FIVE}'").size() == 1);
  // A key is not a value; and outside quotes the braces end the map.
  CHECK(problems_of_breaker("'${FIVE}': 5").size() == 1);
  const auto bare = problems_of_breaker("min_calls: ${FIVE}");
  REQUIRE(bare.size() == 1);
  CHECK(bare[0].find("must stand in quotes") != std::string::npos);
}

TEST_CASE("places count lines and characters from one", "[yaml]") {
  // Two bytes, one character; a tab is one; a byte order mark is none.
  CHECK(problems("policies: { 'é': 1 , zz: 2 }").at(1).starts_with("1:22 "));
  CHECK(problems("\xEF\xBB\xBFpolicies: 5").at(0).starts_with("1:11 "));
  CHECK(problems("policies:\r\n  zz: 1\r\n").at(0).starts_with("2:3 "));
  CHECK(to_string(config_problem{"f", 12, 3, false, "wrong", "\tab: é", 4}) ==
        "f:12:3: error: wrong\n12 | \tab: é\n   | \t  ^\n");
  CHECK(to_string(config_problem{"f", 0, 0, true, "odd", {}, 0}) == "f: warning: odd\n");
}

TEST_CASE("a text that costs too much is refused", "[yaml]") {
  CHECK(problems(std::string(yaml::max_file_bytes + 1, ' ')) ==
        std::vector<std::string>{"1:1 the file is longer than 1 MiB"});
  CHECK(problems("policies: " + std::string(100'000, '[')).size() == 1);
  CHECK(problems("policies: " + std::string(33, '{')).size() == 1);
  std::string many = "policies: [";
  for (std::size_t i = 0; i <= yaml::max_nodes; ++i) many += "1,";
  CHECK(problems(many + "]").at(0).find("more than 100000 values") != std::string::npos);
  // Each alias would double what came before.
  std::string bomb = "a0: &a0 [x]\n";
  for (int i = 1; i < 30; ++i) {
    const std::string before = "*a" + std::to_string(i - 1);
    bomb += "a" + std::to_string(i) + ": &a" + std::to_string(i) + " [" + before + ", " + before + "]\n";
  }
  CHECK(problems(bomb + "policies: {}\n").size() >= 30);
  // Every value wrong, in one long line: the report stays bounded.
  std::string wrong = "policies: { ";
  for (int i = 0; i < 5000; ++i) wrong += "k" + std::to_string(i) + ": 1, ";
  const auto all = problems(wrong + "}");
  CHECK(all.size() == 1001);
}

TEST_CASE("what is not text or not one document is refused at its place", "[yaml]") {
  CHECK(problems("policies:\n  \x01").at(0).starts_with("2:3 not text"));
  CHECK(problems("policies: \xff").at(0).starts_with("1:11 not text"));
  CHECK(problems("a\rb").size() == 1);
  CHECK(problems("") == std::vector<std::string>{"1:1 the file is empty"});
  CHECK(problems("# nothing\n").size() == 1);
  CHECK(problems("policies: {}\n---\npolicies: {}\n").size() == 1);
  CHECK(problems("[policies]").size() == 1);
  CHECK(problems("policies: {}\n[a]: 1\n").size() == 1);
  CHECK(problems("other: {}\n").size() == 2);  // an unknown key, and no policies
  CHECK(problems("policies: { retry: { instances: { 'a b': {} } } }").size() == 1);
}

TEST_CASE("suggestions are near words only", "[yaml]") {
  const std::vector<std::string_view> known{"failure_rate", "slow_call", "window"};
  CHECK(yaml::did_you_mean("failure_rte", known) == "; did you mean `failure_rate`?");
  CHECK(yaml::did_you_mean("windwo", known) == "; did you mean `window`?");
  CHECK(yaml::did_you_mean("something", known).empty());
  CHECK(yaml::edit_distance("abc", "acb") == 1);
  CHECK(yaml::edit_distance("", "abc") == 3);
  CHECK(yaml::edit_distance("kitten", "sitting") == 3);
}

TEST_CASE("bounds are the constructors' own, and every broken one is told", "[yaml]") {
  CHECK(problems_of_breaker("failure_rate: 101%, min_calls: 0, half_open_calls: 0, open_for: 0s") ==
        std::vector<std::string>{"4:26 `failure_rate` must be more than 0 and at most 100, not `101%`",
                                 "4:43 `min_calls` must be at least 1, not `0`",
                                 "4:63 `half_open_calls` must be at least 1, not `0`",
                                 "4:76 `open_for` must be more than 0, not `0s`"});
  // Of two fields that don't fit together the one that was written is told; one that can't be read is told once.
  const auto limiter = [](const std::string& s) {
    return problems("policies: { adaptive_rate_limiter: { instances: { a: { " + s + " } } } }");
  };
  CHECK(limiter("min_rate: 60/s, max_rate: 100/s").empty());
  CHECK(limiter("max_rate: 3/s").size() == 1);
  CHECK(limiter("min_rate: 60/s").size() == 1);
  CHECK(limiter("min_rate: 60/s, max_rate: 7").size() == 1);
}

TEST_CASE("a template that many inherit from is told once, and alone may be what only fits with more", "[yaml]") {
  CHECK(problems("policies:\n  bulkhead:\n    configs:\n      default: { max_concurrent: -1 }\n"
                 "    instances: { a: {}, b: {}, c: { max_wait: 5 } }\n")
            .size() == 2);
  CHECK(problems("policies:\n  adaptive_rate_limiter:\n    configs:\n      fast: { min_rate: 60/s }\n"
                 "    instances: { a: { base: fast, max_rate: 90/s } }\n")
            .empty());
}
