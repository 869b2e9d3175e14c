#include "sidecar/admin/event_log.hpp"

#include <map>
#include <resilience/detail/json.hpp>

#include "common/text.hpp"

namespace sidecar {
namespace {

namespace json = boost::json;
using resilience::time_point;
using kind = breaker_log::entry::kind_type;

/// Wall time is made up only here: the policies know none.
std::string wall_time(time_point at) {
  const auto ago = std::chrono::steady_clock::now() - at;
  return common::rfc3339(std::chrono::system_clock::now() -
                         std::chrono::duration_cast<std::chrono::system_clock::duration>(ago));
}

/// The events of one answer, in the order of their times.
class answer {
 public:
  explicit answer(const event_log::query& q) : query_(q) {}

  [[nodiscard]] bool wants(std::string_view name) const { return !query_.name || *query_.name == name; }
  /// Null where the type is not asked for.
  json::object* add(std::string_view name_field, std::string_view name, std::string_view type, time_point at) {
    if (query_.type && *query_.type != type) return nullptr;
    json::object event{{name_field, name}, {"type", type}, {"creationTime", wall_time(at)}};
    return &found_.emplace(at, std::move(event))->second;
  }

  json::array take() {
    json::array all;
    for (auto& [at, event] : found_) all.push_back(std::move(event));
    return all;
  }

 private:
  const event_log::query& query_;
  std::multimap<time_point, json::object> found_;  // equal times keep their order
};

json::value message(const std::error_code& error) { return error ? json::value(error.message()) : json::value(); }

template <class Limiter>
void add_limiters(answer& out, const instances<Limiter>& limiters) {
  for (const auto& [name, limiter] : limiters) {
    if (!out.wants(name)) continue;
    for (const auto& e : limiter->events().recent()) {
      out.add("rateLimiterName", name, event_log::limiter_types[static_cast<std::size_t>(e.type)], e.at);
    }
  }
}

}  // namespace

breaker_log::breaker_log(std::shared_ptr<resilience::circuit_breaker> breaker)
    : breaker_(std::move(breaker)), ring_(std::make_unique<resilience::event_ring<entry>>()) {
  auto& events = breaker_->events();
  auto* const ring = ring_.get();
  heard_.push_back(events.on_call([ring](const resilience::breaker_call& c) {
    constexpr kind kinds[] = {kind::success, kind::error, kind::ignored_error};
    ring->push({.kind = kinds[static_cast<std::size_t>(c.verdict)],
                .took = c.duration,
                .error = c.error,
                .at = std::chrono::steady_clock::now()});
  }));
  heard_.push_back(events.on_not_permitted(
      [ring](const resilience::breaker_not_permitted& e) { ring->push({.kind = kind::not_permitted, .at = e.at}); }));
  heard_.push_back(events.on_transition([ring](const resilience::breaker_transition& e) {
    ring->push({.kind = kind::state_transition, .from = e.from, .to = e.to, .at = e.at});
  }));
  heard_.push_back(
      events.on_reset([ring](const resilience::breaker_reset& e) { ring->push({.kind = kind::reset, .at = e.at}); }));
  heard_.push_back(events.on_failure_rate_exceeded([ring](const resilience::breaker_rate_exceeded& e) {
    ring->push({.kind = kind::failure_rate_exceeded, .at = e.at});
  }));
  heard_.push_back(events.on_slow_call_rate_exceeded([ring](const resilience::breaker_rate_exceeded& e) {
    ring->push({.kind = kind::slow_call_rate_exceeded, .at = e.at});
  }));
}

void event_log::follow(const policies& all) {
  const std::lock_guard lock(mutex_);
  std::erase_if(breakers_, [&](const auto& known) {
    const auto now = all.circuit_breaker.find(known.first);
    return now == all.circuit_breaker.end() || now->second != known.second.breaker();
  });
  for (const auto& [name, breaker] : all.circuit_breaker) breakers_.try_emplace(name, breaker);
}

json::array event_log::circuit_breaker(const query& q) const {
  answer out(q);
  const std::lock_guard lock(mutex_);
  for (const auto& [name, log] : breakers_) {
    if (!out.wants(name)) continue;
    for (const breaker_log::entry& e : log.recent()) {
      json::object* o = out.add("circuitBreakerName", name, breaker_types[static_cast<std::size_t>(e.kind)], e.at);
      if (o == nullptr) continue;
      const bool call = e.kind <= kind::ignored_error;
      (*o)["errorMessage"] = message(e.error);
      (*o)["durationInMs"] =
          call ? json::value(std::chrono::duration_cast<std::chrono::milliseconds>(e.took).count()) : json::value();
      (*o)["stateTransition"] = e.kind == kind::state_transition
                                    ? json::value(resilience::detail::upper(resilience::to_string(e.from)) + "_TO_" +
                                                  resilience::detail::upper(resilience::to_string(e.to)))
                                    : json::value();
    }
  }
  return out.take();
}

json::array event_log::rate_limiter(const policies& all, const query& q) {
  answer out(q);
  add_limiters(out, all.rate_limiter);
  add_limiters(out, all.adaptive_rate_limiter);
  return out.take();
}

json::array event_log::bulkhead(const policies& all, const query& q) {
  answer out(q);
  for (const auto& [name, policy] : all.bulkhead) {
    if (!out.wants(name)) continue;
    for (const auto& e : policy->events().recent()) {
      out.add("bulkheadName", name, bulkhead_types[static_cast<std::size_t>(e.type)], e.at);
    }
  }
  return out.take();
}

json::array event_log::retry(const policies& all, const query& q) {
  answer out(q);
  for (const auto& [name, policy] : all.retry) {
    if (!out.wants(name)) continue;
    for (const auto& e : policy->events().recent()) {
      json::object* o = out.add("retryName", name, retry_types[static_cast<std::size_t>(e.type)], e.at);
      if (o == nullptr) continue;
      (*o)["errorMessage"] = message(e.error);
      (*o)["numberOfAttempts"] = e.attempts;
    }
  }
  return out.take();
}

}  // namespace sidecar
