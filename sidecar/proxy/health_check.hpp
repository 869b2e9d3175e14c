#pragma once
/// Asks the targets of upstreams at intervals whether they are well.

#include <memory>
#include <string>
#include <vector>

#include "sidecar/proxy/event_loop.hpp"
#include "sidecar/proxy/runtime.hpp"
#include "sidecar/proxy/stream.hpp"

namespace sidecar {

/// A target is down after two failed checks and up after a good one: an answer of 200 to 399 in time. All on one loop.
class health_checks {
 public:
  explicit health_checks(event_loop& loop) : loop_(loop) {}
  ~health_checks();
  health_checks(const health_checks&) = delete;
  health_checks& operator=(const health_checks&) = delete;

  /// Checks what `current` asks for, each target at once and then at its interval; those that stay keep their rhythm.
  void use(const snapshot& current);

 private:
  class probe final : public watcher, public timer_wheel::entry {
   public:
    probe(event_loop& loop, std::shared_ptr<target> of, health_check_settings how);
    void on_ready(std::uint32_t events) override;
    void on_timeout() override;
    void end();

    const std::shared_ptr<target> of;
    const health_check_settings how;

   private:
    void begin();
    void conclude(bool good);

    event_loop& loop_;
    stream socket_;
    bool asking_ = false;
    bool sent_ = false;
    std::string answer_;
    time_point began_{};
  };

  event_loop& loop_;
  std::vector<probe*> probes_;
};

}  // namespace sidecar
