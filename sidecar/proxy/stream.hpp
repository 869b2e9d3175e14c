#pragma once
/// A non-blocking socket and what its edges told: reads and writes only when they can succeed.

#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <utility>

namespace sidecar {

class stream {
 public:
  enum class state : std::uint8_t { ok, blocked, closed, failed };
  struct result {
    state what;
    std::size_t bytes = 0;
  };

  stream() = default;
  explicit stream(int fd) noexcept : fd_(fd) {}
  stream(const stream&) = delete;
  stream& operator=(const stream&) = delete;
  ~stream() { close(); }

  [[nodiscard]] bool open() const noexcept { return fd_ >= 0; }
  [[nodiscard]] int fd() const noexcept { return fd_; }
  void adopt(int fd) noexcept {
    close();
    fd_ = fd;
    readable_ = peer_done_ = broken_ = false;
  }

  /// Takes in what the loop reported.
  void note(std::uint32_t events) noexcept {
    if (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) readable_ = true;
    if (events & EPOLLRDHUP) peer_done_ = true;
    if (events & (EPOLLHUP | EPOLLERR)) broken_ = true;
  }

  /// A read would tell something: bytes, the end, or an error.
  [[nodiscard]] bool readable() const noexcept { return readable_; }
  /// The peer will send no more (what it sent before may still be unread).
  [[nodiscard]] bool peer_done() const noexcept { return peer_done_; }
  /// Closed in both directions, or reset.
  [[nodiscard]] bool broken() const noexcept { return broken_; }

  /// `closed` at the end of what the peer sends.
  result read(char* into, std::size_t size) noexcept {
    const ssize_t n = ::recv(fd_, into, size, 0);
    if (n > 0) {
      // A short read empties the socket; only an end already announced would raise no further edge.
      if (static_cast<std::size_t>(n) < size && !peer_done_ && !broken_) readable_ = false;
      return {state::ok, static_cast<std::size_t>(n)};
    }
    if (n == 0) return {state::closed};
    if (errno == EINTR) return read(into, size);
    if (errno == EAGAIN) {
      readable_ = false;
      return {state::blocked};
    }
    return {state::failed};
  }

  /// Writes what the socket takes at once. `bytes` may be less than given: then wait for the next edge.
  result write(iovec* parts, int count) noexcept {
    ssize_t n = 0;
    if (count == 1) {
      n = ::send(fd_, parts->iov_base, parts->iov_len, MSG_NOSIGNAL);
    } else {
      msghdr message{};
      message.msg_iov = parts;
      message.msg_iovlen = static_cast<std::size_t>(count);
      n = ::sendmsg(fd_, &message, MSG_NOSIGNAL);
    }
    if (n >= 0) return {state::ok, static_cast<std::size_t>(n)};
    if (errno == EINTR) return write(parts, count);
    return {errno == EAGAIN ? state::blocked : state::failed};
  }

  /// Nothing has been sent by the peer since it was last read. One system call.
  [[nodiscard]] bool quiet() const noexcept {
    char byte;
    return ::recv(fd_, &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0 && errno == EAGAIN;
  }

  void shut_down_writing() noexcept { ::shutdown(fd_, SHUT_WR); }
  void close() noexcept {
    if (fd_ >= 0) ::close(std::exchange(fd_, -1));
  }
  /// Ends the connection so that the peer can't take what it got for the whole.
  void reset() noexcept {
    if (fd_ < 0) return;
    const linger now{.l_onoff = 1, .l_linger = 0};
    ::setsockopt(fd_, SOL_SOCKET, SO_LINGER, &now, sizeof now);
    close();
  }

 private:
  int fd_ = -1;
  bool readable_ = false;
  bool peer_done_ = false;
  bool broken_ = false;
};

}  // namespace sidecar
