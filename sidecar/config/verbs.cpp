#include "sidecar/config/verbs.hpp"

#include <algorithm>
#include <optional>
#include <ostream>
#include <string_view>
#include <vector>

#include "sidecar/config/load.hpp"
#include "sidecar/config/sections.hpp"

namespace sidecar {

namespace yaml = resilience::detail::yaml;

namespace {

struct arguments {
  std::string file, route;
  load_options options{.enable_chaos = false, .policies_alone = true};
};

/// What stands after a verb that takes a file; or the exit code when there is nothing to do.
std::expected<arguments, int> parse(std::span<const std::string> args, std::string_view usage, bool takes_route,
                                    std::ostream& out, std::ostream& err) {
  const auto wrong = [&](const std::string& what) {
    err << what << '\n' << usage;
    return std::unexpected(2);
  };
  arguments a;
  for (std::size_t i = 0; i < args.size(); ++i) {
    const std::string& arg = args[i];
    if (arg == "--help" || arg == "-h") {
      out << usage;
      return std::unexpected(0);
    }
    if (arg == "--enable-chaos") {
      a.options.enable_chaos = true;
    } else if (takes_route && arg == "--route") {
      if (++i == args.size()) return wrong("--route needs the name of a route");
      a.route = args[i];
    } else if (takes_route && arg.starts_with("--route=")) {
      a.route = arg.substr(8);
    } else if (arg.starts_with("-") && arg != "-") {
      return wrong("unknown option " + arg);
    } else if (!a.file.empty()) {
      return wrong("one file at a time");
    } else {
      a.file = arg;
    }
  }
  if (a.file.empty()) return wrong("a file is needed");
  return a;
}

/// Calls `f` with each policy kind's type.
template <class F>
void each_kind(F f) {
  f(resilience::circuit_breaker_config{});
  f(resilience::rate_limiter_config{});
  f(resilience::adaptive_rate_limiter_config{});
  f(resilience::bulkhead_config{});
  f(retry_section{});
  f(resilience::time_limiter_config{});
  f(resilience::retry_budget_config{});
}
template <class Config>
constexpr bool usable_in_route = !std::is_same_v<Config, resilience::time_limiter_config> &&
                                 !std::is_same_v<Config, resilience::retry_budget_config>;

std::string schema_text() {
  std::string kinds, definitions, in_route;
  each_kind([&]<class Config>(const Config&) {
    const std::string kind = yaml::json_string(yaml::table<Config>::kind);
    kinds += (kinds.empty() ? "" : ",") + kind + ":" + yaml::kind_schema<Config>();
    definitions += "," + kind + ":" + yaml::instance_schema<Config>();
    if constexpr (usable_in_route<Config>) {
      in_route += R"(,)" + kind + R"(:{"$ref":"#/$defs/)" + std::string(yaml::table<Config>::kind) + R"("})";
    }
  });
  const std::string route =
      yaml::object_schema<route_section>(R"("use":)" + yaml::object_schema<use_section>() + in_route);
  const auto property = [](std::string_view key, const std::string& schema) {
    return "," + yaml::json_string(key) + ":" + schema;
  };
  return R"({"$schema":"https://json-schema.org/draft/2020-12/schema","title":"resilience-sidecar","type":"object",)"
         R"("additionalProperties":false,)"
         R"("anyOf":[{"required":["version","listen","upstreams","routes"]},)"
         R"({"required":["policies"],"not":{"anyOf":[{"required":["listen"]},{"required":["admin"]},)"
         R"({"required":["upstreams"]},{"required":["routes"]}]}}],"properties":{"version":{"const":1})" +
         property("listen", yaml::object_schema<listen_settings>()) +
         property("admin", yaml::object_schema<admin_section>()) +
         property("upstreams",
                  R"({"type":"object","additionalProperties":)" + yaml::object_schema<upstream_settings>() + "}") +
         property("policies", R"({"type":"object","additionalProperties":false,"properties":{)" + kinds + "}}") +
         property("routes", R"({"type":"array","minItems":1,"items":)" + route + "}") +
         property("drain", yaml::object_schema<drain_settings>()) +
         property("trusted_proxies", yaml::codec<std::vector<address_block>>::schema()) +
         property("access_log", yaml::object_schema<access_log_settings>()) +
         property("tracing", yaml::object_schema<tracing_section>()) +
         R"(},"$defs":{"variable":{"type":"string","pattern":"[$][{]"})" + definitions + "}}";
}

constexpr std::string_view validate_usage =
    "usage: resilience-sidecar validate FILE [--enable-chaos]\n"
    "Checks a configuration. Exit code 0, or 2 with every error at once.\n";
constexpr std::string_view explain_usage =
    "usage: resilience-sidecar explain FILE [--route NAME] [--enable-chaos]\n"
    "Shows the effective value of every setting, the line it comes from, and the order of the policies.\n";
constexpr std::string_view schema_usage =
    "usage: resilience-sidecar schema\n"
    "Writes the JSON Schema (2020-12) of a configuration.\n";

}  // namespace

int validate(std::span<const std::string> args, std::ostream& out, std::ostream& err) {
  const auto a = parse(args, validate_usage, false, out, err);
  if (!a) return a.error();
  const auto c = load(a->file, a->options);
  err << resilience::to_string(c ? c->warnings : c.error());
  if (!c) return 2;
  out << a->file << " is good\n";
  return 0;
}

int explain(std::span<const std::string> args, std::ostream& out, std::ostream& err) {
  const auto a = parse(args, explain_usage, true, out, err);
  if (!a) return a.error();
  const auto c = load(a->file, a->options);
  if (!c) {
    err << resilience::to_string(c.error());
    return 2;
  }
  if (!a->route.empty()) {
    std::vector<std::string_view> known;
    for (const route_settings& r : c->values.routes) known.push_back(r.name);
    if (std::ranges::find(known, a->route) == known.end()) {
      err << a->file << ": there is no route " << yaml::ticked(a->route) << yaml::did_you_mean(a->route, known) << '\n';
      return 2;
    }
  }
  for (const effective_setting& s : c->effective) {
    if (!a->route.empty() && !(s.path.size() > 2 && s.path[0] == "routes" && s.path[1] == a->route)) continue;
    out << s.dotted_path() << " = " << s.value << "  # ";
    if (s.line > 0) {
      out << a->file << ':' << s.line << '\n';
    } else {
      out << "default\n";
    }
  }
  return 0;
}

int schema(std::span<const std::string> args, std::ostream& out, std::ostream& err) {
  if (!args.empty()) {
    const bool help = args[0] == "--help" || args[0] == "-h";
    (help ? out : err) << schema_usage;
    return help ? 0 : 2;
  }
  out << schema_text() << '\n';
  return 0;
}

std::string reference() {
  std::string text;
  const auto part = [&](std::string_view title, const std::string& rows) {
    text += "### " + std::string(title) + "\n\n| key | unit | bounds | default | meaning |\n|---|---|---|---|---|\n" +
            rows + "\n";
  };
  part("At the top, besides the sections below",
       "| `version` | whole number | 1 | required | Of this format; a file with `policies` alone may leave it out. |\n"
       "| `trusted_proxies` | list of addresses and blocks: `10.0.0.0/8` |  | `[]` | Whose `X-Forwarded-*` is "
       "believed. |\n");
  part("`listen`", yaml::reference_rows<listen_settings>());
  part("`admin`", yaml::reference_rows<admin_section>());
  part("`upstreams.NAME`", yaml::reference_rows<upstream_settings>());
  part("`upstreams.NAME.health_check`", yaml::reference_rows<health_check_settings>());
  part("`upstreams.NAME.retry_budget`, `policies.retry_budget`",
       yaml::reference_rows<resilience::retry_budget_config>());
  part("`policies.circuit_breaker`", yaml::reference_rows<resilience::circuit_breaker_config>());
  part("`policies.rate_limiter`", yaml::reference_rows<resilience::rate_limiter_config>());
  part("`policies.adaptive_rate_limiter`", yaml::reference_rows<resilience::adaptive_rate_limiter_config>());
  part("`policies.bulkhead`", yaml::reference_rows<resilience::bulkhead_config>());
  part("`policies.retry`", yaml::reference_rows<retry_section>());
  part("`policies.time_limiter`", yaml::reference_rows<resilience::time_limiter_config>());
  part("`interval: { kind: exponential }`, `open_for: { kind: exponential }`",
       yaml::reference_rows<resilience::exponential>());
  part("`interval: { kind: randomized }`", yaml::reference_rows<resilience::randomized>());
  part("`routes`", yaml::reference_rows<route_section>());
  part("`routes.match`", yaml::reference_rows<match_section>());
  part("`routes.use`", yaml::reference_rows<use_section>());
  part("`routes.fallback`", yaml::reference_rows<fallback_section>());
  part("`routes.fallback.respond`", yaml::reference_rows<fallback_settings::respond>());
  part("`routes.chaos`", yaml::reference_rows<chaos_settings>());
  part("`drain`", yaml::reference_rows<drain_settings>());
  part("`access_log`", yaml::reference_rows<access_log_settings>());
  part("`tracing`", yaml::reference_rows<tracing_section>());
  return text;
}

}  // namespace sidecar
