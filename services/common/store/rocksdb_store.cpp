#include "common/store/rocksdb_store.hpp"

#include <fcntl.h>
#include <rocksdb/db.h>
#include <rocksdb/env.h>
#include <rocksdb/table.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <vector>

namespace common::store {
namespace {

namespace fs = std::filesystem;

// Before all others, and seen by nobody: scans start behind it.
constexpr std::string_view stamp_key{"\0stamp", 6};

rocksdb::Slice slice(std::string_view text) { return {text.data(), text.size()}; }
std::string_view view(const rocksdb::Slice& s) { return {s.data(), s.size()}; }

void check(const rocksdb::Status& status) {
  if (!status.ok()) throw store_error(status.ToString());
}

std::string text_of(const stamp& s) { return s.owner + ' ' + std::to_string(s.version); }

class rocksdb_reader : public reader {
 public:
  rocksdb_reader(rocksdb::DB& db, const rocksdb::Snapshot* at) : db_(db) { read_.snapshot = at; }
  ~rocksdb_reader() override { db_.ReleaseSnapshot(read_.snapshot); }
  rocksdb_reader(const rocksdb_reader&) = delete;
  rocksdb_reader& operator=(const rocksdb_reader&) = delete;

  [[nodiscard]] std::optional<std::string> get(std::string_view key) const override { return get(db_, read_, key); }
  void scan(std::string_view first, std::string_view last, direction way, const visitor& visit) const override {
    scan(db_, read_, first, last, way, visit);
  }

  static std::optional<std::string> get(rocksdb::DB& db, const rocksdb::ReadOptions& read, std::string_view key) {
    std::string value;
    const rocksdb::Status status = db.Get(read, slice(key), &value);
    if (status.IsNotFound()) return std::nullopt;
    check(status);
    return value;
  }

  static void scan(rocksdb::DB& db, rocksdb::ReadOptions read, std::string_view first, std::string_view last,
                   direction way, const visitor& visit) {
    if (first >= last) return;
    const rocksdb::Slice lower = slice(first);
    const rocksdb::Slice upper = slice(last);
    read.iterate_lower_bound = &lower;
    read.iterate_upper_bound = &upper;
    const std::unique_ptr<rocksdb::Iterator> it(db.NewIterator(read));
    if (way == direction::ascending) {
      for (it->SeekToFirst(); it->Valid() && visit(view(it->key()), view(it->value())); it->Next()) {
      }
    } else {
      for (it->SeekToLast(); it->Valid() && visit(view(it->key()), view(it->value())); it->Prev()) {
      }
    }
    check(it->status());
  }

 private:
  rocksdb::DB& db_;
  rocksdb::ReadOptions read_;
};

class rocksdb_store final : public store {
 public:
  explicit rocksdb_store(std::unique_ptr<rocksdb::DB> db) : db_(std::move(db)) {}
  ~rocksdb_store() override { static_cast<void>(db_->Close()); }
  rocksdb_store(const rocksdb_store&) = delete;
  rocksdb_store& operator=(const rocksdb_store&) = delete;

  [[nodiscard]] std::optional<std::string> get(std::string_view key) const override {
    return rocksdb_reader::get(*db_, {}, key);
  }
  void scan(std::string_view first, std::string_view last, direction way, const visitor& visit) const override {
    rocksdb_reader::scan(*db_, {}, first, last, way, visit);
  }
  void write(const batch& changes, durability lasting) override {
    rocksdb::WriteBatch all;
    for (const auto& [key, value] : changes.changes()) {
      check(value ? all.Put(slice(key), slice(*value)) : all.Delete(slice(key)));
    }
    rocksdb::WriteOptions how;
    how.sync = lasting == durability::machine;
    check(db_->Write(how, &all));
  }
  [[nodiscard]] std::unique_ptr<reader> snapshot() const override {
    return std::make_unique<rocksdb_reader>(*db_, db_->GetSnapshot());
  }

 private:
  std::unique_ptr<rocksdb::DB> db_;
};

// RocksDB's own log would be written into the folder even of a database that is only looked at.
class silent_logger final : public rocksdb::Logger {
 public:
  using rocksdb::Logger::Logv;
  void Logv(const char*, va_list) override {}
};

rocksdb::Options options() {
  rocksdb::Options o;
  o.create_if_missing = false;
  o.paranoid_checks = true;
  // A write that was cut short by the end of the process was never promised; anything else that is wrong in the log is
  // damage, and must not be passed over in silence.
  o.wal_recovery_mode = rocksdb::WALRecoveryMode::kTolerateCorruptedTailRecords;
  o.info_log = std::make_shared<silent_logger>();
  o.max_background_jobs = 2;
  o.write_buffer_size = 16UL << 20U;
  rocksdb::BlockBasedTableOptions table;
  table.block_cache = rocksdb::NewLRUCache(32UL << 20U);
  o.table_factory.reset(rocksdb::NewBlockBasedTableFactory(table));
  return o;
}

// The process that holds RocksDB's lock file; 0 for none.
pid_t lock_holder(const fs::path& folder) {
  const int fd = ::open((folder / "LOCK").c_str(), O_RDWR | O_CLOEXEC);
  if (fd < 0) return 0;
  struct flock lock{};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  const bool held = ::fcntl(fd, F_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
  ::close(fd);
  return held ? lock.l_pid : 0;
}

// Looks through the database without changing anything; why it must not be used, or nothing.
std::optional<std::string> inspect(const std::string& path, const stamp& mine) {
  const auto damaged = [&](const rocksdb::Status& status) {
    return "The database in " + path + " is damaged or not a database of ours (" + status.ToString() +
           "); it is left as it is";
  };
  if (!fs::exists(fs::path(path) / "CURRENT")) {
    return path + " holds files that are not a database of ours; it is left as it is";
  }
  rocksdb::DB* opened = nullptr;
  const rocksdb::Status status = rocksdb::DB::OpenForReadOnly(options(), path, &opened);
  const std::unique_ptr<rocksdb::DB> db(opened);
  if (!status.ok()) return damaged(status);
  std::string found;
  const rocksdb::Status stamped = db->Get({}, slice(stamp_key), &found);
  if (!stamped.ok() && !stamped.IsNotFound()) return damaged(stamped);
  if (stamped.IsNotFound() || found != text_of(mine)) {
    return "The database in " + path + " belongs to " + (stamped.IsNotFound() ? "something else" : '"' + found + '"') +
           ", not to \"" + text_of(mine) + "\"; it is left as it is";
  }
  if (const rocksdb::Status sums = db->VerifyChecksum(); !sums.ok()) return damaged(sums);
  return std::nullopt;
}

// Makes a database beside `path` and moves it there whole, so that an end in between leaves nothing half made.
std::optional<std::string> create(const std::string& path, const stamp& mine) {
  const fs::path target = fs::path(path).lexically_normal();
  const fs::path folder = target.has_filename() ? target : target.parent_path();
  std::error_code ec;
  if (folder.has_parent_path()) fs::create_directories(folder.parent_path(), ec);
  if (ec) return "Cannot make " + folder.parent_path().string() + ": " + ec.message();
  const fs::path made = folder.string() + ".new-" + std::to_string(::getpid());
  fs::remove_all(made, ec);
  {
    rocksdb::Options o = options();
    o.create_if_missing = true;
    o.error_if_exists = true;
    rocksdb::DB* opened = nullptr;
    rocksdb::Status status = rocksdb::DB::Open(o, made.string(), &opened);
    const std::unique_ptr<rocksdb::DB> db(opened);
    rocksdb::WriteOptions how;
    how.sync = true;
    if (status.ok()) status = db->Put(how, slice(stamp_key), text_of(mine));
    if (status.ok()) status = db->Close();
    if (!status.ok()) return "Cannot make a database in " + path + ": " + status.ToString();
  }
  fs::rename(made, folder, ec);
  if (!ec) return std::nullopt;
  const std::string why = ec.message();
  fs::remove_all(made, ec);
  return "Cannot make a database in " + path + ": " + why;
}

}  // namespace

std::string end_of(std::string_view prefix) {
  std::string end(prefix);
  while (!end.empty() && static_cast<unsigned char>(end.back()) == 0xFF) end.pop_back();
  if (!end.empty()) end.back() = static_cast<char>(static_cast<unsigned char>(end.back()) + 1);
  return end;
}

std::expected<std::unique_ptr<store>, std::string> open_rocksdb(const std::string& path, const stamp& mine) {
  std::error_code ec;
  const bool there = fs::exists(path, ec);
  if (there && !fs::is_directory(path, ec)) return std::unexpected(path + " is not a folder");
  const bool empty = !there || fs::is_empty(path, ec);
  if (ec) return std::unexpected("Cannot read " + path + ": " + ec.message());
  if (empty) {
    if (auto why = create(path, mine)) return std::unexpected(std::move(*why));
  } else {
    const auto in_use = [&](pid_t by) {
      return "The database in " + path + " is in use" + (by > 0 ? " by process " + std::to_string(by) : "");
    };
    if (const pid_t by = lock_holder(path)) return std::unexpected(in_use(by));
    if (auto why = inspect(path, mine)) return std::unexpected(std::move(*why));
  }
  rocksdb::DB* opened = nullptr;
  const rocksdb::Status status = rocksdb::DB::Open(options(), path, &opened);
  std::unique_ptr<rocksdb::DB> db(opened);
  if (!status.ok()) return std::unexpected("Cannot open the database in " + path + ": " + status.ToString());
  return std::make_unique<rocksdb_store>(std::move(db));
}

}  // namespace common::store
