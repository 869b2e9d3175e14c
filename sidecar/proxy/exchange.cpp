#include "sidecar/proxy/exchange.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>
#include <utility>

#include "common/http/status.hpp"
#include "sidecar/proxy/client.hpp"

namespace sidecar {

using resilience::errc;
using resilience::outcome;
using resilience::verdict;
using namespace std::chrono_literals;

namespace {

constexpr std::size_t most_unsent = 64 * 1024;    // of a body, before the client is read no further
constexpr std::size_t kept_capacity = 16 * 1024;  // memory a buffer keeps from one request to the next
constexpr head_limits response_limits{.max_line = 8 * 1024, .max_header = 64 * 1024, .max_fields = 256};
constexpr std::string_view via = "resilience-sidecar\r\n";
constexpr std::string_view last_chunk = "0\r\n";

void trim(std::string& buffer) {
  buffer.clear();
  if (buffer.capacity() > kept_capacity) buffer.shrink_to_fit();
}

/// Copies the lines of the fields that `keep` wants, neighbours together.
template <class Keep>
void append_fields(std::string& to, const message_head& head, Keep keep) {
  const char* from = nullptr;
  const char* until = nullptr;
  for (const head_field& field : head.fields) {
    if (ends_here(field.id) || field.nominated || !keep(field)) continue;
    if (field.name.data() != until) {
      if (from) to.append(from, until);
      from = field.name.data();
    }
    until = field.end;
  }
  if (from) to.append(from, until);
}

void append_trailer(std::string& to, const chunked_decoder& chunks) {
  for (const head_field& field : chunks.trailer_fields().fields) {
    if (allowed_in_trailer(field)) to.append(field.name.data(), field.end);
  }
}

/// The size line of a chunk: at most 18 bytes.
std::size_t write_chunk_size(char* to, std::size_t size) noexcept {
  char* const end = std::to_chars(to, to + 16, size, 16).ptr;
  end[0] = '\r';
  end[1] = '\n';
  return static_cast<std::size_t>(end - to) + 2;
}

iovec part(std::string_view text) noexcept { return {const_cast<char*>(text.data()), text.size()}; }

}  // namespace

// ---- The request ---------------------------------------------------------------------------------------------------

void exchange::begin(client& from, const request_head& head) {
  client_ = &from;
  snapshot_ = worker_.current();
  started_ = worker_.now();
  step_ = step::start;
  step_due_ = body_due_ = time_point::max();
  early_.reset();

  const std::size_t index = snapshot_->router->match(head);
  route_ = index == router::none ? nullptr : &snapshot_->routes[index];
  counters_ = route_ ? route_->counters.get() : worker_.shared.live.no_route().get();
  upstream_ = route_ ? route_->upstream.get() : nullptr;
  const request_limits& limits = route_ ? route_->settings.limits : snapshot_->config.listen.limits;
  deadline_ = route_ ? resilience::detail::plus(started_, route_->settings.timeout) : time_point::max();
  counts().in_flight.add();

  client_minor_ = head.minor;
  client_keeps_ = head.minor >= 1 ? !head.close : head.keep_alive && !head.close;
  expects_continue_ = head.expect_continue;
  take_method(head.method);
  identity_.take(head, worker_.random);

  body_framing_ = head.framing;
  body_left_ = head.content_length;
  body_done_ = head.framing == body_framing::none || (head.framing == body_framing::length && body_left_ == 0);
  body_bad_ = body_too_large_ = false;
  bytes_in_ = bytes_out_ = 0;
  body_sent_ = head_sent_ = 0;
  replayable_ = true;
  upload_stopped_ = false;
  if (body_framing_ == body_framing::chunked) request_chunks_.reset();
  max_body_ = limits.max_body.value_or(UINT64_MAX);
  body_idle_ = limits.body_idle_timeout;
  if (!body_done_) body_due_ = started_ + body_idle_;

  attempts_made_ = 0;
  attempt_open_ = replayed_ = response_started_ = heard_ = false;
  send_chunked_ = until_close_ = false;
  status_ = 0;
  last_failure_.reset();
  fell_back_.reset();

  write_head(head);

  if (!route_) {
    early_ = refusal{.why = reason::no_route};
  } else if (head.method.size() + head.target.size() + 10 > limits.max_line) {
    early_ = refusal{.why = reason::uri_too_long};
  } else if (head.fields.size() > static_cast<std::size_t>(limits.max_fields) ||
             head.size > limits.max_header + limits.max_line) {
    early_ = refusal{.why = reason::fields_too_large};
  } else if (head.framing == body_framing::length && head.content_length > max_body_) {
    early_ = refusal{.why = reason::body_too_large};
  }
}

void exchange::take_method(std::string_view method) {
  is_head_ = method == "HEAD";
  safe_to_repeat_ =
      method == "GET" || is_head_ || method == "PUT" || method == "DELETE" || method == "OPTIONS" || method == "TRACE";
  has_key_ = false;
}

void exchange::write_head(const request_head& head) {
  std::string& to = head_;
  to.clear();
  to.reserve(head.size + 512);
  to += head.method;
  method_size_ = to.size();
  to += ' ';
  to += head.path;
  path_size_ = head.path.size();
  to += " HTTP/1.1\r\n";

  const bool absolute = head.form == target_form::absolute;
  std::string_view forwarded_for, forwarded_proto = "http", forwarded_host = head.host;
  const bool trusted = !snapshot_->trusted->empty() && snapshot_->trusted->contains(client_->address());
  bool has_host = false;
  forwarded_for_.clear();
  append_fields(to, head, [&](const head_field& field) {
    switch (field.id) {
      case field_id::host:
        has_host = !absolute;
        return !absolute;
      case field_id::idempotency_key:
        has_key_ = true;
        return true;
      case field_id::forwarded_for:
        if (trusted) {  // every line of it, in order
          if (!forwarded_for_.empty()) forwarded_for_ += ", ";
          forwarded_for_ += field.value;
        }
        return false;
      case field_id::forwarded_proto:
        if (trusted) forwarded_proto = field.value;
        return false;
      case field_id::forwarded_host:
        if (trusted) forwarded_host = field.value;
        return false;
      case field_id::expect:
        return expects_continue_ && !body_done_;
      case field_id::request_id:
      case field_id::traceparent:
        return false;
      default:
        return true;
    }
  });
  forwarded_for = forwarded_for_;
  if (!has_host) {
    to += "Host: ";
    if (absolute || !upstream_) {
      to += head.host;
    } else {  // an HTTP/1.0 client need not send one
      const endpoint& where = upstream_->settings.targets.front();
      to += where.host.contains(':') ? '[' + where.host + ']' : where.host;
      to += ':';
      append_number(to, where.port);
    }
    to += "\r\n";
  }
  if (body_framing_ == body_framing::chunked) to += "Transfer-Encoding: chunked\r\n";
  to += head.minor >= 1 ? "Via: 1.1 " : "Via: 1.0 ";
  to += via;
  to += "X-Forwarded-For: ";
  if (!forwarded_for.empty()) {
    to += forwarded_for;
    to += ", ";
  }
  to += client_->address();
  to += "\r\nX-Forwarded-Proto: ";
  to += forwarded_proto;
  if (!forwarded_host.empty()) {
    to += "\r\nX-Forwarded-Host: ";
    to += forwarded_host;
  }
  to += "\r\nX-Request-Id: ";
  to += identity_.request_id;
  to += "\r\ntraceparent: ";
  to += identity_.traceparent_text();
  to += "\r\n\r\n";
}

std::size_t exchange::feed(char* data, std::size_t size) {
  if (body_done_ || body_bad_) return 0;
  if (body_framing_ == body_framing::length) {
    const std::size_t n = static_cast<std::size_t>(std::min<std::uint64_t>(body_left_, size));
    keep(data, n);
    bytes_in_ += n;
    body_left_ -= n;
    body_done_ = body_left_ == 0;
    return n;
  }
  const auto [state, consumed, decoded] = request_chunks_.decode(data, size);
  bytes_in_ += decoded;
  if (bytes_in_ > max_body_) body_too_large_ = true;
  if (decoded > 0) {
    std::array<char, 20> line;
    keep(line.data(), write_chunk_size(line.data(), decoded));
    keep(data, decoded);
    keep("\r\n", 2);
  }
  body_bad_ = state == chunked_decoder::status::bad;
  if (state == chunked_decoder::status::done) {
    body_done_ = true;
    std::string end(last_chunk);
    append_trailer(end, request_chunks_);
    end += "\r\n";
    keep(end.data(), end.size());
  }
  return consumed;
}

/// Adds bytes to be sent, and to be sent again as long as there are not too many of them.
void exchange::keep(const char* data, std::size_t size) {
  body_.append(data, size);
  if (!replayable_ || size == 0) return;
  const std::uint64_t limit = route_ ? route_->retrying.replay_buffer : 0;
  const std::uint64_t held = worker_.shared.replay_bytes.fetch_add(size, std::memory_order_relaxed) + size;
  replay_held_ += size;
  if (body_.size() > limit || held > max_replay_bytes) drop_replay();
}

void exchange::drop_replay() {
  replayable_ = false;
  body_.erase(0, body_sent_);
  body_sent_ = 0;
  worker_.shared.replay_bytes.fetch_sub(std::exchange(replay_held_, 0), std::memory_order_relaxed);
}

bool exchange::wants_body() const noexcept {
  if (body_done_ || body_bad_ || body_too_large_ || upload_stopped_) return false;
  if (step_ == step::talking) return unsent_body() < most_unsent;
  // Not connected: what fits into the replay buffer and no more, so that a failed connect can still be repeated.
  return replayable_ && unsent_body() < most_unsent && body_.size() < route_->retrying.replay_buffer;
}

void exchange::body_fed() {
  if (!body_done_) body_due_ = worker_.now() + body_idle_;
  if (body_bad_ || body_too_large_) {
    const refusal why{.why = body_bad_ ? reason::bad_request : reason::body_too_large};
    if (response_started_) return cut(why.why);
    return answer_locally(why);
  }
  if (step_ == step::talking) push();
}

// ---- The pipeline --------------------------------------------------------------------------------------------------

void exchange::run() {
  if (body_bad_) early_ = refusal{.why = reason::bad_request};
  if (body_too_large_) early_ = refusal{.why = reason::body_too_large};
  if (early_) return answer_locally(*early_);
  enter_limiter();
}

void exchange::enter_limiter() {
  if (route_->rate_limiter) {
    const auto wait = route_->rate_limiter->reserve();
    if (!wait) {
      const auto after = wait.error().retry_after;
      return refuse(
          {.why = reason::rate_limited, .retry_after = after.count() > 0 ? std::optional(after) : std::nullopt});
    }
    if (wait->count() > 0) {
      if (worker_.now() + *wait >= deadline_) {
        route_->rate_limiter->cancel();
        return refuse({.why = reason::rate_limited, .retry_after = *wait});
      }
      step_ = step::limiter;
      step_due_ = worker_.loop.refresh() + *wait;
      return arm();
    }
  } else if (route_->adaptive_rate_limiter) {
    auto admitted = route_->adaptive_rate_limiter->try_acquire();
    if (!admitted) return refuse({.why = reason::rate_limited, .retry_after = admitted.error().retry_after});
    limiter_permit_.emplace(std::move(*admitted));
  }
  enter_bulkhead();
}

void exchange::enter_bulkhead() {
  step_due_ = time_point::max();
  if (!route_->bulkhead) return first_attempt();
  resilience::bulkhead& bulkhead = *route_->bulkhead;
  const auto patience = bulkhead.config().max_wait;
  if (patience.count() == 0) {
    auto place = bulkhead.try_acquire();
    if (!place) return refuse({.why = reason::bulkhead_full, .retry_after = 1s});
    place_.emplace(std::move(*place));
    return first_attempt();
  }
  step_ = step::bulkhead;
  if (auto place = bulkhead.enqueue(*this)) {
    place_.emplace(std::move(*place));
    return first_attempt();
  }
  step_due_ = std::min(resilience::detail::plus(worker_.now(), patience), deadline_);
  arm();
}

/// From whatever thread gave a place back.
void exchange::granted(resilience::bulkhead::permit p) noexcept {
  granted_.emplace(std::move(p));
  worker_.loop.post([this, used = generation_] {
    if (generation_ == used && step_ == step::bulkhead) bulkhead_granted();
  });
}

void exchange::bulkhead_granted() {
  place_ = std::move(granted_);
  granted_.reset();
  step_due_ = time_point::max();
  client& c = *client_;
  first_attempt();
  c.rearm();
}

void exchange::first_attempt() {
  upstream_->budget->record_call();
  if (route_->retry) attempts_.emplace(route_->retry->start(deadline_));
  attempt();
}

void exchange::attempt() {
  if (attempts_ && !attempts_->begin()) {
    return refuse(last_failure_.value_or(refusal{.why = reason::timed_out}));
  }
  if (route_->circuit_breaker) {
    auto admitted = route_->circuit_breaker->try_acquire();
    if (!admitted) {
      // Something was attempted before: its error is the one that tells more.
      if (last_failure_) return refuse(*last_failure_);
      refusal why{.why = reason::circuit_open};
      const auto after = admitted.error().retry_after;
      if (after.count() > 0) {
        why.retry_after = after;
      } else if (route_->circuit_breaker->state() != resilience::breaker_state::forced_open) {
        why.retry_after = 1s;
      }
      return refuse(why);
    }
    breaker_permit_.emplace(std::move(*admitted));
  }
  ++attempts_made_;
  attempt_open_ = true;
  const auto& per_try = route_->settings.per_try_timeout;
  try_due_ = per_try ? resilience::detail::plus(worker_.now(), *per_try) : time_point::max();
  const auto& chaos = route_->settings.chaos;
  if (chaos && static_cast<double>(worker_.random.next() % 1'000'000) < chaos->rate.value * 10'000) {
    return disturb(*chaos);
  }
  call();
}

/// A fault made on purpose: an attempt that takes longer, or is answered with a status as if by the upstream, or both.
void exchange::disturb(const chaos_settings& chaos) {
  if (chaos.latency.count() == 0) return delayed();
  step_ = step::delaying;
  step_due_ = std::min(resilience::detail::plus(worker_.loop.refresh(), chaos.latency), try_due_);
  arm();
}

void exchange::delayed() {
  const auto status = route_->settings.chaos->status;
  if (!status) return call();
  step_ = step::talking;
  step_due_ = try_due_;
  in_.clear();
  std::string answer = "HTTP/1.1 ";
  append_number(answer, static_cast<std::uint64_t>(*status));
  answer += ' ';
  answer += common::http::reason_phrase(*status);
  answer += *status == 204 || *status == 304 ? "\r\n\r\n" : "\r\nContent-Length: 0\r\n\r\n";
  std::ranges::copy(answer, worker_.scratch.get());
  take_response(worker_.scratch.get(), answer.size());
}

/// Sends the request to one of the upstream's targets.
void exchange::call() {
  head_sent_ = body_sent_ = 0;
  heard_ = false;
  upload_stopped_ = false;
  in_.clear();
  const auto& targets = upstream_->targets;
  const std::size_t first = worker_.round_robin++;
  target_ = targets[first % targets.size()];
  for (std::size_t i = 1; i < targets.size() && !target_->up.load(std::memory_order_relaxed); ++i) {
    const auto& other = targets[(first + i) % targets.size()];
    if (other->up.load(std::memory_order_relaxed)) target_ = other;
  }
  address_ = 0;
  while (upstream_link* const link = worker_.links.take(*target_)) {
    // What can't be sent twice must not meet a connection that the upstream has closed meanwhile.
    if (!safe_to_repeat_ && !link->socket.quiet()) {
      worker_.links.close(*link);
      continue;
    }
    link_ = link;
    link->user = this;
    step_ = step::talking;
    step_due_ = try_due_;
    return push();
  }
  connect();
}

void exchange::connect() {
  const std::vector<socket_address> addresses = target_->addresses();
  if (address_ >= addresses.size()) {
    if (!target_->numeric()) worker_.shared.look_up_soon.store(true, std::memory_order_relaxed);
    if (addresses.empty()) return attempt_failed(failure::dns);
    return attempt_failed(failure::connect);
  }
  step_ = step::connecting;
  link_ = worker_.links.connect(target_, addresses[address_], *this);
  if (!link_) {
    ++address_;
    return connect();
  }
  step_due_ = std::min(resilience::detail::plus(worker_.now(), upstream_->settings.connect_timeout), try_due_);
  arm();
}

void exchange::link_ready(std::uint32_t events) {
  client& c = *client_;
  const std::uint64_t used = generation_;
  if (step_ == step::connecting) {
    if (!(events & (EPOLLOUT | EPOLLERR | EPOLLHUP))) return;
    int error = 0;
    socklen_t size = sizeof error;
    ::getsockopt(link_->socket.fd(), SOL_SOCKET, SO_ERROR, &error, &size);
    if (error != 0) {
      drop_link(false);
      ++address_;
      connect();
    } else {
      step_ = step::talking;
      step_due_ = try_due_;
      arm();
      push();
    }
  } else if (step_ == step::talking) {
    if (link_->socket.readable()) pull();
    if (generation_ != used || step_ != step::talking) return;
    if (head_sent_ < head_.size() || unsent_body() > 0) push();
  }
  if (generation_ == used && wants_body()) c.resume_reading();
}

/// Sends what there is of the request.
void exchange::push() {
  while (!upload_stopped_ && (head_sent_ < head_.size() || unsent_body() > 0)) {
    std::array<iovec, 2> parts;
    int count = 0;
    if (head_sent_ < head_.size()) parts[count++] = part(std::string_view(head_).substr(head_sent_));
    if (unsent_body() > 0) parts[count++] = part(std::string_view(body_).substr(body_sent_));
    const auto [what, n] = link_->socket.write(parts.data(), count);
    if (what == stream::state::blocked) return;
    if (what == stream::state::failed) {
      upload_stopped_ = true;
      // It may have answered before it closed.
      return pull(true);
    }
    const std::size_t of_head = std::min(n, head_.size() - head_sent_);
    head_sent_ += of_head;
    body_sent_ += n - of_head;
    std::size_t asked = 0;
    for (int i = 0; i < count; ++i) asked += parts[i].iov_len;
    if (n < asked) break;
  }
  if (!replayable_ && body_sent_ > 0) {
    body_.erase(0, body_sent_);
    body_sent_ = 0;
  }
}

/// Receives what there is of the response. `at_any_rate`: even where no edge has told of it.
void exchange::pull(bool at_any_rate) {
  while ((link_->socket.readable() || at_any_rate) && !client_->congested()) {
    // Large bodies by the quarter megabyte, everything else by what fits into a few pages.
    const std::size_t most =
        response_started_ && response_left_ > worker::head_read ? worker::scratch_size : worker::head_read;
    const auto [what, n] = link_->socket.read(worker_.scratch.get(), most);
    if (what == stream::state::blocked) {
      if (at_any_rate) upstream_ended(false);
      return;
    }
    if (what != stream::state::ok) return upstream_ended(what == stream::state::closed);
    at_any_rate = at_any_rate && upload_stopped_;
    heard_ = true;
    if (!take_response(worker_.scratch.get(), n)) return;
  }
}

bool exchange::take_response(char* data, std::size_t size) {
  if (response_started_) return response_body(data, size, false);
  if (!in_.empty()) {
    in_.append(data, size);
    data = in_.data();
    size = in_.size();
  }
  response_head& head = worker_.response;
  for (;;) {
    const head_status status = parse({data, size}, response_limits, is_head_, head);
    if (status == head_status::incomplete) {
      if (data >= in_.data() && data <= in_.data() + in_.size()) {
        in_.erase(0, static_cast<std::size_t>(data - in_.data()));
      } else {
        in_.assign(data, size);
      }
      return true;
    }
    if (status != head_status::complete || head.status == 101) {
      attempt_failed(failure::protocol);
      return false;
    }
    if (head.status >= 200) return take_head(data + head.size, size - head.size);
    if (!relay_interim()) return false;
    data += head.size;
    size -= head.size;
    if (size == 0) {
      in_.clear();
      return true;
    }
  }
}

/// Passes a 1xx on. False: the client has left.
bool exchange::relay_interim() {
  const response_head& head = worker_.response;
  if (client_minor_ == 0 || (head.status == 100 && !expects_continue_)) return true;
  std::string& to = worker_.out;
  to = "HTTP/1.1 ";
  append_number(to, static_cast<std::uint64_t>(head.status));
  to += ' ';
  to += head.reason_phrase;
  to += "\r\n";
  append_fields(to, head, [](const head_field& field) { return field.id != field_id::content_length; });
  to += "\r\n";
  if (client_->send(to)) return true;
  client_->broken();
  return false;
}

bool exchange::take_head(char* rest, std::size_t size) {
  const response_head& head = worker_.response;
  status_ = head.status;
  response_framing_ = head.framing;
  response_left_ = head.framing == body_framing::length ? head.content_length : 0;
  if (head.framing == body_framing::chunked) response_chunks_.reset();
  if (head.framing == body_framing::length && response_left_ == 0) response_framing_ = body_framing::none;
  link_reusable_ =
      head.framing != body_framing::until_close && (head.minor >= 1 ? !head.close : head.keep_alive && !head.close);

  if (status_ >= 500) {
    judge(verdict::failure);
    count_attempt(attempt_result::error_status);
  }
  if (route_->retry && !fell_back_ && route_->retrying.on_status.contains(status_)) {
    std::optional<std::chrono::nanoseconds> asked;
    if (const head_field* field = head.find(field_id::retry_after)) asked = parse_retry_after(field->value);
    if (try_again(failure::status, asked)) {
      const bool whole = response_framing_ == body_framing::none
                             ? size == 0
                             : response_framing_ == body_framing::length && size == response_left_;
      last_failure_.reset();
      drop_link(whole);
      return false;
    }
  }

  step_due_ = time_point::max();  // the per-try timeout ends here
  // An early answer to an upload: most likely the rest of it will never be read.
  if (!body_done_ && (status_ >= 300 || expects_continue_)) client_keeps_ = false;
  const bool old = client_minor_ == 0;
  send_chunked_ = !old && (head.framing == body_framing::chunked || head.framing == body_framing::until_close);
  until_close_ = old && (head.framing == body_framing::chunked || head.framing == body_framing::until_close);
  write_response_head(head);
  return response_body(rest, size, true);
}

void exchange::write_response_head(const response_head& head) {
  std::string& to = worker_.out;
  to.clear();
  to += "HTTP/1.1 ";
  append_number(to, static_cast<std::uint64_t>(head.status));
  to += ' ';
  to += head.reason_phrase;
  to += "\r\n";
  const bool limited = !route_->rate_limit_policy.empty();
  const bool no_length = head.status == 204;
  append_fields(to, head, [&](const head_field& field) {
    switch (field.id) {
      case field_id::request_id:
        return false;
      case field_id::rate_limit:
      case field_id::rate_limit_policy:
        return !limited;
      case field_id::content_length:
        return !no_length;
      default:
        return true;
    }
  });
  if (send_chunked_) to += "Transfer-Encoding: chunked\r\n";
  to += head.minor >= 1 ? "Via: 1.1 " : "Via: 1.0 ";
  to += via;
  to += "X-Request-Id: ";
  to += identity_.request_id;
  to += "\r\n";
  append_rate_limit(to, *route_);
  if (fell_back_) append_reason(to, *fell_back_);
  append_connection(to, shape());
  to += "\r\n";
}

bool exchange::response_body(char* data, std::size_t size, bool with_head) {
  std::size_t n = 0;
  std::size_t used = 0;
  bool done = false;
  switch (response_framing_) {
    case body_framing::none:
      done = true;
      break;
    case body_framing::length:
      n = used = static_cast<std::size_t>(std::min<std::uint64_t>(response_left_, size));
      response_left_ -= n;
      done = response_left_ == 0;
      break;
    case body_framing::chunked: {
      const auto [state, consumed, decoded] = response_chunks_.decode(data, size);
      n = decoded;
      used = consumed;
      done = state == chunked_decoder::status::done;
      if (state == chunked_decoder::status::bad) {
        if (with_head) {
          attempt_failed(failure::protocol);
        } else {
          cut(reason::upstream_protocol_error);
        }
        return false;
      }
      break;
    }
    case body_framing::until_close:
      n = used = size;
      break;
  }
  if (used < size) link_reusable_ = false;  // nobody asked for the rest
  bytes_out_ += n;
  return pass_on({data, n}, with_head, done);
}

/// Sends a piece of the body on, with the head before it and the end after it where they belong. False: that was all,
/// or the client has left.
bool exchange::pass_on(std::string_view body, bool with_head, bool done) {
  std::array<iovec, 5> parts;
  int count = 0;
  std::array<char, 20> line;
  if (with_head) parts[count++] = part(worker_.out);
  if (!body.empty()) {
    if (send_chunked_) parts[count++] = part({line.data(), write_chunk_size(line.data(), body.size())});
    parts[count++] = part(body);
    if (send_chunked_) parts[count++] = part("\r\n");
  }
  if (done && send_chunked_) {
    end_ = last_chunk;
    if (response_framing_ == body_framing::chunked) append_trailer(end_, response_chunks_);
    end_ += "\r\n";
    parts[count++] = part(end_);
  }
  response_started_ = true;
  in_.clear();
  if (!done) {
    if (count == 0 || client_->send(parts.data(), count)) return true;
    client_->broken();
    return false;
  }
  if (status_ < 500) {
    judge(verdict::success);
    count_attempt(attempt_result::ok);
  }
  settle(status_, fell_back_ ? std::optional(fell_back_->why) : std::nullopt);
  drop_link(link_reusable_);
  const bool sent = count == 0 || client_->send(parts.data(), count);
  end(sent && keeps_client() && body_done_, !body_done_);
  return false;
}

/// No more comes from the upstream: the end of its side (`cleanly`), or an error.
void exchange::upstream_ended(bool cleanly) {
  if (response_started_) {
    if (cleanly && response_framing_ == body_framing::until_close) {
      link_reusable_ = false;
      pass_on({}, false, true);
      return;
    }
    return cut(reason::upstream_reset);
  }
  const bool stale = !heard_ && link_->used_before && !replayed_;
  const bool nothing_sent = head_sent_ == 0;
  if (stale && (nothing_sent || (safe_to_repeat_ && replayable_))) {
    // It was closed while it lay in the pool; that is nobody's failure.
    replayed_ = true;
    worker_.counts().replayed.add();
    drop_link(false);
    head_sent_ = body_sent_ = 0;
    upload_stopped_ = false;
    in_.clear();
    return connect();
  }
  attempt_failed(failure::reset);
}

void exchange::attempt_failed(failure what) {
  refusal why{.why = reason::upstream_reset};
  switch (what) {
    case failure::connect:
      why = {.why = reason::connect_failure};
      break;
    case failure::connect_timeout:
      why = {.why = reason::connect_failure,
             .status = 504,
             .proxy_status = "connection_timeout",
             .details = "The upstream did not accept the connection in time"};
      break;
    case failure::dns:
      why = {.why = reason::connect_failure,
             .proxy_status = "dns_error",
             .details = "The upstream's name cannot be resolved"};
      break;
    case failure::protocol:
      why = {.why = reason::upstream_protocol_error};
      break;
    case failure::per_try_timeout:
      why = {.why = reason::timed_out, .details = "An attempt took too long"};
      break;
    case failure::reset:
    case failure::status:
      break;
  }
  drop_link(false);
  judge(verdict::failure);
  const bool timeout = what == failure::per_try_timeout || what == failure::connect_timeout;
  count_attempt(timeout ? attempt_result::timeout : attempt_result::transport_error);
  step_due_ = time_point::max();
  if (!fell_back_ && try_again(what, std::nullopt)) {
    last_failure_ = why;
    return;
  }
  refuse(why);
}

bool exchange::try_again(failure what, std::optional<std::chrono::nanoseconds> asked_wait) {
  if (!route_->retry || !attempts_ || response_started_) return false;
  const retry_rules& rules = route_->retrying;
  upstream_shard& upstream_counts = upstream_->counters->of(worker_.index);
  const auto suppressed = [&](retry_suppression why) {
    upstream_counts.suppressed[static_cast<std::size_t>(why)].add();
    return false;
  };
  outcome ended{std::make_error_code(std::errc::io_error), nullptr};
  bool wanted = false;
  bool nothing_sent = false;
  switch (what) {
    case failure::connect:
    case failure::connect_timeout:
    case failure::dns:
      wanted = rules.on_connect_failure;
      nothing_sent = true;
      ended.error =
          std::make_error_code(what == failure::connect_timeout ? std::errc::timed_out : std::errc::connection_refused);
      break;
    case failure::reset:
      wanted = rules.on_reset;
      ended.error = std::make_error_code(std::errc::connection_reset);
      break;
    case failure::per_try_timeout:
      wanted = rules.on_status.contains(504);
      ended.error = make_error_code(errc::timed_out);
      break;
    case failure::protocol:
      ended.error = std::make_error_code(std::errc::protocol_error);
      break;
    case failure::status:
      wanted = true;
      break;
  }
  if (!nothing_sent && !has_key_ && !rules.methods.contains(std::string(method()))) wanted = false;
  if (!wanted) {
    attempts_->finish(ended);
    return false;
  }
  if (!nothing_sent && !replayable_) {
    attempts_->finish(ended);
    return suppressed(retry_suppression::not_replayable);
  }
  // A breaker that has just opened would refuse; then the answer at hand is worth more.
  if (route_->circuit_breaker) {
    const auto state = route_->circuit_breaker->state();
    if (state == resilience::breaker_state::open || state == resilience::breaker_state::forced_open) {
      attempts_->finish(ended);
      return false;
    }
  }
  if (attempts_made_ >= route_->retry->config().max_attempts) {
    attempts_->next(ended);
    return false;
  }
  if (!rules.honour_retry_after) asked_wait.reset();
  const time_point now = worker_.loop.refresh();
  if (asked_wait && now + *asked_wait >= deadline_) {
    attempts_->finish(ended);
    return suppressed(retry_suppression::retry_after);
  }
  if (!upstream_->budget->try_acquire()) {
    attempts_->finish(ended);
    return suppressed(retry_suppression::budget_exhausted);
  }
  const auto wait = attempts_->next(ended, asked_wait.value_or(0ns));
  if (!wait) {
    if (attempts_->stopped_by() == errc::deadline_exceeded) return suppressed(retry_suppression::deadline);
    return false;
  }
  step_ = step::backing_off;
  step_due_ = now + *wait;
  arm();
  return true;
}

// ---- Time ----------------------------------------------------------------------------------------------------------

time_point exchange::due() const noexcept { return std::min({deadline_, step_due_, body_due_}); }

void exchange::arm() {
  if (client_) client_->rearm();
}

void exchange::on_timeout() {
  const time_point now = worker_.now();
  if (now >= body_due_ && !body_done_) {
    if (wants_body()) {
      if (response_started_) return cut(reason::body_timeout);
      return answer_locally({.why = reason::body_timeout});
    }
    body_due_ = now + body_idle_;  // it is not the client that is slow
  }
  if (body_done_) body_due_ = time_point::max();

  if (step_ == step::bulkhead && now >= step_due_) {
    if (!route_->bulkhead->withdraw(*this)) return bulkhead_granted();
    route_->bulkhead->refused();
    step_ = step::start;
    return refuse({.why = reason::bulkhead_full, .retry_after = 1s});
  }
  if (now >= deadline_) {
    if (attempt_open_) count_attempt(attempt_result::timeout);
    judge(verdict::failure);
    counts().timed_out.add();
    if (response_started_) return cut(reason::timed_out);
    drop_link(false);
    return refuse({.why = reason::timed_out});
  }
  if (now < step_due_) return;
  step_due_ = time_point::max();
  switch (step_) {
    case step::limiter:
      step_ = step::start;
      return enter_bulkhead();
    case step::backing_off:
      return attempt();
    case step::delaying:
      return now >= try_due_ ? attempt_failed(failure::per_try_timeout) : delayed();
    case step::connecting:
      return attempt_failed(failure::connect_timeout);
    case step::talking:
      return attempt_failed(failure::per_try_timeout);
    case step::start:
    case step::bulkhead:
      return;
  }
}

// ---- Ends ----------------------------------------------------------------------------------------------------------

void exchange::refuse(refusal why) {
  drop_link(false);
  if (fell_back_) return answer_locally(*fell_back_);
  const auto& fallback = route_->settings.fallback;
  if (!fallback || !fallback->when.contains(why.why)) return answer_locally(why);
  counts().fallbacks[static_cast<std::size_t>(why.why)].add();
  if (route_->alternate && (replayable_ || attempts_made_ == 0)) {
    fell_back_ = why;
    upstream_ = route_->alternate.get();
    if (attempts_) attempts_->finish({make_error_code(errc::attempts_exhausted), nullptr});
    deadline_ = resilience::detail::plus(worker_.now(), route_->settings.timeout);
    try_due_ = time_point::max();
    step_due_ = time_point::max();
    attempt_open_ = true;
    replayed_ = false;
    ++attempts_made_;
    call();
    return arm();
  }
  answer_locally(why);
}

void exchange::answer_locally(const refusal& reason_given) {
  const refusal why = reason_given;
  drop_link(false);
  judge(verdict::ignore);
  if (attempt_open_) count_attempt(attempt_result::abandoned);
  const fallback_settings::respond* respond = nullptr;
  if (route_ && route_->settings.fallback && route_->settings.fallback->when.contains(why.why)) {
    respond = std::get_if<fallback_settings::respond>(&route_->settings.fallback->action);
  }
  const int status = respond ? respond->status : why.code();
  if (!body_done_) client_keeps_ = false;
  std::string& to = worker_.out;
  to.clear();
  if (respond) {
    append_fallback(to, why, *respond, shape());
  } else {
    append_problem(to, why, shape());
  }
  const std::size_t head_end = to.find("\r\n\r\n");
  bytes_out_ = to.size() - head_end - 4;
  counts().local[static_cast<std::size_t>(why.why)].add();
  settle(status, why.why);
  const bool sent = client_->send(to);
  end(sent && keeps_client(), !body_done_);
}

/// Ends an exchange whose answer had begun: the client must not take it for whole.
void exchange::cut(reason why) {
  const bool clients_fault = !may_fall_back(why);
  judge(clients_fault ? verdict::ignore : verdict::failure);
  if (attempt_open_) count_attempt(clients_fault ? attempt_result::abandoned : attempt_result::transport_error);
  settle(status_, why);
  client& c = *client_;
  const bool hard = until_close_;
  release();
  c.kill(hard);
}

void exchange::client_left() {
  judge(verdict::ignore);
  if (attempt_open_) count_attempt(attempt_result::abandoned);
  left_ = true;
  settle(499, std::nullopt);
  release();
}

void exchange::judge(verdict v) noexcept {
  if (!breaker_permit_) return;
  switch (v) {
    case verdict::success:
      breaker_permit_->success();
      break;
    case verdict::failure:
      breaker_permit_->failure();
      break;
    case verdict::ignore:
      breaker_permit_->ignore();
      break;
  }
  breaker_permit_.reset();
}

void exchange::count_attempt(attempt_result result) noexcept {
  if (!std::exchange(attempt_open_, false)) return;
  upstream_->counters->of(worker_.index).attempts[static_cast<std::size_t>(result)].add();
}

void exchange::settle(int status, std::optional<reason> why) {
  const bool left = std::exchange(left_, false);
  if (step_ == step::limiter) {
    route_->rate_limiter->cancel();
  } else if (step_ == step::bulkhead) {
    route_->bulkhead->withdraw(*this);
    granted_.reset();
  }
  step_ = step::start;

  if (limiter_permit_) {
    const bool refused_here =
        why == reason::bulkhead_full || why == reason::circuit_open || (why && !may_fall_back(*why));
    if (left || refused_here) {
      limiter_permit_->ignore();
    } else if (why || status >= 500 || status == 429) {
      limiter_permit_->failure();
    } else {
      limiter_permit_->success();
    }
    limiter_permit_.reset();
  }
  if (place_) {
    place_->success();
    place_.reset();
  }
  if (attempts_) {
    if (left) {
      attempts_->finish({make_error_code(errc::cancelled), nullptr});
    } else if (!why && status < 500) {
      attempts_->next({});
    } else {
      attempts_->finish(
          {make_error_code(why == reason::timed_out ? errc::timed_out : errc::attempts_exhausted), nullptr});
    }
    attempts_.reset();
  }

  const auto took = std::chrono::steady_clock::now() - started_;
  route_shard& shard = counts();
  shard.by_code[static_cast<std::size_t>(status)].add();
  shard.observe(took);
  shard.in_flight.subtract();
  if (worker_.shared.log.enabled()) {
    const std::string_view head = head_;
    const std::string_view path = head.substr(method_size_ + 1, path_size_);
    worker_.shared.log.write(worker_.index,
                             {.client = client_->address(),
                              .method = method(),
                              .path = path.substr(0, path.find('?')),
                              .route = route_ ? std::string_view(route_->settings.name) : std::string_view{},
                              .upstream = upstream_ ? std::string_view(upstream_->name) : std::string_view{},
                              .status = status,
                              .reason = why,
                              .attempts = attempts_made_,
                              .duration = took,
                              .bytes_in = bytes_in_,
                              .bytes_out = bytes_out_,
                              .request_id = identity_.request_id,
                              .trace_id = identity_.trace_id()});
  }
}

/// `reusable`: as far as the response says; the request must have been sent whole too.
void exchange::drop_link(bool reusable) {
  upstream_link* const link = std::exchange(link_, nullptr);
  if (!link) return;
  reusable = reusable && body_done_ && head_sent_ == head_.size() && unsent_body() == 0 && !upload_stopped_ &&
             !link->socket.readable();
  if (reusable) {
    worker_.links.give_back(*link, resilience::detail::plus(worker_.now(), upstream_->settings.idle_timeout));
  } else {
    worker_.links.close(*link);
  }
}

void exchange::end(bool keep_client, bool may_be_sending) {
  client& c = *client_;
  release();
  c.finished(keep_client, may_be_sending);
}

void exchange::release() {
  drop_link(false);
  client_->forget_exchange();
  client_ = nullptr;
  if (replay_held_ > 0)
    worker_.shared.replay_bytes.fetch_sub(std::exchange(replay_held_, 0), std::memory_order_relaxed);
  trim(body_);
  trim(in_);
  if (head_.capacity() > kept_capacity) trim(head_);
  body_sent_ = 0;
  target_.reset();
  snapshot_.reset();
  route_ = nullptr;
  upstream_ = nullptr;
  ++generation_;
  worker_.recycle(*this);
}

void exchange::client_writable() {
  if (step_ == step::talking && link_ && link_->socket.readable()) pull();
}

bool exchange::keeps_client() const noexcept { return client_keeps_ && !until_close_ && !worker_.draining(); }

answer_shape exchange::shape() const noexcept {
  return {.request_id = identity_.request_id,
          .matched = route_,
          .head_only = is_head_,
          .close = !keeps_client(),
          .keep_alive = client_minor_ == 0 && keeps_client()};
}

}  // namespace sidecar
