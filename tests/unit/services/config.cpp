#include "common/config.hpp"

#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>

using common::config;
using common::option;

namespace {

const std::vector<option> options{
    {"port", "19080", "Port, 0-65535.", option::type::integer, 0, 65535},
    {"data", "", "Folder.", option::type::text},
    {"saga.window-ms", "10000", "Milliseconds.", option::type::integer, 1, 3'600'000},
    {"store.sync", "true", "Whether to sync.", option::type::boolean},
};

// A file with this text, gone at the end.
class file {
 public:
  explicit file(std::string_view text)
      : path_((std::filesystem::temp_directory_path() / ("config-" + std::to_string(::getpid()) + ".yaml")).string()) {
    std::ofstream(path_) << text;
  }
  ~file() { std::filesystem::remove(path_); }
  file(const file&) = delete;
  file& operator=(const file&) = delete;
  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  std::string path_;
};

auto read(const std::vector<std::string>& arguments, const std::vector<std::string>& environment = {}) {
  return config::read("program", options, arguments, environment);
}

}  // namespace

TEST_CASE("a flag wins over the environment, that over the file, and that over the default", "[config]") {
  const file yaml("port: 1\nsaga:\n  window-ms: 2\nstore.sync: false\n");
  const auto defaults = read({});
  REQUIRE(defaults.has_value());
  CHECK(defaults->integer("port") == 19080);
  CHECK(defaults->boolean("store.sync"));
  CHECK(defaults->text("data").empty());

  const auto from_file = read({"--config", yaml.path()});
  REQUIRE(from_file.has_value());
  CHECK(from_file->integer("port") == 1);
  CHECK(from_file->integer("saga.window-ms") == 2);
  CHECK_FALSE(from_file->boolean("store.sync"));

  const auto all =
      read({"--config=" + yaml.path(), "--port=7"}, {"RESILIENCE_PORT=6", "RESILIENCE_SAGA_WINDOW_MS=5", "PATH=/bin"});
  REQUIRE(all.has_value());
  CHECK(all->integer("port") == 7);
  CHECK(all->integer("saga.window-ms") == 5);
  CHECK(read({"--saga-window-ms", "9"}, {"RESILIENCE_CONFIG=" + yaml.path()})->integer("saga.window-ms") == 9);
}

TEST_CASE("every mistake is told at once, with its place", "[config]") {
  const file yaml("port: many\nsaga:\n  windows: 2\nstore: 5\n");
  const auto refused = read({"--config", yaml.path(), "--prot", "--data"}, {"RESILIENCE_STORE_SYNC=yes"});
  REQUIRE_FALSE(refused.has_value());
  CHECK(refused.error().status == 2);
  const std::string& text = refused.error().text;
  for (const std::string_view part :
       {":1:7: port must be a whole number", ":3:3: there is no option saga.windows", ":4:8: store must be a map",
        "--prot: there is no such option", "--data: a value must follow",
        "RESILIENCE_STORE_SYNC: store.sync must be true"}) {
    INFO(text);
    INFO(part);
    CHECK(text.find(part) != std::string::npos);
  }
  CHECK_FALSE(read({"--config", "/nowhere/at.yaml"}).has_value());
  const file broken("port: [1\n");
  CHECK_FALSE(read({"--config", broken.path()}).has_value());
}

TEST_CASE("bounds hold on both sides", "[config]") {
  CHECK(read({"--port", "65535"}).has_value());
  CHECK_FALSE(read({"--port", "65536"}).has_value());
  CHECK_FALSE(read({"--port", "-1"}).has_value());
  CHECK_FALSE(read({"--saga-window-ms", "0"}).has_value());
  CHECK_FALSE(read({"--port", "99999999999999999999"}).has_value());
}

TEST_CASE("help lists every option and is no mistake", "[config]") {
  const auto helped = read({"--prot", "1", "--help"});
  REQUIRE_FALSE(helped.has_value());
  CHECK(helped.error().status == 0);
  for (const std::string_view part : {"--saga-window-ms", "RESILIENCE_STORE_SYNC", "Default: 19080"}) {
    CHECK(helped.error().text.find(part) != std::string::npos);
  }
}
