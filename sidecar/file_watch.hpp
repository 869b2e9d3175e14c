#pragma once
/// Tells when a file has changed, whatever way it was changed.

#include <sys/stat.h>

#include <array>
#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <cstdint>
#include <functional>
#include <string>
#include <utility>

namespace sidecar {

/// Looks at the file every 200 ms, through symbolic links, and tells once it has been the same again for one look: at
/// the latest 600 ms after the last change. One stat() a look; unlike inotify that also sees links swapped anywhere on
/// the path (how Kubernetes updates a mounted ConfigMap) and files on network and overlay file systems.
/// Runs on `io`, and ends with it.
class file_watch {
 public:
  /// What changes with the file; all zero where there is no file.
  using identity = std::array<std::int64_t, 5>;
  static identity look(const std::string& file) {
    struct stat s{};
    if (::stat(file.c_str(), &s) != 0) return {};
    return {static_cast<std::int64_t>(s.st_dev), static_cast<std::int64_t>(s.st_ino), s.st_size, s.st_mtim.tv_sec,
            s.st_mtim.tv_nsec};
  }

  /// `known`: what the file was before it was read.
  file_watch(boost::asio::io_context& io, std::string file, const identity& known)
      : timer_(io), file_(std::move(file)), told_(known) {}

  /// `changed` is also called when the file has gone.
  void start(std::function<void()> changed) {
    changed_ = std::move(changed);
    seen_ = told_;
    wait();
  }

 private:
  void wait() {
    timer_.expires_after(std::chrono::milliseconds(200));
    timer_.async_wait([this](const boost::system::error_code& ended) {
      if (ended) return;
      const identity now = look(file_);
      if (now == seen_ && now != told_) {
        told_ = now;
        changed_();
      }
      seen_ = now;
      wait();
    });
  }

  boost::asio::steady_timer timer_;
  const std::string file_;
  identity told_, seen_{};
  std::function<void()> changed_;
};

}  // namespace sidecar
