#pragma once
/// One thread of the data path: its event loop, listener, clients, upstream connections and memory for reuse.

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "sidecar/metrics/access_log.hpp"
#include "sidecar/proxy/event_loop.hpp"
#include "sidecar/proxy/health_check.hpp"
#include "sidecar/proxy/http_head.hpp"
#include "sidecar/proxy/identity.hpp"
#include "sidecar/proxy/runtime.hpp"
#include "sidecar/proxy/upstream_link.hpp"

namespace sidecar {

class client;
class exchange;

/// What all workers of a proxy share.
struct shared_state {
  runtime& live;
  access_log log;
  std::atomic<int> clients = 0;
  std::atomic<std::uint64_t> replay_bytes = 0;  ///< Held for repetitions, over all requests.

  std::atomic<bool> look_up_soon = false;  ///< A connection to a target with a name has failed.

  explicit shared_state(runtime& r) : live(r), log(r.workers()) {}
};

/// Bytes that all requests together may hold for repetitions.
inline constexpr std::uint64_t max_replay_bytes = 64 * 1024 * 1024;

class worker {
 public:
  worker(shared_state& shared, std::size_t index, int listener);
  ~worker();
  worker(const worker&) = delete;
  worker& operator=(const worker&) = delete;

  // From any thread.
  void run() { loop.run(); }
  void stop() { loop.stop(); }

  // From the loop's thread; others post.
  void use(std::shared_ptr<const snapshot> next);
  void stop_accepting();
  void drain(std::function<void()> idle);
  /// Cuts every connection; returns the requests that were under way.
  std::size_t cut();

  // For clients and exchanges.
  static constexpr std::size_t scratch_size = 256 * 1024;
  static constexpr std::size_t head_read = 64 * 1024;  ///< What is read at once while a head may come.

  [[nodiscard]] time_point now() const noexcept { return loop.now(); }
  [[nodiscard]] const std::shared_ptr<const snapshot>& current() const noexcept { return current_; }
  [[nodiscard]] bool draining() const noexcept { return draining_; }
  exchange& new_exchange();
  void recycle(exchange& done);
  void add(client& c);
  /// The client has closed its socket: it is destroyed at the end of the round.
  void remove(client& c);
  [[nodiscard]] connection_shard& counts() noexcept { return shared.live.connections().of(index); }

  shared_state& shared;
  const std::size_t index;
  event_loop loop;
  link_pool links;
  random_bits random;
  std::unique_ptr<char[]> scratch;
  request_head request;    ///< Of the request being read.
  response_head response;  ///< Of the response being read.
  std::string out;         ///< Where an answer's head is put together.
  std::size_t round_robin = 0;

 private:
  struct acceptor final : watcher, timer_wheel::entry {
    explicit acceptor(worker& w) : owner(w) {}
    void on_ready(std::uint32_t events) override;
    void on_timeout() override;  ///< Tries again after descriptors had run out.
    worker& owner;
    int fd = -1;
  };

  void check_idle();

  std::shared_ptr<const snapshot> current_;
  health_checks checks_;  ///< Of all targets, on the first worker.
  acceptor acceptor_;
  client* first_ = nullptr;  ///< All clients, an intrusive list.
  std::size_t clients_ = 0;
  bool draining_ = false;
  std::function<void()> idle_;
  std::vector<std::unique_ptr<exchange>> exchanges_;
  std::vector<exchange*> free_;
};

}  // namespace sidecar
