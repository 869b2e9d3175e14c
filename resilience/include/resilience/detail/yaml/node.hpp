#pragma once
/// A file as it was written: values with their places, and what is wrong with them.

#include <algorithm>
#include <cstddef>
#include <set>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include <resilience/config_problem.hpp>

namespace resilience::detail::yaml {

/// Line and column in the text, from 1; a column is a character. Line 0: no place.
struct place {
  int line = 0;
  int column = 0;
  friend auto operator<=>(const place&, const place&) = default;
};

struct entry;

/// A value. `refused` is one that was already reported (an alias, a bad variable): readers pass over it in silence.
struct node {
  enum class kind_type { null, scalar, list, map, refused };
  kind_type kind = kind_type::null;
  place at;
  std::string text;            ///< Of a scalar, with its variables replaced.
  std::vector<node> items;     ///< Of a list.
  std::vector<entry> entries;  ///< Of a map, in the order written; no key twice.

  [[nodiscard]] inline const entry* find(std::string_view key) const noexcept;
  [[nodiscard]] bool is_map() const noexcept { return kind == kind_type::map; }
  [[nodiscard]] bool is_list() const noexcept { return kind == kind_type::list; }
  [[nodiscard]] bool is_scalar() const noexcept { return kind == kind_type::scalar; }
  [[nodiscard]] bool refused() const noexcept { return kind == kind_type::refused; }
};

struct entry {
  std::string key;
  place key_at;
  node value;
};

inline const entry* node::find(std::string_view key) const noexcept {
  const auto found = std::ranges::find(entries, key, &entry::key);
  return found == entries.end() ? nullptr : &*found;
}

/// What a node is, for messages: "a list".
inline std::string_view kind_name(const node& n) noexcept {
  switch (n.kind) {
    case node::kind_type::null:
      return "nothing";
    case node::kind_type::scalar:
      return "a single value";
    case node::kind_type::list:
      return "a list";
    case node::kind_type::map:
      return "a map";
    case node::kind_type::refused:
      return "unreadable";
  }
  return "unknown";
}

/// `text` between back-ticks, shortened and without control characters, so that a message stays one readable line.
inline std::string ticked(std::string_view text) {
  constexpr std::size_t longest = 80;
  std::string out = "`";
  for (const char c : text.substr(0, longest)) out += static_cast<unsigned char>(c) < 0x20 || c == 0x7f ? '?' : c;
  if (text.size() > longest) {
    while (!out.empty() && (static_cast<unsigned char>(out.back()) & 0xc0) == 0x80) out.pop_back();
    if (static_cast<unsigned char>(out.back()) >= 0xc0) out.pop_back();
    out += "…";
  }
  return out + "`";
}

/// Collects what is wrong. The same thing said of the same place counts once, so that a template which many instances
/// inherit from is reported once.
class report {
 public:
  void error(place at, std::string message) { add(at, false, std::move(message)); }
  void warn(place at, std::string message) { add(at, true, std::move(message)); }

  [[nodiscard]] bool has_errors() const noexcept { return errors_ > 0; }
  [[nodiscard]] std::size_t errors() const noexcept { return errors_; }
  /// Whether an error was reported of this very place.
  [[nodiscard]] bool any_at(place at) const {
    const auto first = found_.lower_bound({at, false, {}});
    return first != found_.end() && std::get<0>(*first) == at && !std::get<1>(*first);
  }

  /// Everything in file order, with the lines of `text` it is about.
  [[nodiscard]] std::vector<config_problem> finish(const std::string& file, std::string_view text) const {
    std::vector<std::string_view> lines;
    for (std::size_t from = 0; from <= text.size();) {
      const std::size_t to = std::min(text.find('\n', from), text.size());
      std::string_view line = text.substr(from, to - from);
      if (line.ends_with('\r')) line.remove_suffix(1);
      lines.push_back(line);
      from = to + 1;
    }
    std::vector<config_problem> all;
    for (const auto& [at, warning, message] : found_) {
      if (all.size() == most) {
        all.push_back({file, at.line, at.column, false, "too many problems; the rest is not shown", {}, 0});
        break;
      }
      config_problem p{file, at.line, at.column, warning, message, {}, at.column};
      if (at.line >= 1 && static_cast<std::size_t>(at.line) <= lines.size())
        cut(lines[static_cast<std::size_t>(at.line) - 1], p);
      all.push_back(std::move(p));
    }
    return all;
  }

 private:
  static constexpr std::size_t most = 1000;
  static constexpr int widest = 160;  ///< Characters of a source line that are shown.

  void add(place at, bool warning, std::string message) {
    if (found_.emplace(at, warning, std::move(message)).second && !warning) ++errors_;
  }

  /// Copies the line, or the part of a very long one around the column, and says where the caret belongs in it.
  static void cut(std::string_view line, config_problem& p) {
    const int skip = p.column > widest - 40 ? p.column - widest / 2 : 0;
    int character = 0;
    for (const char c : line) {
      if ((static_cast<unsigned char>(c) & 0xc0) != 0x80) ++character;
      if (character <= skip) continue;
      if (character > skip + widest) break;
      p.source += static_cast<unsigned char>(c) < 0x20 && c != '\t' ? '?' : c;
    }
    p.caret = p.column - skip;
  }

  std::set<std::tuple<place, bool, std::string>> found_;
  std::size_t errors_ = 0;
};

/// How many letters must be typed, dropped, changed or swapped to turn `a` into `b`.
inline std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> before(b.size() + 1), last(b.size() + 1), now(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j) last[j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    now[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      now[j] = std::min({last[j] + 1, now[j - 1] + 1, last[j - 1] + (a[i - 1] == b[j - 1] ? 0u : 1u)});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) now[j] = std::min(now[j], before[j - 2] + 1);
    }
    std::swap(before, last);
    std::swap(last, now);
  }
  return last[b.size()];
}

/// The word of `known` that `word` was probably meant to be; empty when none is near.
template <class Words>
std::string_view nearest(std::string_view word, const Words& known) {
  if (word.size() > 64) return {};
  std::string_view best;
  std::size_t least = std::max<std::size_t>(1, std::min<std::size_t>(word.size() / 3, 4)) + 1;
  for (const std::string_view candidate : known) {
    const std::size_t distance = edit_distance(word, candidate);
    if (distance < least) {
      least = distance;
      best = candidate;
    }
  }
  return best;
}

/// "; did you mean `failure_rate`?" for the nearest of `known`, or "" when none is near.
template <class Words>
std::string did_you_mean(std::string_view word, const Words& known) {
  const std::string_view best = nearest(word, known);
  return best.empty() ? std::string{} : "; did you mean `" + std::string(best) + "`?";
}

/// Whether a key of `map` that is not among `known` was probably meant to be `key`: then `key` is not missing as well.
template <class Words>
bool meant(const node& map, std::string_view key, const Words& known) {
  return std::ranges::any_of(map.entries, [&](const entry& e) {
    return std::ranges::find(known, std::string_view(e.key)) == std::ranges::end(known) && nearest(e.key, known) == key;
  });
}

}  // namespace resilience::detail::yaml
