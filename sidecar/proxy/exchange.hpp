#pragma once
/// One request on its way through the pipeline: fallback → rate limiter → bulkhead → total timeout → retry → circuit
/// breaker → per-try timeout → call. A state machine driven by readiness of two sockets, one timer and the bulkhead.

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "sidecar/proxy/chunked.hpp"
#include "sidecar/proxy/identity.hpp"
#include "sidecar/proxy/responses.hpp"
#include "sidecar/proxy/upstream_link.hpp"
#include "sidecar/proxy/worker.hpp"

namespace sidecar {

/// Kept by its worker and used for one request after another: its buffers keep their memory.
class exchange final : public link_user, public resilience::bulkhead::waiter {
 public:
  explicit exchange(worker& w) : worker_(w) {}

  /// Takes in the head of a request.
  void begin(client& from, const request_head& head);
  /// Takes in bytes of its body, which it overwrites; returns how many belong to it.
  std::size_t feed(char* data, std::size_t size);
  /// Goes through the pipeline as far as it can. `this` may be ended and used anew when it returns.
  void run();

  /// Whether bytes of the body are wanted now.
  [[nodiscard]] bool wants_body() const noexcept;
  [[nodiscard]] bool body_complete() const noexcept { return body_done_; }
  /// The client's socket takes bytes again.
  void client_writable();
  /// More of the body has been fed.
  void body_fed();
  void client_left();
  void on_timeout();
  /// Until when something has to happen.
  [[nodiscard]] time_point due() const noexcept;

  void link_ready(std::uint32_t events) override;
  void granted(resilience::bulkhead::permit p) noexcept override;

 private:
  enum class step : std::uint8_t { start, limiter, bulkhead, delaying, connecting, talking, backing_off };
  enum class failure : std::uint8_t { connect, connect_timeout, dns, reset, protocol, per_try_timeout, status };

  // The request.
  void take_method(std::string_view method);
  void write_head(const request_head& head);
  void keep(const char* data, std::size_t size);
  void drop_replay();
  [[nodiscard]] std::size_t unsent_body() const noexcept { return body_.size() - body_sent_; }

  // The pipeline.
  void enter_limiter();
  void enter_bulkhead();
  void bulkhead_granted();
  void first_attempt();
  void attempt();
  void disturb(const chaos_settings& chaos);
  void delayed();
  void call();
  void connect();
  void push();
  void pull(bool at_any_rate = false);
  /// Returns false when the exchange has moved on (ended, retried) and the caller must touch nothing.
  bool take_response(char* data, std::size_t size);
  bool take_head(char* rest, std::size_t size);
  bool response_body(char* data, std::size_t size, bool with_head);
  bool pass_on(std::string_view body, bool with_head, bool done);
  bool relay_interim();
  void upstream_ended(bool cleanly);
  void attempt_failed(failure what);
  /// Schedules another attempt; false: there will be none.
  bool try_again(failure what, std::optional<std::chrono::nanoseconds> asked_wait);
  void write_response_head(const response_head& head);

  // Ends.
  void refuse(refusal why);
  void answer_locally(const refusal& why);
  void cut(reason why);
  /// Everything that is held is given back, everything counted: before the last byte of the answer is written.
  void settle(int status, std::optional<reason> why);
  void judge(resilience::verdict v) noexcept;
  void count_attempt(attempt_result result) noexcept;
  void drop_link(bool reusable);
  void end(bool keep_client, bool may_be_sending);
  void release();

  [[nodiscard]] bool keeps_client() const noexcept;
  [[nodiscard]] std::string_view method() const noexcept { return std::string_view(head_).substr(0, method_size_); }
  [[nodiscard]] route_shard& counts() noexcept { return counters_->of(worker_.index); }
  [[nodiscard]] answer_shape shape() const noexcept;
  void arm();

  worker& worker_;
  client* client_ = nullptr;
  std::shared_ptr<const snapshot> snapshot_;
  const route* route_ = nullptr;
  const upstream* upstream_ = nullptr;
  route_counters* counters_ = nullptr;
  std::uint64_t generation_ = 0;  ///< Of its use, so that a late message finds nobody.
  step step_ = step::start;
  time_point started_{}, deadline_{}, step_due_{}, try_due_{}, body_due_{};
  std::optional<refusal> early_;  ///< Known from the head.
  std::uint64_t max_body_ = 0;
  std::chrono::nanoseconds body_idle_{};
  bool left_ = false;

  // The request as it is sent.
  std::string head_;
  std::size_t head_sent_ = 0;
  std::size_t method_size_ = 0, path_size_ = 0;  ///< In head_.
  std::string body_;  ///< As it goes over the wire: all of it while replayable_, else what is not sent yet.
  std::size_t body_sent_ = 0;
  std::uint64_t body_left_ = 0;
  std::uint64_t bytes_in_ = 0, bytes_out_ = 0;
  std::uint64_t replay_held_ = 0;
  chunked_decoder request_chunks_;
  body_framing body_framing_ = body_framing::none;
  bool body_done_ = true;
  bool body_bad_ = false;
  bool body_too_large_ = false;
  bool replayable_ = true;
  bool upload_stopped_ = false;  ///< The upstream takes no more of it.
  bool is_head_ = false;
  bool safe_to_repeat_ = false;  ///< By its method.
  bool has_key_ = false;         ///< Idempotency-Key.
  bool expects_continue_ = false;
  bool client_keeps_ = false;  ///< As far as the client's request says.
  int client_minor_ = 1;
  std::string forwarded_for_;
  identity identity_;

  // Policies.
  std::optional<resilience::adaptive_rate_limiter::permit> limiter_permit_;
  std::optional<resilience::bulkhead::permit> place_, granted_;
  std::optional<resilience::circuit_breaker::permit> breaker_permit_;
  std::optional<resilience::retry::attempts> attempts_;
  int attempts_made_ = 0;
  std::optional<refusal> last_failure_;
  std::optional<refusal> fell_back_;  ///< Why the alternate upstream was asked.

  // The attempt.
  upstream_link* link_ = nullptr;
  std::shared_ptr<target> target_;
  std::size_t address_ = 0;
  bool attempt_open_ = false;
  bool replayed_ = false;
  bool heard_ = false;  ///< A byte of the response has come.

  // The response.
  std::string in_;  ///< Its head, as long as it is incomplete.
  chunked_decoder response_chunks_;
  body_framing response_framing_ = body_framing::none;
  std::uint64_t response_left_ = 0;
  std::string end_;  ///< The last chunk and the trailer.
  int status_ = 0;
  bool response_started_ = false;  ///< Its head went to the client.
  bool link_reusable_ = false;
  bool send_chunked_ = false;
  bool until_close_ = false;  ///< The client takes the end of the connection for the end of the body.
};

}  // namespace sidecar
