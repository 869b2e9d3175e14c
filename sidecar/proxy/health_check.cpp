#include "sidecar/proxy/health_check.hpp"

#include <algorithm>
#include <array>
#include <utility>

#include "sidecar/proxy/http_head.hpp"

namespace sidecar {

using namespace std::chrono_literals;

health_checks::~health_checks() {
  for (probe* const p : probes_) delete p;
}

void health_checks::use(const snapshot& current) {
  std::vector<probe*> next;
  for (const auto& [name, upstream] : current.upstreams) {
    if (!upstream->settings.health_check) continue;
    for (const auto& target : upstream->targets) {
      const auto same = std::ranges::find_if(
          probes_, [&](probe* p) { return p && p->of == target && p->how == *upstream->settings.health_check; });
      if (same != probes_.end()) {
        next.push_back(std::exchange(*same, nullptr));
      } else {
        auto* const p = new probe(loop_, target, *upstream->settings.health_check);
        loop_.set(*p, loop_.now());
        next.push_back(p);
      }
    }
  }
  for (probe* const p : probes_) {
    if (!p) continue;
    p->end();
    loop_.discard(p);
  }
  probes_ = std::move(next);
}

health_checks::probe::probe(event_loop& loop, std::shared_ptr<target> t, health_check_settings h)
    : of(std::move(t)), how(std::move(h)), loop_(loop) {}

void health_checks::probe::end() {
  socket_.close();
  loop_.timers().cancel(*this);
}

void health_checks::probe::on_timeout() {
  if (asking_) return conclude(false);
  begin();
}

void health_checks::probe::begin() {
  asking_ = true;
  sent_ = false;
  answer_.clear();
  began_ = loop_.now();
  const auto addresses = of->addresses();
  if (addresses.empty()) return conclude(false);
  const socket_address& to = addresses.front();
  const int fd = ::socket(to.storage.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) return conclude(false);
  socket_.adopt(fd);
  const int failed = ::connect(fd, reinterpret_cast<const sockaddr*>(&to.storage), to.size);
  if ((failed != 0 && errno != EINPROGRESS) || !loop_.watch(fd, *this)) return conclude(false);
  loop_.set(*this, began_ + std::clamp<std::chrono::nanoseconds>(how.interval, 100ms, 5s));
}

void health_checks::probe::on_ready(std::uint32_t events) {
  if (!socket_.open()) return;
  socket_.note(events);
  if (!sent_ && (events & EPOLLOUT) && !socket_.broken()) {
    const bool v6 = of->where.host.contains(':');
    const std::string ask = "GET " + how.path + " HTTP/1.1\r\nHost: " + (v6 ? "[" : "") + of->where.host +
                            (v6 ? "]" : "") + ":" + std::to_string(of->where.port) +
                            "\r\nUser-Agent: resilience-sidecar\r\nConnection: close\r\n\r\n";
    iovec part{const_cast<char*>(ask.data()), ask.size()};
    const auto [what, n] = socket_.write(&part, 1);
    if (what != stream::state::ok || n < ask.size()) return conclude(false);
    sent_ = true;
  }
  if (socket_.broken() && !sent_) return conclude(false);
  while (socket_.readable()) {
    std::array<char, 4096> bytes;
    const auto [what, n] = socket_.read(bytes.data(), bytes.size());
    if (what == stream::state::blocked) return;
    if (what != stream::state::ok) return conclude(false);
    answer_.append(bytes.data(), n);
    response_head head;
    const head_status status = parse(answer_, {}, false, head);
    if (status == head_status::complete) return conclude(head.status >= 200 && head.status < 400);
    if (status != head_status::incomplete) return conclude(false);
  }
}

void health_checks::probe::conclude(bool good) {
  socket_.close();
  asking_ = false;
  if (good) {
    of->failed_checks = 0;
    of->up = true;
  } else if (++of->failed_checks >= 2) {
    of->up = false;
  }
  loop_.set(*this, std::max(began_ + how.interval, loop_.now()));
}

}  // namespace sidecar
