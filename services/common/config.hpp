#pragma once
/// A program's settings: defaults, then a YAML file, then the environment, then flags; the last one that speaks wins.
///
/// The option `saga.window-ms` is `window-ms:` under `saga:` (or `saga.window-ms:`) in the file,
/// RESILIENCE_SAGA_WINDOW_MS in the environment and --saga-window-ms VALUE (or =VALUE) on the command line.

#include <cstdint>
#include <expected>
#include <limits>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace common {

/// One setting that a program knows.
struct option {
  enum class type : std::uint8_t { text, integer, boolean };

  std::string name;  ///< Lower case, parts joined by dots, words by dashes: `saga.window-ms`.
  std::string initial;
  std::string help;  ///< With unit and bounds.
  type kind = type::text;
  std::int64_t least = 0;
  std::int64_t most = std::numeric_limits<std::int64_t>::max();
};

/// What it was told. Asking for an option that was not declared, or in another type, throws std::logic_error.
class config {
 public:
  /// Why a program must not start: `--help` (status 0, text for stdout) or mistakes (status 2, text for stderr, all at
  /// once, a line each).
  struct refusal {
    int status = 2;
    std::string text;
  };

  /// `arguments` are without the program's name; `environment` as in `environ` ("NAME=VALUE").
  static std::expected<config, refusal> read(std::string_view program, const std::vector<option>& options,
                                             const std::vector<std::string>& arguments,
                                             const std::vector<std::string>& environment);

  [[nodiscard]] const std::string& text(std::string_view name) const;
  [[nodiscard]] std::int64_t integer(std::string_view name) const;
  [[nodiscard]] bool boolean(std::string_view name) const;

 private:
  [[nodiscard]] const std::string& value(std::string_view name, option::type kind) const;

  std::map<std::string, std::string, std::less<>> values_;
  std::map<std::string, option::type, std::less<>> kinds_;
};

}  // namespace common
