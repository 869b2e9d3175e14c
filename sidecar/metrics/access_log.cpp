#include "sidecar/metrics/access_log.hpp"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <ctime>
#include <utility>

namespace sidecar {
namespace {

/// Length of the valid UTF-8 sequence at the start of `text`, else 0.
std::size_t utf8_length(std::string_view text) noexcept {
  const auto at = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char first = at(0);
  std::size_t n = 0;
  if (first >= 0xc2 && first <= 0xdf) n = 2;
  if (first >= 0xe0 && first <= 0xef) n = 3;
  if (first >= 0xf0 && first <= 0xf4) n = 4;
  if (n == 0 || text.size() < n) return 0;
  for (std::size_t i = 1; i < n; ++i) {
    if ((at(i) & 0xc0) != 0x80) return 0;
  }
  const unsigned char second = at(1);
  const bool bad = (first == 0xe0 && second < 0xa0) || (first == 0xed && second > 0x9f) ||
                   (first == 0xf0 && second < 0x90) || (first == 0xf4 && second > 0x8f);
  return bad ? 0 : n;
}

template <class Number>
void append_number(std::string& to, Number n) {
  std::array<char, 24> digits;
  const auto end = std::to_chars(digits.data(), digits.data() + digits.size(), n).ptr;
  to.append(digits.data(), end);
}

}  // namespace

void append_json(std::string& to, std::string_view text) {
  static constexpr std::string_view hex = "0123456789abcdef";
  std::size_t plain = 0;
  std::size_t i = 0;
  const auto take_plain = [&] { to.append(text, plain, i - plain); };
  while (i < text.size()) {
    const auto c = static_cast<unsigned char>(text[i]);
    if (c >= 0x20 && c < 0x7f && c != '"' && c != '\\') {
      ++i;
      continue;
    }
    if (c >= 0x80) {
      if (const std::size_t n = utf8_length(text.substr(i)); n != 0) {
        i += n;
        continue;
      }
    }
    take_plain();
    if (c == '"' || c == '\\') {
      to += '\\';
      to += static_cast<char>(c);
    } else if (c >= 0x80) {
      to += "\\ufffd";
    } else {
      to += "\\u00";
      to += hex[c >> 4];
      to += hex[c & 15];
    }
    plain = ++i;
  }
  take_plain();
}

access_log::access_log(std::size_t workers)
    : shards_(std::make_unique<shard[]>(workers)), workers_(workers), thread_([this] { run(); }) {}

access_log::~access_log() {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
  }
  wake_.notify_one();
  thread_.join();
  if (fd_ > 2) ::close(fd_);
}

bool access_log::open(const std::string& path) {
  if (path == "none" || path == "stdout") {
    flush();
    const std::lock_guard lock(output_);
    if (fd_ > 2) ::close(fd_);
    fd_ = path == "none" ? -1 : 1;
    path_ = path;
  } else {
    const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0640);
    if (fd < 0) return false;
    flush();
    const std::lock_guard lock(output_);
    if (fd_ > 2) ::close(fd_);
    fd_ = fd;
    path_ = path;
  }
  enabled_ = path != "none";
  return true;
}

void access_log::write(std::size_t worker, const access_entry& e) {
  shard& s = shards_[worker];
  bool full = false;
  {
    const std::lock_guard lock(s.mutex);
    std::string& line = s.lines;
    if (line.size() > most) {
      dropped_.fetch_add(1, std::memory_order_relaxed);
      return;
    }
    timespec now{};
    ::clock_gettime(CLOCK_REALTIME, &now);
    if (now.tv_sec != s.second) {
      s.second = now.tv_sec;
      tm parts{};
      ::gmtime_r(&now.tv_sec, &parts);
      std::strftime(s.stamp, sizeof s.stamp, "%Y-%m-%dT%H:%M:%S.", &parts);
    }
    const long ms = now.tv_nsec / 1'000'000;
    line += R"({"time":")";
    line.append(s.stamp, 20);
    line += static_cast<char>('0' + ms / 100);
    line += static_cast<char>('0' + ms / 10 % 10);
    line += static_cast<char>('0' + ms % 10);
    line += R"(Z","client":")";
    line += e.client;
    line += R"(","method":")";
    append_json(line, e.method);
    line += R"(","path":")";
    append_json(line, e.path);
    line += R"(","route":")";
    append_json(line, e.route);
    line += R"(","upstream":)";
    if (e.upstream.empty()) {
      line += "null";
    } else {
      line += '"';
      append_json(line, e.upstream);
      line += '"';
    }
    line += R"(,"status":)";
    append_number(line, e.status);
    line += R"(,"reason":)";
    if (e.reason) {
      line += '"';
      line += to_string(*e.reason);
      line += '"';
    } else {
      line += "null";
    }
    line += R"(,"attempts":)";
    append_number(line, e.attempts);
    line += R"(,"duration_ms":)";
    const std::int64_t us = e.duration.count() / 1000;
    append_number(line, us / 1000);
    line += '.';
    line += static_cast<char>('0' + us / 100 % 10);
    line += static_cast<char>('0' + us / 10 % 10);
    line += static_cast<char>('0' + us % 10);
    line += R"(,"bytes_in":)";
    append_number(line, e.bytes_in);
    line += R"(,"bytes_out":)";
    append_number(line, e.bytes_out);
    line += R"(,"request_id":")";
    append_json(line, e.request_id);
    line += R"(","trace_id":")";
    line += e.trace_id;
    line += "\"}\n";
    full = line.size() > batch;
  }
  if (full) {
    const std::lock_guard lock(mutex_);
    hurry_ = true;
    wake_.notify_one();
  }
}

void access_log::flush() {
  const std::lock_guard lock(output_);
  for (std::size_t i = 0; i < workers_; ++i) {
    shard& s = shards_[i];
    {
      const std::lock_guard taking(s.mutex);
      s.spare.swap(s.lines);
    }
    if (s.spare.empty()) continue;
    write_out(s.spare);
    s.spare.clear();
    if (s.spare.capacity() > 2 * batch) s.spare.shrink_to_fit();
  }
}

void access_log::run() {
  using namespace std::chrono_literals;
  bool last = false;
  while (!last) {
    {
      std::unique_lock lock(mutex_);
      wake_.wait_for(lock, 50ms, [this] { return ending_ || hurry_; });
      last = ending_;
      hurry_ = false;
    }
    flush();
  }
}

void access_log::write_out(std::string_view bytes) {
  if (fd_ < 0) return;
  while (!bytes.empty()) {
    const ssize_t n = ::write(fd_, bytes.data(), bytes.size());
    if (n > 0) {
      bytes.remove_prefix(static_cast<std::size_t>(n));
    } else if (n < 0 && errno == EAGAIN) {  // someone made stdout non-blocking
      pollfd ready{.fd = fd_, .events = POLLOUT, .revents = 0};
      ::poll(&ready, 1, 100);
    } else if (n < 0 && errno != EINTR) {
      return;  // a full disk or a closed pipe: the requests matter more than their log
    }
  }
}

}  // namespace sidecar
