#pragma once
/// The data path: accepts clients, applies a route's policies, forwards to its upstream.

#include <chrono>
#include <cstdint>
#include <expected>
#include <functional>
#include <memory>
#include <string>

#include "sidecar/proxy/runtime.hpp"

namespace sidecar {

/// One listener and one event loop for each worker of the runtime. Threads: any, all members.
class proxy {
 public:
  /// `state` outlives the proxy and has been given a configuration.
  explicit proxy(runtime& state);
  /// Cuts what is still under way and joins the threads.
  ~proxy();
  proxy(const proxy&) = delete;
  proxy& operator=(const proxy&) = delete;

  /// Binds the listen address of the current snapshot and starts the threads. Returns the port bound (the system's
  /// choice where the settings say 0), or a sentence that names the address and what is wrong with it.
  std::expected<std::uint16_t, std::string> start();

  /// Gives every worker the runtime's current snapshot, and opens the access log anew. Returns once all workers have
  /// it. The listen address, the number of threads and the drain settings stay those of the start.
  void publish();

  /// Closes the listeners; connections go on.
  void stop_accepting();
  /// From now on answers carry `Connection: close` and idle connections are closed. Calls `idle` once, from a worker's
  /// thread, when no client is connected any more. After `force()` that is soon.
  void drain(std::function<void()> idle);
  /// Cuts every connection. Returns how many requests were under way.
  std::size_t force();

  [[nodiscard]] std::size_t requests_in_flight() const;
  [[nodiscard]] std::size_t client_connections() const noexcept;
  [[nodiscard]] std::size_t upstream_connections() const noexcept;

 private:
  struct state;
  std::unique_ptr<state> state_;
};

}  // namespace sidecar
