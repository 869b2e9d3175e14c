#pragma once
/// The command line of `run`.

#include <expected>
#include <optional>
#include <span>
#include <string>

#include "common/log.hpp"
#include "sidecar/config/settings.hpp"

namespace sidecar {

struct run_arguments {
  std::string file;
  std::optional<endpoint> listen, admin;
  std::optional<int> threads;
  std::optional<common::log::level> log_level;
  bool enable_chaos = false;
};

/// `args` is what stands after the verb. The error is a sentence for people.
std::expected<run_arguments, std::string> parse_run(std::span<const std::string> args);

/// What the command line says over the file.
void override_with(const run_arguments& given, settings& s);

}  // namespace sidecar
