#pragma once
/// From a YAML file to settings that can be used, or to everything that is wrong with it.

#include <expected>
#include <string>
#include <string_view>
#include <vector>

#include <resilience/config_problem.hpp>

#include "sidecar/config/settings.hpp"

namespace sidecar {

using problem_list = std::vector<resilience::config_problem>;

/// One effective value, as `explain` and `/config` show it.
struct effective_setting {
  std::vector<std::string> path;  ///< "routes", "orders", "retry", "max_attempts".
  std::string value;              ///< As one would write it; `none` where nothing is set.
  std::string json;
  int line = 0;  ///< Of the file; 0: the default.

  [[nodiscard]] std::string dotted_path() const;
};

/// A file, read and found good.
struct configuration {
  settings values;
  std::string file;       ///< As it was given.
  problem_list warnings;  ///< In file order.
  std::vector<effective_setting> effective;
  /// Of the effective values: the same for files that differ in comments, order of keys or spelling only.
  std::string hash;
};

struct load_options {
  /// Whether a route may have `chaos`.
  bool enable_chaos = false;
  /// Whether a file with `policies` alone will do: it can be checked, but nothing can run on it.
  bool policies_alone = false;
};

/// Reads a file. The error holds everything that is wrong, warnings too, in file order; a file that can't be read is
/// one error without a line. Variables come from the environment of the process.
std::expected<configuration, problem_list> load(const std::string& file, load_options options = {});
/// The same for a text; `file` is only the name that problems bear.
std::expected<configuration, problem_list> load_text(std::string_view text, const std::string& file,
                                                     load_options options = {});

/// The effective configuration as a JSON object.
std::string to_json(const configuration& c);

/// A value that a reload changed; `none` on the side where it is not there.
struct changed_setting {
  std::string path, before, after;
};
std::vector<changed_setting> diff(const configuration& before, const configuration& after);

/// A policy's settings as a JSON object, with the keys and units of the file.
template <class Config>
std::string settings_json(const Config& config);
/// `config` with what `text` (a JSON or YAML map with keys of the file) sets anew, checked as a file is.
template <class Config>
std::expected<Config, problem_list> patched(const Config& config, std::string_view text);

// Both exist for these.
extern template std::string settings_json(const resilience::circuit_breaker_config&);
extern template std::string settings_json(const resilience::rate_limiter_config&);
extern template std::string settings_json(const resilience::adaptive_rate_limiter_config&);
extern template std::string settings_json(const resilience::bulkhead_config&);
extern template std::string settings_json(const resilience::retry_config&);
extern template std::expected<resilience::circuit_breaker_config, problem_list> patched(
    const resilience::circuit_breaker_config&, std::string_view);
extern template std::expected<resilience::rate_limiter_config, problem_list> patched(
    const resilience::rate_limiter_config&, std::string_view);
extern template std::expected<resilience::adaptive_rate_limiter_config, problem_list> patched(
    const resilience::adaptive_rate_limiter_config&, std::string_view);
extern template std::expected<resilience::bulkhead_config, problem_list> patched(const resilience::bulkhead_config&,
                                                                                 std::string_view);
extern template std::expected<resilience::retry_config, problem_list> patched(const resilience::retry_config&,
                                                                              std::string_view);

}  // namespace sidecar
