#pragma once
/// One JSON line for each request, gathered per worker and written in batches by a thread of its own, so that a slow
/// reader of the log never holds up a request.

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "sidecar/reason.hpp"

namespace sidecar {

/// What a line says. The views need live only as long as the call.
struct access_entry {
  std::string_view client, method, path, route, upstream;
  int status = 0;
  std::optional<sidecar::reason> reason;  ///< None when the upstream answered.
  int attempts = 0;
  std::chrono::nanoseconds duration{};
  std::uint64_t bytes_in = 0, bytes_out = 0;  ///< Of the bodies.
  std::string_view request_id, trace_id;
};

class access_log {
 public:
  explicit access_log(std::size_t workers);
  /// Writes what is left.
  ~access_log();
  access_log(const access_log&) = delete;
  access_log& operator=(const access_log&) = delete;

  /// `stdout`, `none`, or a file that is appended to; the same file is opened anew, so that it can be rotated. False:
  /// the file cannot be opened, and the log goes on where it went. Threads: any.
  bool open(const std::string& path);

  [[nodiscard]] bool enabled() const noexcept { return enabled_.load(std::memory_order_relaxed); }

  /// Adds a line to `worker`'s batch. Threads: that worker. Cost: a short lock, no system call.
  void write(std::size_t worker, const access_entry& entry);

  /// Writes all batches now.
  void flush();

  /// Lines lost because nobody took what was written.
  [[nodiscard]] std::uint64_t dropped() const noexcept { return dropped_.load(std::memory_order_relaxed); }

 private:
  static constexpr std::size_t batch = 256 * 1024;      // written at once when so much has gathered
  static constexpr std::size_t most = 4 * 1024 * 1024;  // a worker's lines beyond it are dropped

  struct alignas(64) shard {
    std::mutex mutex;
    std::string lines;
    std::string spare;
    std::int64_t second = -1;  ///< What `stamp` says.
    char stamp[21];
  };

  void run();
  void write_out(std::string_view bytes);

  std::unique_ptr<shard[]> shards_;
  std::size_t workers_;
  std::atomic<bool> enabled_ = false;
  std::atomic<std::uint64_t> dropped_ = 0;
  std::mutex output_;  // of fd_ and path_, and so that batches don't mix
  int fd_ = -1;
  std::string path_ = "none";
  std::mutex mutex_;
  std::condition_variable wake_;
  bool ending_ = false;
  bool hurry_ = false;
  std::thread thread_;
};

/// Appends `text` as the inside of a JSON string. Bytes that are not ASCII are kept where they are valid UTF-8, else
/// replaced.
void append_json(std::string& to, std::string_view text);

}  // namespace sidecar
