#pragma once
/// What a service keeps: keys and values in the order of the keys' bytes, changed in batches that are whole or not.

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace common::store {

/// The disk failed, or what it holds is damaged. Nothing of the operation can be relied on.
class store_error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Writes that happen together or not at all, in order.
class batch {
 public:
  void put(std::string key, std::string value) { changes_.push_back({std::move(key), std::move(value)}); }
  void erase(std::string key) { changes_.push_back({std::move(key), std::nullopt}); }

  struct change {
    std::string key;
    std::optional<std::string> value;  ///< None: the key goes.
  };
  [[nodiscard]] const std::vector<change>& changes() const noexcept { return changes_; }

 private:
  std::vector<change> changes_;
};

enum class direction : std::uint8_t { ascending, descending };

/// Reads. Every member throws store_error where the disk fails. Threads: any.
class reader {
 public:
  /// Sees a key and its value, both only valid within the call; false ends the scan.
  using visitor = std::function<bool(std::string_view key, std::string_view value)>;

  virtual ~reader() = default;
  [[nodiscard]] virtual std::optional<std::string> get(std::string_view key) const = 0;
  /// The keys in [first, last), seen as they were when the scan began.
  virtual void scan(std::string_view first, std::string_view last, direction way, const visitor& visit) const = 0;
};

/// Whether a write survives the machine's end, or only the process's. Synced costs a disk flush (milliseconds).
enum class durability : std::uint8_t { process, machine };

class store : public reader {
 public:
  virtual void write(const batch& changes, durability lasting) = 0;
  /// All keys as they are now, unaffected by later writes. Must be dropped before the store.
  [[nodiscard]] virtual std::unique_ptr<reader> snapshot() const = 0;
};

/// The first key after all those that begin with `prefix`; `prefix` is not all 0xFF.
std::string end_of(std::string_view prefix);

}  // namespace common::store
