#pragma once
/// Text to nodes, on yaml-cpp's events. The only header that includes yaml-cpp.

#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/parser.h>

#include <cstdlib>
#include <functional>
#include <istream>
#include <optional>
#include <streambuf>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include <resilience/detail/yaml/node.hpp>

namespace resilience::detail::yaml {

/// Gives a variable's value, or nothing when it is not set.
using environment = std::function<std::optional<std::string>(const std::string&)>;

inline std::optional<std::string> process_environment(const std::string& name) {
  const char* value = std::getenv(name.c_str());
  return value == nullptr ? std::nullopt : std::optional<std::string>(value);
}

/// What a file may cost at most.
inline constexpr std::size_t max_file_bytes = 1024 * 1024;
inline constexpr std::size_t max_nodes = 100'000;
inline constexpr std::size_t max_depth = 32;

/// The first byte that can't stand in a YAML text (control characters, broken UTF-8), or npos.
inline std::size_t find_bad_byte(std::string_view text) noexcept {
  for (std::size_t i = 0; i < text.size();) {
    const auto byte = [&](std::size_t at) { return at < text.size() ? static_cast<unsigned char>(text[at]) : 0u; };
    const unsigned lead = byte(i);
    if (lead < 0x80) {
      const bool lone_return = lead == '\r' && byte(i + 1) != '\n';
      if ((lead < 0x20 && lead != '\t' && lead != '\n' && lead != '\r') || lead == 0x7f || lone_return) return i;
      ++i;
      continue;
    }
    const std::size_t more = lead >= 0xf0 ? 3 : lead >= 0xe0 ? 2 : 1;
    if (lead < 0xc2 || lead > 0xf4) return i;
    for (std::size_t k = 1; k <= more; ++k) {
      if ((byte(i + k) & 0xc0) != 0x80) return i;
    }
    const bool overlong = (lead == 0xe0 && byte(i + 1) < 0xa0) || (lead == 0xf0 && byte(i + 1) < 0x90);
    const bool outside = (lead == 0xed && byte(i + 1) > 0x9f) || (lead == 0xf4 && byte(i + 1) > 0x8f);
    if (overlong || outside) return i;
    i += more + 1;
  }
  return std::string_view::npos;
}

/// Replaces `${VAR}` and `${VAR:-default}` (the default serves an unset and an empty variable); `$${` stands for `${`.
/// Returns what is wrong, or nothing.
inline std::optional<std::string> expand(std::string& text, const environment& variables) {
  if (text.find("${") == std::string::npos) return std::nullopt;
  std::string out;
  for (std::size_t i = 0; i < text.size();) {
    if (text.compare(i, 3, "$${") == 0) {
      out += "${";
      i += 3;
      continue;
    }
    if (text.compare(i, 2, "${") != 0) {
      out += text[i++];
      continue;
    }
    const std::size_t end = text.find('}', i);
    if (end == std::string::npos) return "`${` without its `}` (write `$${` for the characters themselves)";
    const std::string inside = text.substr(i + 2, end - i - 2);
    const std::size_t dash = inside.find(":-");
    const std::string name = inside.substr(0, dash);
    const bool named =
        !name.empty() && !(name[0] >= '0' && name[0] <= '9') &&
        name.find_first_not_of("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_") == std::string::npos;
    if (!named) return ticked(name) + " is not the name of a variable";
    const std::optional<std::string> value = variables(name);
    if (dash != std::string::npos && (!value || value->empty())) {
      out += inside.substr(dash + 2);
    } else if (value) {
      if (find_bad_byte(*value) != std::string_view::npos) return "the variable " + ticked(name) + " is not plain text";
      out += *value;
    } else {
      return "the variable " + ticked(name) + " is not set and has no default (`${" + name + ":-VALUE}`)";
    }
    if (out.size() > max_file_bytes) return "the value is longer than 1 MiB";
    i = end + 1;
  }
  text = std::move(out);
  return std::nullopt;
}

/// Builds nodes from yaml-cpp's events. Anchors, aliases, merge keys and tags are refused: a template is a `base`.
class builder final : public YAML::EventHandler {
 public:
  /// Thrown to end the parse: the text is beyond a bound.
  struct too_much {
    place at;
    std::string message;
  };

  builder(std::string_view text, report& problems, const environment& variables)
      : text_(text), problems_(problems), variables_(variables) {}

  node take() { return std::move(root_); }
  [[nodiscard]] std::size_t documents() const noexcept { return documents_; }

  /// yaml-cpp counts from 0 and in bytes. Places come nearly in order, so counting goes on from the last one.
  place place_of(const YAML::Mark& mark) {
    if (mark.is_null()) return {1, 1};
    if (mark.line < line_ || (mark.line == line_ && mark.column < byte_)) {
      line_ = 0;
      start_ = 0;
      byte_ = column_ = 0;
    }
    for (; line_ < mark.line; ++line_) {
      const std::size_t end = text_.find('\n', start_);
      start_ = end == std::string_view::npos ? text_.size() : end + 1;
      byte_ = column_ = 0;
    }
    for (; byte_ < mark.column; ++byte_) {
      const std::size_t at = start_ + static_cast<std::size_t>(byte_);
      if (at >= text_.size() || (static_cast<unsigned char>(text_[at]) & 0xc0) != 0x80) ++column_;
    }
    return {line_ + 1, column_ + 1};
  }

  void OnDocumentStart(const YAML::Mark& mark) override {
    if (++documents_ == 2) problems_.error(place_of(mark), "only one document may stand in a file");
  }
  void OnDocumentEnd() override {}

  void OnAnchor(const YAML::Mark& mark, const std::string&) override {
    problems_.error(place_of(mark),
                    "anchors and aliases are not supported; a template under `configs` and `base` do this");
  }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t) override {
    node n;
    n.kind = node::kind_type::refused;
    n.at = place_of(mark);
    put(std::move(n));
  }
  void OnNull(const YAML::Mark& mark, YAML::anchor_t) override {
    node n;
    n.at = place_of(mark);
    // Where nothing was written, the mark is that of whatever comes next: the key is the nearest place of its own.
    const std::size_t at = start_ + static_cast<std::size_t>(byte_);
    const bool written = at < text_.size() && (text_[at] == '~' || text_[at] == 'n' || text_[at] == 'N');
    if (!written && !open_.empty() && open_.back().key) n.at = open_.back().key_at;
    put(std::move(n));
  }
  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t, const std::string& value) override {
    node n;
    n.kind = node::kind_type::scalar;
    n.at = place_of(mark);
    n.text = value;
    refuse_tag(n, tag);
    const bool is_key = !open_.empty() && open_.back().value.is_map() && !open_.back().key;
    if (!is_key) {
      if (const auto wrong = expand(n.text, variables_)) {
        problems_.error(n.at, *wrong);
        n.kind = node::kind_type::refused;
      }
    }
    put(std::move(n));
  }
  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t,
                       YAML::EmitterStyle::value) override {
    open(mark, tag, node::kind_type::list);
  }
  void OnSequenceEnd() override { close(); }
  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t, YAML::EmitterStyle::value) override {
    open(mark, tag, node::kind_type::map);
  }
  void OnMapEnd() override { close(); }

 private:
  struct level {
    node value;
    std::optional<std::string> key;  ///< Of a map: read, and its value comes next.
    place key_at;
    bool skip = false;                          ///< The value that comes next belongs to a key already reported.
    std::unordered_map<std::string, int> keys;  ///< With the line of each.
  };

  void refuse_tag(node& n, const std::string& tag) {
    if (tag.empty() || tag == "?" || tag == "!") return;
    problems_.error(n.at, "tags are not supported");
    n.kind = node::kind_type::refused;
  }

  void open(const YAML::Mark& mark, const std::string& tag, node::kind_type kind) {
    level l;
    l.value.kind = kind;
    l.value.at = place_of(mark);
    if (open_.size() == max_depth) throw too_much{l.value.at, "nested deeper than 32 levels"};
    if (!tag.empty() && tag != "?" && tag != "!") problems_.error(l.value.at, "tags are not supported");
    open_.push_back(std::move(l));
  }

  void close() {
    node done = std::move(open_.back().value);
    open_.pop_back();
    put(std::move(done));
  }

  /// A finished node goes where it belongs: a key or a value of the map, an item of the list, or the root.
  void put(node n) {
    if (++nodes_ > max_nodes) throw too_much{n.at, "more than 100000 values"};
    if (open_.empty()) {
      if (documents_ <= 1) root_ = std::move(n);
      return;
    }
    level& to = open_.back();
    if (to.value.is_list()) {
      to.value.items.push_back(std::move(n));
    } else if (!to.key) {
      to.key_at = n.at;
      to.skip = true;
      to.key = n.text;
      if (n.refused()) return;
      if (!n.is_scalar()) {
        problems_.error(n.at, "a key must be a word, not " + std::string(kind_name(n)));
      } else if (n.text == "<<") {
        problems_.error(n.at, "merge keys are not supported; a template under `configs` and `base` do this");
      } else if (const auto [first, added] = to.keys.emplace(n.text, n.at.line); !added) {
        problems_.error(
            n.at, "the key " + ticked(n.text) + " is there twice; first on line " + std::to_string(first->second));
      } else {
        to.skip = false;
      }
    } else {
      if (!to.skip) to.value.entries.push_back({std::move(*to.key), to.key_at, std::move(n)});
      to.key.reset();
    }
  }

  std::string_view text_;
  report& problems_;
  const environment& variables_;
  std::vector<level> open_;
  node root_;
  std::size_t documents_ = 0;
  std::size_t nodes_ = 0;
  int line_ = 0, byte_ = 0, column_ = 0;  ///< The last place asked for; its line begins at `start_`.
  std::size_t start_ = 0;
};

/// Reads a text into nodes; what is wrong goes to `problems`. After a mistake in the YAML itself the root is `refused`,
/// for the rest of the text can't be trusted.
inline node parse(std::string_view text, report& problems, const environment& variables = process_environment) {
  node none;
  none.kind = node::kind_type::refused;
  if (text.size() > max_file_bytes) {
    problems.error({1, 1}, "the file is longer than 1 MiB");
    return none;
  }
  builder build(text, problems, variables);
  if (const std::size_t bad = find_bad_byte(text); bad != std::string_view::npos) {
    const std::string_view before = text.substr(0, bad);
    YAML::Mark mark;
    mark.line = static_cast<int>(std::ranges::count(before, '\n'));
    mark.column = static_cast<int>(before.size() - (before.rfind('\n') + 1));
    problems.error(build.place_of(mark), "not text: a control character or broken UTF-8");
    return none;
  }

  struct view_buffer : std::streambuf {
    explicit view_buffer(std::string_view v) {
      char* begin = const_cast<char*>(v.data());  // NOLINT: only read
      setg(begin, begin, begin + v.size());
    }
  } buffer(text);
  std::istream in(&buffer);
  try {
    YAML::Parser parser(in);
    while (build.documents() < 2 && parser.HandleNextDocument(build)) {
    }
  } catch (const builder::too_much& e) {
    problems.error(e.at, e.message);
    return none;
  } catch (const YAML::Exception& e) {
    const place at = build.place_of(e.mark);
    std::string message = "not valid YAML: " + e.msg;
    if (text.find("${") != std::string_view::npos) message += " (inside { } or [ ] a `${VAR}` must stand in quotes)";
    problems.error(at, message);
    return none;
  }
  return build.take();
}

/// A text without the byte order mark that some editors put in front.
inline std::string_view without_mark(std::string_view text) noexcept {
  return text.starts_with("\xEF\xBB\xBF") ? text.substr(3) : text;
}

}  // namespace resilience::detail::yaml
