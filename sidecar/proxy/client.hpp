#pragma once
/// A client's connection: reads requests one after another, and writes their answers in order.

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

#include "sidecar/proxy/event_loop.hpp"
#include "sidecar/proxy/responses.hpp"
#include "sidecar/proxy/stream.hpp"

namespace sidecar {

class exchange;
class worker;

/// Small while it is idle: it holds no buffer.
class client final : public watcher, public timer_wheel::entry {
 public:
  client(worker& w, int fd, std::string_view address);
  ~client() override;

  void on_ready(std::uint32_t events) override;
  void on_timeout() override;

  /// Starts reading; `full`: only to say that there are too many connections.
  void start(bool full);

  // For its exchange.
  /// Writes, and keeps what the socket doesn't take now. False: the connection is broken.
  bool send(iovec* parts, int count);
  bool send(std::string_view bytes);
  /// The peer takes less than it is sent: stop reading what it is to get.
  [[nodiscard]] bool congested() const noexcept { return !out_.empty(); }
  /// The exchange has ended with its answer sent or kept in `out`. `keep`: read the next request; else close, after
  /// reading on for a while where the peer may still be sending (so that it gets the answer). The exchange is gone
  /// when this returns.
  void finished(bool keep, bool may_be_sending);
  /// Ends the connection now. `hard`: so that what was sent can't be taken for the whole answer.
  void kill(bool hard);
  /// The exchange ends.
  void forget_exchange() noexcept { exchange_ = nullptr; }
  /// The exchange found that the client takes nothing any more.
  void broken();
  /// The exchange has another due time.
  void rearm();
  /// The exchange takes more of the body.
  void resume_reading() { pump(); }
  /// No request is under way: ends the connection, for the sidecar is to leave.
  void close_if_idle();

  [[nodiscard]] exchange* current() const noexcept { return exchange_; }
  [[nodiscard]] std::string_view address() const noexcept { return {address_.data(), address_size_}; }

  stream socket;
  client* next = nullptr;  ///< In the worker's list.
  client* previous = nullptr;

 private:
  enum class phase : std::uint8_t { reading, serving, flushing, lingering, closed };

  void pump();
  bool feed(char* data, std::size_t size);
  void refuse(const refusal& why);
  void flush();
  void drained();
  void close();
  void linger();
  void read_away();

  worker& worker_;
  exchange* exchange_ = nullptr;
  std::string pending_;        ///< Read and not yet understood.
  std::size_t looked_at_ = 0;  ///< Of pending_, when it was last parsed.
  std::string out_;            ///< To be written.
  std::size_t written_ = 0;    ///< Of out_.
  time_point head_due_ = time_point::max();
  std::size_t read_away_ = 0;
  phase phase_ = phase::reading;
  bool pumping_ = false;
  bool linger_after_ = false;
  std::uint8_t address_size_ = 0;
  std::array<char, 46> address_;
};

}  // namespace sidecar
