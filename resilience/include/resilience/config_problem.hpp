#pragma once
/// One thing wrong, or doubtful, in a configuration file, and the exception that carries them all.

#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace resilience {

/// One thing wrong, or doubtful, in a configuration file.
struct config_problem {
  std::string file;  ///< As it was given.
  int line = 0;      ///< From 1; 0 when it is about the file as a whole.
  int column = 0;    ///< From 1, in characters.
  bool warning = false;
  std::string message;
  std::string source;  ///< The line it is about; of a very long one the part around the column.
  int caret = 0;       ///< The character of `source` it points at, from 1.

  friend bool operator==(const config_problem&, const config_problem&) = default;
};

/// "FILE:LINE:COLUMN: error: MESSAGE", then the source line and a caret under the place.
inline std::string to_string(const config_problem& p) {
  std::string text = p.file;
  if (p.line > 0) text += ':' + std::to_string(p.line) + ':' + std::to_string(p.column);
  text += p.warning ? ": warning: " : ": error: ";
  text += p.message + '\n';
  if (p.line <= 0 || p.caret <= 0) return text;

  const std::string number = std::to_string(p.line);
  text += number + " | " + p.source + '\n' + std::string(number.size(), ' ') + " | ";
  int character = 1;
  for (const char c : p.source) {
    if ((static_cast<unsigned char>(c) & 0xc0) == 0x80) continue;
    if (character++ >= p.caret) break;
    text += c == '\t' ? '\t' : ' ';  // a tab above a tab keeps the caret in place
  }
  for (; character < p.caret; ++character) text += ' ';
  return text + "^\n";
}

/// All of them, one after the other.
inline std::string to_string(const std::vector<config_problem>& problems) {
  std::string text;
  for (const config_problem& p : problems) text += to_string(p);
  return text;
}

/// A configuration that cannot be used. `what()` is the whole report, every error at once.
class invalid_configuration : public std::runtime_error {
 public:
  explicit invalid_configuration(std::vector<config_problem> problems)
      : std::runtime_error(to_string(problems)), problems_(std::move(problems)) {}
  /// In file order.
  [[nodiscard]] const std::vector<config_problem>& problems() const noexcept { return problems_; }

 private:
  std::vector<config_problem> problems_;
};

}  // namespace resilience
