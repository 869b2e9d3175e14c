#include "sidecar/admin/overrides.hpp"

#include <resilience/detail/yaml/value.hpp>

#include "common/log.hpp"

namespace sidecar {
namespace {

using resilience::breaker_state;

void close(resilience::circuit_breaker& breaker) {
  if (breaker.state() == breaker_state::closed) {
    breaker.reset();  // a change of state empties the window by itself
  } else {
    breaker.transition_to(breaker_state::closed);
  }
}

}  // namespace

std::optional<override_state> override_of(std::string_view word) noexcept {
  if (word == "CLOSE") return override_state::close;
  if (word == "FORCE_OPEN") return override_state::force_open;
  if (word == "DISABLE") return override_state::disable;
  if (word == "METRICS_ONLY") return override_state::metrics_only;
  return std::nullopt;
}

void overrides::set(const std::shared_ptr<resilience::circuit_breaker>& breaker, override_state state,
                    std::optional<std::chrono::nanoseconds> ttl, std::string_view by) {
  const std::lock_guard lock(mutex_);
  ends_.erase(breaker->name());
  const breaker_state before = breaker->state();
  switch (state) {
    case override_state::close:
      close(*breaker);
      break;
    case override_state::force_open:
      breaker->transition_to(breaker_state::forced_open);
      break;
    case override_state::disable:
      breaker->transition_to(breaker_state::disabled);
      break;
    case override_state::metrics_only:
      breaker->transition_to(breaker_state::metrics_only);
      break;
  }
  using duration_text = resilience::detail::yaml::codec<std::chrono::nanoseconds>;
  common::log::info("audit circuit breaker state set",
                    {{"name", breaker->name()},
                     {"from", to_string(before)},
                     {"to", to_string(breaker->state())},
                     {"ttl", ttl ? boost::json::value(duration_text::show(*ttl)) : boost::json::value()},
                     {"by", by}});
  if (!ttl || state == override_state::close) return;
  const std::uint64_t number = ++last_;
  auto timer = std::make_unique<boost::asio::steady_timer>(io_);
  timer->expires_after(*ttl);
  timer->async_wait([this, breaker, number](const boost::system::error_code& cancelled) {
    if (!cancelled) end(breaker, number);
  });
  ends_.emplace(breaker->name(), timed{number, std::move(timer)});
}

void overrides::end(const std::shared_ptr<resilience::circuit_breaker>& breaker, std::uint64_t number) {
  const std::lock_guard lock(mutex_);
  const auto found = ends_.find(breaker->name());
  if (found == ends_.end() || found->second.number != number) return;  // another override came in between
  ends_.erase(found);
  const breaker_state before = breaker->state();
  close(*breaker);
  common::log::info("audit circuit breaker override ended",
                    {{"name", breaker->name()}, {"from", to_string(before)}, {"to", to_string(breaker->state())}});
}

}  // namespace sidecar
