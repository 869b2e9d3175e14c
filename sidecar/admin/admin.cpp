#include "sidecar/admin/admin.hpp"

#include <openssl/evp.h>
#include <openssl/sha.h>
#include <prometheus/text_serializer.h>

#include <algorithm>
#include <boost/asio.hpp>
#include <boost/json.hpp>
#include <resilience/detail/json.hpp>
#include <resilience/detail/yaml/value.hpp>
#include <resilience/health.hpp>
#include <resilience/prometheus.hpp>

#include "common/http/problem.hpp"
#include "common/http/server.hpp"
#include "common/log.hpp"
#include "common/text.hpp"
#include "sidecar/admin/event_log.hpp"
#include "sidecar/admin/feed.hpp"
#include "sidecar/admin/origin.hpp"
#include "sidecar/admin/overrides.hpp"
#include "sidecar/admin/page.hpp"
#include "sidecar/metrics/exposition.hpp"

namespace sidecar {
namespace {

namespace asio = boost::asio;
namespace http = common::http;
namespace json = boost::json;
using namespace std::chrono_literals;
using http::request;
using http::response;

response answer(const json::value& body, int status = 200) { return http::json(json::serialize(body), status); }

json::array errors_json(const problem_list& problems) {
  json::array all;
  for (const auto& p : problems) {
    if (p.warning) continue;
    all.push_back({{"line", p.line}, {"column", p.column}, {"message", p.message}});
  }
  return all;
}

response refused(const problem_list& problems) {
  return answer({{"valid", false}, {"errors", errors_json(problems)}}, 422);
}

/// What a content security policy calls the text between two tags of the page.
std::string hash_of(std::string_view open, std::string_view close) {
  const std::size_t from = page_html.find(open) + open.size();
  const std::string_view text = page_html.substr(from, page_html.find(close, from) - from);
  unsigned char digest[SHA256_DIGEST_LENGTH];
  SHA256(reinterpret_cast<const unsigned char*>(text.data()), text.size(), digest);
  unsigned char encoded[4 * ((SHA256_DIGEST_LENGTH + 2) / 3) + 1];
  const int size = EVP_EncodeBlock(encoded, digest, sizeof digest);
  return "'sha256-" + std::string(reinterpret_cast<const char*>(encoded), static_cast<std::size_t>(size)) + "'";
}

response page() {
  static const std::string policy = "default-src 'none'; connect-src 'self'; script-src " +
                                    hash_of("<script>", "</script>") + "; style-src " + hash_of("<style>", "</style>") +
                                    "; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
  return {.status = 200,
          .body = std::string(page_html),
          .content_type = "text/html; charset=utf-8",
          .fields = {{"Content-Security-Policy", policy},
                     {"X-Content-Type-Options", "nosniff"},
                     {"Referrer-Policy", "no-referrer"},
                     {"Cache-Control", "no-cache"}}};
}

/// A member of the object in `body`; nothing where it is missing, and null where it isn't a string.
std::optional<std::string_view> text_member(const json::object& body, std::string_view name) {
  const json::value* v = body.if_contains(name);
  if (v == nullptr || !v->is_string()) return std::nullopt;
  return std::string_view(v->get_string());
}

template <class Map>
json::array names_of(const Map& all) {
  json::array names;
  for (const auto& [name, policy] : all) names.emplace_back(name);
  return names;
}

/// How often the data path itself answered on a route, by reason.
using reason_totals = std::array<std::uint64_t, reason_count>;
reason_totals totals_of(const route_counters& r) {
  reason_totals all{};
  for (std::size_t i = 0; i < reason_count; ++i) {
    all[i] = r.sum([&](const route_shard& s) { return s.local[i].read(); });
  }
  return all;
}

endpoint admin_address(const control& of) { return of.target().current()->config.admin; }

http::server_settings server_settings(const endpoint& at) {
  return {
      .address = at.host == "localhost" ? "127.0.0.1" : at.host, .port = at.port, .workers = 4, .max_connections = 256};
}

}  // namespace

struct admin::state {
  explicit state(control& of)
      : control_(of), address_(admin_address(of)), server_(server_settings(address_)), overrides_(server_.executor()) {
    feed_.run_on(server_.executor());
    follow();
    add_routes();
    control_.reloaded = [this](const control::outcome& o) {
      follow();
      const json::value told{{"result", to_string(o.result)}, {"generation", o.generation}};
      feed_.publish("reload", json::serialize(told));
    };
  }
  ~state() {
    server_.stop();
    control_.reloaded = [](const control::outcome&) {};
    transitions_.clear();  // waits for those who are telling one: they use the server's event loop
  }

  // ---- what there is to see

  /// Hears the instances that a reload brought.
  void follow() {
    const policies all = instances_of();
    events_.follow(all);
    const std::lock_guard lock(mutex_);
    std::erase_if(transitions_, [&](const auto& heard) {
      const auto now = all.circuit_breaker.find(heard.first);
      return now == all.circuit_breaker.end() || now->second != heard.second.breaker;
    });
    for (const auto& [name, breaker] : all.circuit_breaker) {
      if (transitions_.contains(name)) continue;
      auto told = breaker->events().on_transition([this](const resilience::breaker_transition& t) {
        const json::value event{{"kind", "circuit_breaker"},
                                {"name", t.policy},
                                {"from", resilience::to_string(t.from)},
                                {"to", resilience::to_string(t.to)}};
        feed_.publish("transition", json::serialize(event));
      });
      transitions_.emplace(name, heard{breaker, std::move(told)});
    }
    const auto export_each = [&](const auto& kind) {
      for (const auto& [name, policy] : kind) exporter_.add(policy);
    };
    export_each(all.circuit_breaker);
    export_each(all.rate_limiter);
    export_each(all.adaptive_rate_limiter);
    export_each(all.bulkhead);
    export_each(all.retry);
  }

  [[nodiscard]] policies instances_of() const { return control_.target().all_policies(); }

  [[nodiscard]] std::string health() const {
    resilience::health_report report;
    for (const std::string_view c : {"circuitBreakers", "rateLimiters", "bulkheads", "threadPools", "upstreams"}) {
      report.add(c);
    }
    const policies all = instances_of();
    for (const auto& [name, p] : all.circuit_breaker) report.add(*p);
    for (const auto& [name, p] : all.rate_limiter) report.add(*p);
    for (const auto& [name, p] : all.adaptive_rate_limiter) report.add(*p);
    for (const auto& [name, p] : all.bulkhead) report.add(*p);
    for (const auto& [name, u] : control_.target().current()->upstreams) {
      json::object targets;
      for (const auto& t : u->targets) {
        const bool v6 = t->where.host.contains(':');
        const std::string host = v6 ? '[' + t->where.host + ']' : t->where.host;
        const bool up = !u->settings.health_check || t->up;
        targets[host + ':' + std::to_string(t->where.port)] = up ? "UP" : "DOWN";
      }
      const json::value details{{"targets", targets}, {"healthCheck", u->settings.health_check.has_value()}};
      report.add("upstreams", name, {u->up() ? "UP" : "DOWN", json::serialize(details)});
    }
    return report.json();
  }

  [[nodiscard]] std::string metrics() const {
    std::vector<prometheus::MetricFamily> families = exporter_.Collect();
    resilience::metric_page own;
    write_metrics(own, control_.target());
    const control::status s = control_.now();
    own.gauge("sidecar_config_generation", "How often the configuration has changed", static_cast<double>(s.generation),
              {});
    own.gauge("sidecar_config_last_reload_successful", "Whether the last reload was good", s.last_error ? 0 : 1, {});
    const auto reloads = [&](reload_result result, std::uint64_t n) {
      own.counter("sidecar_config_reloads_total", "Reloads, by result", static_cast<double>(n),
                  {{"result", to_string(result)}});
    };
    reloads(reload_result::applied, s.applied);
    reloads(reload_result::unchanged, s.unchanged);
    reloads(reload_result::rejected, s.rejected);
    for (auto& family : own.take()) {
      families.push_back(std::move(family));
    }
    return prometheus::TextSerializer().Serialize(families);
  }

  [[nodiscard]] json::object config_status() const {
    const control::status s = control_.now();
    json::object status{{"generation", s.generation},
                        {"hash", s.current->hash},
                        {"file", s.current->file},
                        {"loaded_at", common::rfc3339(s.loaded_at)},
                        {"last_error", nullptr}};
    if (s.last_error) {
      json::array errors;
      for (const auto& p : s.last_error->errors) {
        errors.push_back({{"file", p.file}, {"line", p.line}, {"column", p.column}, {"message", p.message}});
      }
      status["last_error"] = {{"time", common::rfc3339(s.last_error->time)}, {"errors", std::move(errors)}};
    }
    return status;
  }

  // ---- what can be changed

  response override_breaker(const request& r) {
    const std::string_view name = r.parameter("name");
    const policies all = instances_of();
    const auto found = all.circuit_breaker.find(std::string(name));
    if (found == all.circuit_breaker.end()) return unknown(r, "circuit breaker", name);

    boost::system::error_code bad;
    const json::value body = json::parse(r.body, bad);
    if (bad || !body.is_object()) return http::problem(r, 400, "The body must be a JSON object");
    for (const auto& member : body.get_object()) {
      if (member.key() != "updateState" && member.key() != "ttl") {
        return http::problem(r, 400, "The body has the unknown member " + std::string(member.key()));
      }
    }
    const auto word = text_member(body.get_object(), "updateState");
    const auto state = word ? override_of(*word) : std::nullopt;
    if (!state) return http::problem(r, 400, "updateState must be CLOSE, FORCE_OPEN, DISABLE or METRICS_ONLY");
    std::optional<std::chrono::nanoseconds> ttl;
    if (body.get_object().contains("ttl")) {
      const auto text = text_member(body.get_object(), "ttl");
      const auto parsed = resilience::detail::yaml::codec<std::chrono::nanoseconds>::parse(text.value_or(""));
      if (!text || !parsed || parsed->count() <= 0) {
        return http::problem(r, 400, "ttl must be a duration of more than 0 such as 30s or 10m");
      }
      ttl = *parsed;
    }
    overrides_.set(found->second, *state, ttl, who(r));
    return answer({{"circuitBreakerName", name},
                   {"currentState", resilience::detail::upper(resilience::to_string(found->second->state()))},
                   {"message", std::string(name) + " state has been changed successfully"}});
  }

  response patch(const request& r) {
    const std::string_view kind = r.parameter("kind");
    const policies all = instances_of();
    if (kind == "circuit_breaker") return patch(r, kind, all.circuit_breaker);
    if (kind == "rate_limiter") return patch(r, kind, all.rate_limiter);
    if (kind == "adaptive_rate_limiter") return patch(r, kind, all.adaptive_rate_limiter);
    if (kind == "bulkhead") return patch(r, kind, all.bulkhead);
    if (kind == "retry") return patch(r, kind, all.retry);
    return http::problem(r, 404, "There is no kind of policy " + std::string(kind));
  }

  template <class Policy>
  response patch(const request& r, std::string_view kind, const instances<Policy>& all) {
    const std::string_view name = r.parameter("name");
    const auto found = all.find(std::string(name));
    if (found == all.end()) return unknown(r, kind, name);
    Policy& policy = *found->second;
    const auto changed = patched(policy.config(), r.body);
    if (!changed) {
      std::string why;
      for (const auto& p : changed.error()) {
        if (!p.warning) why += (why.empty() ? "" : "; ") + p.message;
      }
      return http::problem(r, 400, why);
    }
    const std::string before = settings_json(policy.config());
    policy.configure(*changed);
    const std::string after = settings_json(policy.config());
    common::log::info("audit policy changed", {{"kind", kind},
                                               {"name", name},
                                               {"before", json::parse(before)},
                                               {"after", json::parse(after)},
                                               {"by", who(r)}});
    return http::json(after);
  }

  response validate(const request& r) const {
    load_options options = control_.source().options;
    options.policies_alone = true;
    const auto checked = load_text(r.body, control_.source().file, options);
    if (!checked) return refused(checked.error());
    json::array warnings;
    for (const auto& p : checked->warnings) {
      warnings.push_back({{"line", p.line}, {"column", p.column}, {"message", p.message}});
    }
    return answer({{"valid", true}, {"warnings", std::move(warnings)}});
  }

  response reload(const request& r) {
    common::log::info("audit reload", {{"by", who(r)}});
    const control::outcome o = control_.reload();
    if (o.result == reload_result::rejected) return refused(o.errors);
    if (o.result == reload_result::ignored) return http::problem(r, 503, "Shutting down");
    return answer(
        {{"result", to_string(o.result)}, {"generation", o.generation}, {"hash", control_.now().current->hash}});
  }

  static response unknown(const request& r, std::string_view kind, std::string_view name) {
    return http::problem(r, 404, "There is no " + std::string(kind) + " " + std::string(name));
  }
  /// As far as HTTP tells.
  static std::string who(const request& r) { return std::string(r.field("User-Agent").value_or("unknown")); }

  // ---- routes

  void add_routes() {
    http::router& routes = server_.routes();
    const auto show = [&](std::string path, auto make, std::string type = "application/json") {
      routes.add("GET", std::move(path), [make](const request& r) -> response { return make(r); }).produces =
          std::move(type);
    };
    const auto write = [&](std::string method, std::string path, auto make) {
      auto& route = routes.add(std::move(method), std::move(path), [this, make](const request& r) -> response {
        if (!may_write(r, address_.host)) return http::problem(r, 403, "Writes may not come from other origins");
        return make(r);
      });
      route.takes_json = false;  // YAML is taken too, and nobody's form can pass may_write
    };

    show("/", [](const request&) { return page(); }, "text/html");
    show("/health", [this](const request&) { return http::json(health()); });
    show("/health/live", [](const request&) { return answer({{"status", "UP"}}); });
    show("/health/ready", [this](const request&) {
      if (control_.draining) return answer({{"status", "OUT_OF_SERVICE"}}, 503);
      return answer({{"status", "UP"}});
    });
    show(
        "/metrics",
        [this](const request&) {
          return response{.body = metrics(), .content_type = "text/plain; version=0.0.4; charset=utf-8"};
        },
        "text/plain");
    show("/config", [this](const request&) { return http::json(to_json(*control_.now().current)); });
    show("/config/status", [this](const request&) { return answer(config_status()); });
    write("POST", "/config/validate", [this](const request& r) { return validate(r); });
    write("POST", "/config/reload", [this](const request& r) { return reload(r); });
    write("PATCH", "/policies/{kind}/{name}", [this](const request& r) { return patch(r); });
    routes
        .add("GET", "/events",
             [this](const request&, http::event_stream& out) -> asio::awaitable<void> { return feed_.serve(out); })
        .produces = "text/event-stream";
    add_actuator(show, write);
  }

  template <class Show, class Write>
  void add_actuator(const Show& show, const Write& write) {
    show("/actuator/circuitbreakers", [this](const request&) {
      json::object all;
      for (const auto& [name, b] : instances_of().circuit_breaker) {
        all[name] = json::parse(resilience::health_of(*b).details);
      }
      return answer({{"circuitBreakers", std::move(all)}});
    });
    write("POST", "/actuator/circuitbreakers/{name}", [this](const request& r) { return override_breaker(r); });

    show("/actuator/ratelimiters",
         [this](const request&) { return answer({{"rateLimiters", json::value_from(limiter_names())}}); });
    show("/actuator/bulkheads",
         [this](const request&) { return answer({{"bulkheads", names_of(instances_of().bulkhead)}}); });
    show("/actuator/retries", [this](const request&) { return answer({{"retries", names_of(instances_of().retry)}}); });
    show("/actuator/timelimiters",
         [this](const request&) { return answer({{"timeLimiters", json::value_from(route_names())}}); });

    using query = event_log::query;
    add_events(
        show, "circuitbreaker", "circuitBreakerEvents", event_log::breaker_types,
        [this](std::string_view name) { return instances_of().circuit_breaker.contains(std::string(name)); },
        [this](const query& q) { return events_.circuit_breaker(q); });
    add_events(
        show, "ratelimiter", "rateLimiterEvents", event_log::limiter_types,
        [this](std::string_view name) { return limiter_names().contains(std::string(name)); },
        [this](const query& q) { return event_log::rate_limiter(instances_of(), q); });
    add_events(
        show, "bulkhead", "bulkheadEvents", event_log::bulkhead_types,
        [this](std::string_view name) { return instances_of().bulkhead.contains(std::string(name)); },
        [this](const query& q) { return event_log::bulkhead(instances_of(), q); });
    add_events(
        show, "retry", "retryEvents", event_log::retry_types,
        [this](std::string_view name) { return instances_of().retry.contains(std::string(name)); },
        [this](const query& q) { return event_log::retry(instances_of(), q); });
    // The data path cuts requests by its timer wheel, without an event for each.
    add_events(
        show, "timelimiter", "timeLimiterEvents", event_log::time_limiter_types,
        [this](std::string_view name) { return route_names().contains(std::string(name)); },
        [](const query&) { return json::array(); });
  }

  /// `/actuator/KINDevents`, `/{name}` and `/{name}/{type}`.
  template <class Show, class Known, class Find>
  void add_events(const Show& show, const std::string& kind, std::string member,
                  std::span<const std::string_view> types, Known known, Find find) {
    const auto serve = [=](const request& r) {
      event_log::query q;
      const std::string_view name = r.parameter("name"), asked = r.parameter("type");
      if (!name.empty()) q.name = name;
      if (q.name && !known(name)) return unknown(r, kind, name);
      if (!asked.empty()) {
        const auto type = std::ranges::find(types, resilience::detail::upper(asked));
        if (type == types.end()) return http::problem(r, 404, "There is no event type " + std::string(asked));
        q.type = *type;
      }
      return answer(json::object{{member, find(q)}});
    };
    const std::string path = "/actuator/" + kind + "events";
    show(path, serve);
    show(path + "/{name}", serve);
    show(path + "/{name}/{type}", serve);
  }

  [[nodiscard]] std::set<std::string> limiter_names() const {
    const policies all = instances_of();
    std::set<std::string> names;
    for (const auto& [name, p] : all.rate_limiter) names.insert(name);
    for (const auto& [name, p] : all.adaptive_rate_limiter) names.insert(name);
    return names;
  }
  [[nodiscard]] std::set<std::string> route_names() const {
    const auto current = control_.target().current();
    std::set<std::string> names;
    for (const route& r : current->routes) names.insert(r.settings.name);
    return names;
  }

  // ---- once a second, on the server's I/O thread

  void tick() {
    ticker_->expires_after(1s);
    ticker_->async_wait([this](const boost::system::error_code& ended) {
      if (ended) return;
      tell_rejections();
      tick();
    });
  }

  void tell_rejections() {
    for (const auto& r : control_.target().routes()) {
      const reason_totals now = totals_of(*r);
      const auto known = rejections_.find(r->name);
      const reason_totals before = known == rejections_.end() ? reason_totals{} : known->second;
      rejections_[r->name] = now;
      if (now == before || feed_.listeners() == 0) continue;
      json::object event{{"route", r->name}};
      for (std::size_t i = 0; i < reason_count; ++i) {
        if (now[i] != before[i]) event[reason_texts[i].token] = now[i] - before[i];
      }
      feed_.publish("rejections", json::serialize(event));
    }
  }

  struct heard {
    std::shared_ptr<resilience::circuit_breaker> breaker;
    resilience::subscription told;
  };

  control& control_;
  const endpoint address_;
  feed feed_;
  event_log events_;
  resilience::prometheus_exporter exporter_;
  std::mutex mutex_;
  std::map<std::string, heard> transitions_;
  std::map<std::string, reason_totals> rejections_;
  http::server server_;
  // After the server, so that their timers go before its event loop.
  overrides overrides_;
  std::optional<asio::steady_timer> ticker_;
};

admin::admin(control& of) : state_(std::make_unique<state>(of)) {}
admin::~admin() = default;

std::expected<std::uint16_t, std::string> admin::start() {
  auto bound = state_->server_.start();
  if (!bound) return bound;
  state_->ticker_.emplace(state_->server_.executor());
  state_->tick();
  return bound;
}

}  // namespace sidecar
