#include <fcntl.h>
#include <rocksdb/db.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>

#include "common/store/rocksdb_store.hpp"

using common::store::batch;
using common::store::direction;
using common::store::durability;
using common::store::end_of;
using common::store::open_rocksdb;
using common::store::stamp;
namespace fs = std::filesystem;

namespace {

// A folder of this test's own, gone at its end.
class scratch {
 public:
  scratch() {
    std::string name = (fs::temp_directory_path() / "store-XXXXXX").string();
    path_ = ::mkdtemp(name.data());
  }
  ~scratch() { fs::remove_all(path_); }
  scratch(const scratch&) = delete;
  scratch& operator=(const scratch&) = delete;
  [[nodiscard]] std::string operator/(std::string_view name) const { return (path_ / name).string(); }

 private:
  fs::path path_;
};

const stamp mine{.owner = "test", .version = 1};

std::string bytes_of(const fs::path& file) {
  std::ifstream in(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

// Every file of a folder with its bytes.
std::map<std::string, std::string> contents(const fs::path& folder) {
  std::map<std::string, std::string> all;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    if (entry.is_regular_file()) all[entry.path().filename()] = bytes_of(entry.path());
  }
  return all;
}

fs::path file_with(const fs::path& folder, std::string_view suffix) {
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (entry.path().filename().string().find(suffix) != std::string::npos && fs::file_size(entry.path()) > 0) {
      return entry.path();
    }
  }
  FAIL("no file like " << suffix);
  return {};
}

void spoil(const fs::path& file, std::streamoff at) {
  std::fstream out(file, std::ios::in | std::ios::out | std::ios::binary);
  out.seekp(at);
  out.write("\xDE\xAD\xBE\xEF\xDE\xAD\xBE\xEF", 8);
}

void fill(const std::string& path, int count) {
  auto db = open_rocksdb(path, mine);
  if (!db.has_value()) FAIL(db.error());
  for (int n = 0; n < count; ++n) {
    batch b;
    b.put("key" + std::to_string(n), std::string(100, 'v'));
    (*db)->write(b, durability::process);
  }
}

// The database as plain RocksDB has it, to make the files that a test wants.
void flush_with_rocksdb(const std::string& path) {
  rocksdb::DB* db = nullptr;
  REQUIRE(rocksdb::DB::Open({}, path, &db).ok());
  REQUIRE(db->Flush({}).ok());
  delete db;
}

}  // namespace

TEST_CASE("batches are whole, scans are ordered, and both directions see the same keys", "[store]") {
  const scratch folder;
  auto db = open_rocksdb(folder / "a/b/db", mine);
  if (!db.has_value()) FAIL(db.error());
  batch b;
  for (const char* key : {"p1", "p3", "p2", "q1", "o"}) b.put(key, std::string("v") + key);
  b.erase("p3");
  (*db)->write(b, durability::machine);
  CHECK((*db)->get("p1") == "vp1");
  CHECK_FALSE((*db)->get("p3").has_value());
  const auto keys = [&](direction way, int most) {
    std::string seen;
    (*db)->scan("p", end_of("p"), way, [&](std::string_view key, std::string_view value) {
      CHECK(value == "v" + std::string(key));
      seen += std::string(key) + ' ';
      return --most > 0;
    });
    return seen;
  };
  CHECK(keys(direction::ascending, 10) == "p1 p2 ");
  CHECK(keys(direction::descending, 10) == "p2 p1 ");
  CHECK(keys(direction::descending, 1) == "p2 ");
  const auto before = (*db)->snapshot();
  batch later;
  later.erase("p1");
  (*db)->write(later, durability::process);
  CHECK(before->get("p1") == "vp1");
  CHECK_FALSE((*db)->get("p1").has_value());
}

TEST_CASE("what was written is there after a reopening", "[store]") {
  const scratch folder;
  fill(folder / "db", 10);
  auto db = open_rocksdb(folder / "db", mine);
  REQUIRE(db.has_value());
  CHECK((*db)->get("key9").has_value());
}

TEST_CASE("a database of another service, version or program is refused and left as it is", "[store]") {
  const scratch folder;
  fill(folder / "db", 3);
  const auto before = contents(folder / "db");
  for (const stamp& other : {stamp{.owner = "other", .version = 1}, stamp{.owner = "test", .version = 2}}) {
    const auto db = open_rocksdb(folder / "db", other);
    REQUIRE_FALSE(db.has_value());
    CHECK(db.error().find("belongs to \"test 1\"") != std::string::npos);
    CHECK(contents(folder / "db") == before);
  }

  rocksdb::DB* plain = nullptr;
  rocksdb::Options make;
  make.create_if_missing = true;
  REQUIRE(rocksdb::DB::Open(make, folder / "plain", &plain).ok());
  delete plain;
  const auto plain_before = contents(folder / "plain");
  CHECK_FALSE(open_rocksdb(folder / "plain", mine).has_value());
  CHECK(contents(folder / "plain") == plain_before);

  fs::create_directory(folder / "files");
  std::ofstream(folder / "files/notes.txt") << "mine";
  CHECK_FALSE(open_rocksdb(folder / "files", mine).has_value());
  CHECK(contents(folder / "files").size() == 1);
  CHECK_FALSE(open_rocksdb(folder / "files/notes.txt", mine).has_value());
}

TEST_CASE("damage anywhere is found at the opening, and nothing is overwritten", "[store]") {
  const scratch folder;
  const std::string path = folder / "db";
  fill(path, 2000);
  SECTION("in the log") { spoil(file_with(path, ".log"), 5000); }
  SECTION("in the list of files") { spoil(file_with(path, "MANIFEST"), 20); }
  SECTION("in what points to it") { spoil(fs::path(path) / "CURRENT", 0); }
  SECTION("in a table") {
    flush_with_rocksdb(path);
    spoil(file_with(path, ".sst"), 1000);
  }
  SECTION("a table is missing") {
    flush_with_rocksdb(path);
    fs::remove(file_with(path, ".sst"));
  }
  SECTION("a table is cut short") {
    flush_with_rocksdb(path);
    const fs::path table = file_with(path, ".sst");
    fs::resize_file(table, fs::file_size(table) / 2);
  }
  SECTION("the pointer is missing") { fs::remove(fs::path(path) / "CURRENT"); }
  const auto before = contents(path);
  const auto db = open_rocksdb(path, mine);
  REQUIRE_FALSE(db.has_value());
  CHECK(db.error().find(path) != std::string::npos);
  CHECK(contents(path) == before);
}

TEST_CASE("a database that another process holds is reported with that process", "[store]") {
  const scratch folder;
  fill(folder / "db", 1);
  const std::string lock_file = folder / "db/LOCK";
  int ready[2];
  REQUIRE(::pipe(ready) == 0);
  const pid_t child = ::fork();
  if (child == 0) {
    // Holds the lock as RocksDB does; RocksDB itself would start threads, which a forked process must not.
    const int fd = ::open(lock_file.c_str(), O_RDWR);
    struct flock lock{};
    lock.l_type = F_WRLCK;
    const char answer = fd >= 0 && ::fcntl(fd, F_SETLK, &lock) == 0 ? 'y' : 'n';
    if (::write(ready[1], &answer, 1) == 1) ::pause();
    ::_exit(0);
  }
  char answer = 0;
  CHECK(::read(ready[0], &answer, 1) == 1);
  CHECK(answer == 'y');
  const auto db = open_rocksdb(folder / "db", mine);
  REQUIRE_FALSE(db.has_value());
  CHECK(db.error().find("in use by process " + std::to_string(child)) != std::string::npos);
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  ::close(ready[0]);
  ::close(ready[1]);
  CHECK(open_rocksdb(folder / "db", mine).has_value());
}

TEST_CASE("the end of a prefix is after everything that begins with it", "[store]") {
  CHECK(end_of("a") == "b");
  CHECK(end_of("a\xff") == "b");
  CHECK(end_of(std::string("\0", 1)) == "\x01");
}
