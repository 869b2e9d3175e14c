#include "sidecar/proxy/runtime.hpp"

#include <arpa/inet.h>
#include <netdb.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

namespace sidecar {
namespace {

std::atomic<std::size_t> next_slot = 0;

std::optional<socket_address> numeric_address(const endpoint& where) {
  socket_address address;
  auto* v4 = reinterpret_cast<sockaddr_in*>(&address.storage);
  if (::inet_pton(AF_INET, where.host.c_str(), &v4->sin_addr) == 1) {
    v4->sin_family = AF_INET;
    v4->sin_port = htons(where.port);
    address.size = sizeof(sockaddr_in);
    return address;
  }
  auto* v6 = reinterpret_cast<sockaddr_in6*>(&address.storage);
  if (::inet_pton(AF_INET6, where.host.c_str(), &v6->sin6_addr) == 1) {
    v6->sin6_family = AF_INET6;
    v6->sin6_port = htons(where.port);
    address.size = sizeof(sockaddr_in6);
    return address;
  }
  return std::nullopt;
}

/// The instances that `wanted` asks for: those that were there, changed where their configuration is another, and new
/// ones.
template <class Policy, class Config>
instances<Policy> carry_over(const instances<Policy>& before, const std::map<std::string, Config>& wanted) {
  instances<Policy> after;
  for (const auto& [name, config] : wanted) {
    if (const auto it = before.find(name); it != before.end()) {
      if (!(it->second->config() == config)) it->second->configure(config);
      after.emplace(name, it->second);
    } else {
      after.emplace(name, std::make_shared<Policy>(name, config));
    }
  }
  return after;
}

template <class Policy>
std::shared_ptr<Policy> named(const instances<Policy>& all, const std::optional<std::string>& name) {
  if (!name) return nullptr;
  const auto it = all.find(*name);
  return it == all.end() ? nullptr : it->second;
}

/// What stands between the quotes of a structured field's string.
std::string quoted(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    if (c >= 0x20 && c < 0x7f) out += c;
  }
  return out;
}

std::string policy_line(std::string_view name, std::int64_t limit, std::int64_t seconds) {
  return "RateLimit-Policy: \"" + quoted(name) + "\";q=" + std::to_string(limit) + ";w=" + std::to_string(seconds) +
         "\r\n";
}

std::string policy_line(const route& r) {
  if (r.rate_limiter) {
    const auto config = r.rate_limiter->config();
    const auto seconds = std::chrono::ceil<std::chrono::seconds>(config.limit.period).count();
    return policy_line(r.rate_limiter->name(), config.limit.calls, seconds);
  }
  if (r.adaptive_rate_limiter) {
    const auto rate = std::max<std::int64_t>(std::llround(r.adaptive_rate_limiter->rate()), 1);
    return policy_line(r.adaptive_rate_limiter->name(), rate, 1);
  }
  return {};
}

}  // namespace

target::target(endpoint at, std::size_t number) : where(std::move(at)), slot(number) { resolve(); }

std::vector<socket_address> target::addresses() const {
  const std::lock_guard lock(mutex_);
  return addresses_;
}

void target::resolve() {
  if (numeric_) return;
  if (const auto address = numeric_address(where)) {
    const std::lock_guard lock(mutex_);
    numeric_ = true;
    addresses_.assign(1, *address);
    return;
  }
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_ADDRCONFIG;
  addrinfo* found = nullptr;
  if (::getaddrinfo(where.host.c_str(), std::to_string(where.port).c_str(), &hints, &found) != 0) return;
  std::vector<socket_address> addresses;
  for (const addrinfo* i = found; i != nullptr; i = i->ai_next) {
    socket_address address;
    std::memcpy(&address.storage, i->ai_addr, i->ai_addrlen);
    address.size = i->ai_addrlen;
    addresses.push_back(address);
  }
  ::freeaddrinfo(found);
  const std::lock_guard lock(mutex_);
  addresses_ = std::move(addresses);
}

bool upstream::up() const noexcept {
  return !settings.health_check || std::ranges::any_of(targets, [](const auto& t) { return t->up.load(); });
}

struct runtime::state {
  std::shared_ptr<const snapshot> current;
  policies live;
  std::map<std::pair<std::string, endpoint>, std::shared_ptr<target>> targets;
  std::map<std::string, std::shared_ptr<resilience::retry_budget>> budgets;
  std::map<std::string, std::shared_ptr<route_counters>> routes;
  std::map<std::string, std::shared_ptr<upstream_counters>> upstreams;
  std::vector<resilience::subscription> watching;
  std::uint64_t generation = 0;
};

runtime::runtime(std::size_t workers)
    : workers_(workers),
      no_route_(std::make_shared<route_counters>("", workers)),
      connections_(workers),
      state_(std::make_unique<state>()) {}

runtime::~runtime() { state_->watching.clear(); }

std::shared_ptr<const snapshot> runtime::current() const {
  const std::lock_guard lock(mutex_);
  return state_->current;
}

policies runtime::all_policies() const {
  const std::lock_guard lock(mutex_);
  return state_->live;
}

std::vector<std::shared_ptr<const route_counters>> runtime::routes() const {
  const std::lock_guard lock(mutex_);
  std::vector<std::shared_ptr<const route_counters>> all{no_route_};
  for (const auto& [name, counters] : state_->routes) all.push_back(counters);
  return all;
}

std::vector<std::shared_ptr<const upstream_counters>> runtime::upstreams() const {
  const std::lock_guard lock(mutex_);
  std::vector<std::shared_ptr<const upstream_counters>> all;
  for (const auto& [name, counters] : state_->upstreams) all.push_back(counters);
  return all;
}

std::shared_ptr<const snapshot> runtime::refresh() {
  const std::lock_guard one_at_a_time(applying_);
  auto next = std::make_shared<snapshot>(*current());
  for (route& r : next->routes) r.rate_limit_policy = policy_line(r);
  const std::lock_guard lock(mutex_);
  return state_->current = next;
}

std::shared_ptr<const snapshot> runtime::apply(settings config) {
  const std::lock_guard one_at_a_time(applying_);
  auto next = std::make_shared<snapshot>();
  next->config = std::move(config);
  const settings& wanted = next->config;
  state& s = *state_;

  // Only `apply` changes these, so they may be read without the lock; names are looked up here.
  std::map<std::pair<std::string, endpoint>, std::shared_ptr<target>> targets;
  std::map<std::string, std::shared_ptr<resilience::retry_budget>> budgets;
  auto upstream_counts = s.upstreams;
  for (const auto& [name, settings] : wanted.upstreams) {
    auto up = std::make_shared<upstream>();
    up->name = name;
    up->settings = settings;
    for (const endpoint& where : settings.targets) {
      const std::pair key(name, where);
      auto& entry = targets[key];
      if (!entry) {
        const auto it = s.targets.find(key);
        entry = it != s.targets.end() ? it->second : std::make_shared<target>(where, next_slot++);
        if (!settings.health_check) entry->up = true;
      }
      up->targets.push_back(entry);
    }
    auto& budget = budgets[name];
    if (const auto it = s.budgets.find(name); it != s.budgets.end()) {
      budget = it->second;
      if (!(budget->config() == settings.retry_budget)) budget->configure(settings.retry_budget);
    } else {
      budget = std::make_shared<resilience::retry_budget>(name, settings.retry_budget);
    }
    up->budget = budget;
    auto& counts = upstream_counts[name];
    if (!counts) counts = std::make_shared<upstream_counters>(name, workers_);
    up->counters = counts;
    next->upstreams.emplace(name, std::move(up));
  }

  const policy_settings& kinds = wanted.policies;
  policies live;
  live.circuit_breaker = carry_over(s.live.circuit_breaker, kinds.circuit_breaker);
  live.rate_limiter = carry_over(s.live.rate_limiter, kinds.rate_limiter);
  live.adaptive_rate_limiter = carry_over(s.live.adaptive_rate_limiter, kinds.adaptive_rate_limiter);
  live.bulkhead = carry_over(s.live.bulkhead, kinds.bulkhead);
  live.retry = carry_over(s.live.retry, kinds.retry);

  std::vector<resilience::subscription> watching;
  auto route_counts = s.routes;
  for (const route_settings& settings : wanted.routes) {
    route& r = next->routes.emplace_back();
    r.settings = settings;
    r.upstream = next->upstreams.at(settings.upstream);
    r.circuit_breaker = named(live.circuit_breaker, settings.circuit_breaker);
    r.rate_limiter = named(live.rate_limiter, settings.rate_limiter);
    r.adaptive_rate_limiter = named(live.adaptive_rate_limiter, settings.adaptive_rate_limiter);
    r.bulkhead = named(live.bulkhead, settings.bulkhead);
    r.retry = named(live.retry, settings.retry);
    if (settings.retry) {
      if (const auto it = kinds.retry_rules_of.find(*settings.retry); it != kinds.retry_rules_of.end()) {
        r.retrying = it->second;
      }
    }
    if (settings.fallback) {
      if (const auto* to = std::get_if<fallback_settings::alternate>(&settings.fallback->action)) {
        r.alternate = next->upstreams.at(to->upstream);
      }
    }
    auto& counts = route_counts[settings.name];
    if (!counts) counts = std::make_shared<route_counters>(settings.name, workers_);
    r.counters = counts;
    r.rate_limit_policy = policy_line(r);
    if (r.circuit_breaker && r.adaptive_rate_limiter) {
      // What the limiter learnt says nothing while its breaker keeps calls away.
      watching.push_back(r.circuit_breaker->events().on_transition(
          [weak = std::weak_ptr(r.adaptive_rate_limiter)](const resilience::breaker_transition& t) {
            const auto limiter = weak.lock();
            if (!limiter) return;
            if (t.to == resilience::breaker_state::open) limiter->breaker_opened();
            if (t.to == resilience::breaker_state::closed) limiter->breaker_closed();
          }));
    }
  }
  next->router = std::make_shared<router>(wanted.routes);
  next->trusted = std::make_shared<trusted_networks>(wanted.trusted_proxies);

  {
    const std::lock_guard lock(mutex_);
    next->generation = ++s.generation;
    s.live = std::move(live);
    s.targets = std::move(targets);
    s.budgets = std::move(budgets);
    s.upstreams = std::move(upstream_counts);
    s.routes = std::move(route_counts);
    s.current = next;
    s.watching.swap(watching);
  }
  return next;  // the old subscriptions end here, with no lock held
}

}  // namespace sidecar
