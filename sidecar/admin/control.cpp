#include "sidecar/admin/control.hpp"

#include <boost/json.hpp>

#include "common/log.hpp"

namespace sidecar {
namespace {

/// Takes back what was changed by hand.
template <class Policy, class Config>
void restore(const instances<Policy>& living, const std::map<std::string, Config>& written) {
  for (const auto& [name, policy] : living) {
    const auto wanted = written.find(name);
    if (wanted != written.end() && policy->config() != wanted->second) policy->configure(wanted->second);
  }
}

void restore(const policies& living, const policy_settings& written) {
  restore(living.circuit_breaker, written.circuit_breaker);
  restore(living.rate_limiter, written.rate_limiter);
  restore(living.adaptive_rate_limiter, written.adaptive_rate_limiter);
  restore(living.bulkhead, written.bulkhead);
  restore(living.retry, written.retry);
}

}  // namespace

control::control(settings_source source, configuration loaded, runtime& target)
    : source_(std::move(source)), target_(target) {
  adopt(std::move(loaded));
}

control::status control::now() const {
  const std::lock_guard lock(mutex_);
  return status_;
}

control::outcome control::reload() {
  const std::lock_guard lock(reloading_);
  if (draining) return {reload_result::ignored, now().generation, {}};
  outcome o = attempt();
  reloaded(o);
  return o;
}

control::outcome control::attempt() {
  auto loaded = load(source_.file, source_.options);
  if (!loaded) return refused(std::move(loaded).error());

  const std::shared_ptr<const configuration> before = now().current;
  const bool same = loaded->hash == before->hash;
  if (!same) adopt(std::move(*loaded));
  restore(target_.all_policies(), target_.current()->config.policies);
  outcome o{.result = same ? reload_result::unchanged : reload_result::applied, .generation = 0, .errors = {}};
  {
    const std::lock_guard lock(mutex_);
    status_.last_error.reset();
    ++(same ? status_.unchanged : status_.applied);
    o.generation = status_.generation;
  }
  published();
  log_reload(o, *before);
  return o;
}

control::outcome control::refused(problem_list problems) {
  std::erase_if(problems, [](const auto& p) { return p.warning; });
  outcome o{.result = reload_result::rejected, .generation = 0, .errors = std::move(problems)};
  {
    const std::lock_guard lock(mutex_);
    status_.last_error = refusal{clock::now(), o.errors};
    ++status_.rejected;
    o.generation = status_.generation;
  }
  boost::json::array errors;
  for (const auto& p : o.errors) {
    errors.push_back({{"file", p.file}, {"line", p.line}, {"column", p.column}, {"message", p.message}});
  }
  common::log::error("reload", {{"result", to_string(o.result)},
                                {"generation", o.generation},
                                {"file", source_.file},
                                {"errors", std::move(errors)}});
  return o;
}

void control::adopt(configuration loaded) {
  settings values = loaded.values;
  source_.override(values);
  const std::shared_ptr<const snapshot> made = target_.apply(std::move(values));
  const std::lock_guard lock(mutex_);
  status_.current = std::make_shared<const configuration>(std::move(loaded));
  status_.generation = made->generation;
  status_.loaded_at = clock::now();
}

void control::log_reload(const outcome& o, const configuration& before) const {
  const status s = now();
  boost::json::array changes;
  for (const changed_setting& c : diff(before, *s.current)) {
    changes.push_back({{"path", c.path}, {"before", c.before}, {"after", c.after}});
  }
  common::log::info("reload", {{"result", to_string(o.result)},
                               {"generation", o.generation},
                               {"hash", s.current->hash},
                               {"file", source_.file},
                               {"changes", std::move(changes)}});
}

}  // namespace sidecar
