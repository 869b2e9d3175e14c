#include "sidecar/proxy/client.hpp"

#include <algorithm>
#include <cstring>

#include "sidecar/proxy/exchange.hpp"
#include "sidecar/proxy/worker.hpp"

namespace sidecar {

using namespace std::chrono_literals;

namespace {

constexpr auto linger_for = 2s;
constexpr std::size_t linger_bytes = 1024 * 1024;

refusal refusal_of(head_status status) noexcept {
  switch (status) {
    case head_status::line_too_long:
      return {.why = reason::uri_too_long};
    case head_status::fields_too_large:
      return {.why = reason::fields_too_large};
    default:
      return {.why = reason::bad_request};
  }
}

}  // namespace

client::client(worker& w, int fd, std::string_view address)
    : socket(fd), worker_(w), address_size_(static_cast<std::uint8_t>(address.size())) {
  std::ranges::copy(address, address_.begin());
}

client::~client() = default;

void client::start(bool full) {
  if (full) {
    refuse({.why = reason::too_many_connections});
  } else {
    worker_.loop.set(*this, worker_.now() + worker_.current()->config.listen.limits.header_timeout);
  }
}

void client::on_ready(std::uint32_t events) {
  if (!socket.open()) return;
  socket.note(events);
  if (socket.broken()) {
    return broken();
  }
  if ((events & EPOLLOUT) && !out_.empty()) {
    flush();
    if (!socket.open()) return;
  }
  if (!socket.readable()) return;
  switch (phase_) {
    case phase::reading:
      return pump();
    case phase::lingering:
      return read_away();
    case phase::serving:
      break;
    case phase::flushing:
    case phase::closed:
      return;
  }
  if (exchange_->body_complete()) {
    // A client that shuts down its side while it waits has left: nobody can tell it from one that closed.
    if (socket.peer_done()) broken();
    return;
  }
  pump();
}

/// Reads and serves for as long as that is possible without waiting.
void client::pump() {
  if (pumping_) return;
  pumping_ = true;
  while (socket.open()) {
    if (phase_ == phase::serving) {
      if (!socket.readable() || !exchange_->wants_body()) break;
      const auto [what, n] = socket.read(worker_.scratch.get(), worker::head_read);
      if (what == stream::state::blocked) break;
      if (what != stream::state::ok) {
        broken();
        break;
      }
      const std::size_t used = exchange_->feed(worker_.scratch.get(), n);
      if (used < n) pending_.assign(worker_.scratch.get() + used, n - used);
      exchange_->body_fed();
    } else if (phase_ == phase::reading && out_.empty()) {
      if (!pending_.empty() && looked_at_ == 0) {
        if (!feed(pending_.data(), pending_.size())) continue;
      } else if (socket.readable()) {
        const auto [what, n] = socket.read(worker_.scratch.get(), worker::head_read);
        if (what == stream::state::blocked) break;
        if (what != stream::state::ok) {
          close();
          break;
        }
        feed(worker_.scratch.get(), n);
      } else {
        break;
      }
    } else {
      break;
    }
  }
  pumping_ = false;
}

/// Takes in bytes where a head is expected: from the scratch memory, or all of pending_. False: more are needed.
bool client::feed(char* data, std::size_t size) {
  const request_limits& limits = worker_.current()->config.listen.limits;
  const bool from_pending = data == pending_.data();
  if (!from_pending && !pending_.empty()) {
    // Looking again at every byte that trickles in would be work without bound.
    const bool line_ended = std::memchr(data, '\n', size) != nullptr;
    pending_.append(data, size);
    const bool much = pending_.size() >= looked_at_ + 1024;
    const bool line_full = looked_at_ <= limits.max_line && pending_.size() > limits.max_line;
    if (!line_ended && !much && !line_full) return false;
    return feed(pending_.data(), pending_.size());
  }

  const head_limits most{limits.max_line, limits.max_header, limits.max_fields};
  const head_status status = parse({data, size}, most, worker_.request);
  if (status == head_status::incomplete) {
    if (!from_pending) pending_.assign(data, size);
    looked_at_ = size;
    if (head_due_ == time_point::max()) {
      head_due_ = worker_.now() + limits.header_timeout;
      worker_.loop.set(*this, head_due_);
    }
    return false;
  }
  looked_at_ = 0;
  head_due_ = time_point::max();
  if (status != head_status::complete) {
    pending_.clear();
    refuse(refusal_of(status));
    return true;
  }

  phase_ = phase::serving;
  exchange& e = worker_.new_exchange();
  exchange_ = &e;
  e.begin(*this, worker_.request);
  std::size_t used = worker_.request.size;
  if (used < size) used += e.feed(data + used, size - used);
  if (from_pending) {
    pending_.erase(0, used);
  } else if (used < size) {
    pending_.assign(data + used, size - used);
  }
  if (pending_.empty() && pending_.capacity() > 256) pending_ = {};
  e.run();
  if (exchange_ == &e && phase_ == phase::serving) worker_.loop.set(*this, e.due());
  return true;
}

void client::refuse(const refusal& why) {
  identity id;
  id.make(worker_.random);
  route_counters& counters = *worker_.shared.live.no_route();
  route_shard& counts = counters.of(worker_.index);
  counts.by_code[static_cast<std::size_t>(why.code())].add();
  counts.local[static_cast<std::size_t>(why.why)].add();
  if (worker_.shared.log.enabled()) {
    access_entry entry;
    entry.client = address();
    entry.status = why.code();
    entry.reason = why.why;
    entry.request_id = id.request_id;
    entry.trace_id = id.trace_id();
    worker_.shared.log.write(worker_.index, entry);
  }
  std::string answer;
  append_problem(answer, why, {.request_id = id.request_id, .close = true});
  if (!send(answer)) return close();
  phase_ = phase::flushing;
  linger_after_ = true;
  if (out_.empty()) linger();
}

bool client::send(std::string_view bytes) {
  iovec part{const_cast<char*>(bytes.data()), bytes.size()};
  return send(&part, 1);
}

bool client::send(iovec* parts, int count) {
  std::size_t sent = 0;
  if (out_.empty()) {
    const auto [what, n] = socket.write(parts, count);
    if (what == stream::state::failed) return false;
    sent = n;
  }
  for (int i = 0; i < count; ++i) {
    const iovec& part = parts[i];
    if (sent < part.iov_len) {
      out_.append(static_cast<const char*>(part.iov_base) + sent, part.iov_len - sent);
      sent = 0;
    } else {
      sent -= part.iov_len;
    }
  }
  return true;
}

void client::flush() {
  while (written_ < out_.size()) {
    iovec part{out_.data() + written_, out_.size() - written_};
    const auto [what, n] = socket.write(&part, 1);
    if (what == stream::state::failed) {
      return broken();
    }
    if (what == stream::state::blocked) return;
    written_ += n;
    if (phase_ != phase::serving) {
      worker_.loop.set(*this, worker_.now() + worker_.current()->config.listen.limits.body_idle_timeout);
    }
  }
  written_ = 0;
  if (out_.capacity() > 1024) {
    out_ = {};
  } else {
    out_.clear();
  }
  drained();
}

void client::drained() {
  switch (phase_) {
    case phase::serving:
      return exchange_->client_writable();
    case phase::flushing:
      return linger_after_ ? linger() : close();
    case phase::reading:
      worker_.loop.set(*this, worker_.now() + worker_.current()->config.listen.limits.idle_timeout);
      return pump();
    case phase::lingering:
    case phase::closed:
      return;
  }
}

void client::broken() {
  if (exchange_) exchange_->client_left();
  close();
}

void client::rearm() {
  if (exchange_) worker_.loop.set(*this, exchange_->due());
}

void client::finished(bool keep, bool may_be_sending) {
  exchange_ = nullptr;
  if (!keep || worker_.draining()) {
    linger_after_ = may_be_sending || socket.readable() || !pending_.empty();
    phase_ = phase::flushing;
    if (out_.empty()) return linger_after_ ? linger() : close();
    worker_.loop.set(*this, worker_.now() + worker_.current()->config.listen.limits.body_idle_timeout);
    return;
  }
  phase_ = phase::reading;
  looked_at_ = 0;
  const request_limits& limits = worker_.current()->config.listen.limits;
  worker_.loop.set(*this, worker_.now() + (out_.empty() ? limits.idle_timeout : limits.body_idle_timeout));
  if (!pending_.empty() || socket.readable()) pump();
}

void client::close_if_idle() {
  if (phase_ == phase::reading && pending_.empty() && out_.empty() && !socket.readable()) close();
}

void client::kill(bool hard) {
  exchange_ = nullptr;
  if (hard) socket.reset();
  close();
}

void client::close() {
  if (phase_ == phase::closed) return;
  phase_ = phase::closed;
  socket.close();
  worker_.loop.timers().cancel(*this);
  worker_.remove(*this);
}

/// Says that there will be no more, and reads on: a close with unread bytes would take the answer back from the client.
void client::linger() {
  phase_ = phase::lingering;
  pending_ = {};
  socket.shut_down_writing();
  worker_.loop.set(*this, worker_.now() + linger_for);
  read_away();
}

void client::read_away() {
  while (socket.readable() && read_away_ < linger_bytes) {
    const auto [what, n] = socket.read(worker_.scratch.get(), worker::scratch_size);
    if (what == stream::state::blocked) return;
    if (what != stream::state::ok) return close();
    read_away_ += n;
  }
  if (read_away_ >= linger_bytes) close();
}

void client::on_timeout() {
  switch (phase_) {
    case phase::serving:
      exchange_->on_timeout();
      if (exchange_ && phase_ == phase::serving) worker_.loop.set(*this, exchange_->due());
      return;
    case phase::reading:
      // Half a head is told of; a connection that never asked anything, or nothing more, just ends.
      if (!pending_.empty() && out_.empty()) {
        pending_.clear();
        return refuse({.why = reason::header_timeout});
      }
      return close();
    default:
      return close();
  }
}

}  // namespace sidecar
