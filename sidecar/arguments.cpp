#include "sidecar/arguments.hpp"

#include <charconv>

#include "sidecar/config/sections.hpp"

namespace sidecar {
namespace {

std::unexpected<std::string> wrong(std::string text) { return std::unexpected(std::move(text)); }

/// Sets what `flag` says. Returns what is wrong with its value; empty when nothing is.
std::string set(run_arguments& given, const std::string& flag, const std::string& value) {
  if (flag == "--threads") {
    int n = -1;
    const auto [end, ec] = std::from_chars(value.data(), value.data() + value.size(), n);
    if (ec != std::errc{} || end != value.data() + value.size() || n < 0 || n > 1024) {
      return "must be a number from 0 to 1024, not '" + value + "'";
    }
    given.threads = n;
    return {};
  }
  if (flag == "--log-level") {
    given.log_level = common::log::level_of(value);
    return given.log_level ? std::string() : "must be debug, info, warn or error, not '" + value + "'";
  }
  auto address = resilience::detail::yaml::codec<endpoint>::parse(value);
  if (!address) return address.error();
  (flag == "--listen" ? given.listen : given.admin) = *address;
  return {};
}

}  // namespace

std::expected<run_arguments, std::string> parse_run(std::span<const std::string> args) {
  run_arguments given;
  for (std::size_t i = 0; i < args.size(); ++i) {
    const std::string& word = args[i];
    if (word == "--enable-chaos") {
      given.enable_chaos = true;
    } else if (word.starts_with('-')) {
      const std::size_t equals = word.find('=');
      const std::string flag = word.substr(0, equals);
      if (flag != "--listen" && flag != "--admin" && flag != "--threads" && flag != "--log-level") {
        return wrong("unknown option '" + flag + "'");
      }
      if (equals == std::string::npos && i + 1 == args.size()) return wrong(flag + " needs a value");
      const std::string problem = set(given, flag, equals == std::string::npos ? args[++i] : word.substr(equals + 1));
      if (!problem.empty()) return wrong(flag + ' ' + problem);
    } else if (!given.file.empty()) {
      return wrong("one argument too many: '" + word + "'");
    } else {
      given.file = word;
    }
  }
  if (given.file.empty()) return wrong("which FILE?");
  return given;
}

void override_with(const run_arguments& given, settings& s) {
  if (given.listen) s.listen.address = *given.listen;
  if (given.admin) s.admin = *given.admin;
  if (given.threads) s.listen.threads = *given.threads;
}

}  // namespace sidecar
