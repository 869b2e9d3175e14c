#pragma once
/// A section of a file as one table of fields. From the table come reading, checking, "did you mean", the effective
/// values, the JSON Schema and the rows of the reference.

#include <algorithm>
#include <array>
#include <concepts>
#include <cstddef>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <resilience/detail/yaml/node.hpp>
#include <resilience/detail/yaml/value.hpp>
#include <resilience/error.hpp>

namespace resilience::detail::yaml {

/// Names from the root to a value. Names of instances may hold dots, so the parts are kept apart by a control
/// character.
inline constexpr char separator = '\x1f';
inline std::string child(const std::string& path, std::string_view key) {
  return path.empty() ? std::string(key) : path + separator + std::string(key);
}
inline std::string dotted(std::string path) {
  std::ranges::replace(path, separator, '.');
  return path;
}

/// One effective value: `PATH = VALUE  # FILE:LINE | default`.
struct setting {
  std::string path;   ///< Of `child`.
  std::string value;  ///< As one would write it; `none` where nothing is set.
  std::string json;
  int line = 0;  ///< 0: the default.

  friend bool operator==(const setting&, const setting&) = default;
};

/// The line each value that was written comes from, by path.
using origins = std::map<std::string, int, std::less<>>;

/// What reading leaves besides the values.
struct reader {
  report& problems;
  origins written;
};

/// One key of a section whose values go into an `S`.
template <class S>
struct field {
  std::string_view key;
  std::string_view bounds;
  std::string_view doc;
  bool required = false;
  std::string_view unit;
  bool (*read)(const node&, const std::string& path, reader&, S&) = nullptr;
  void (*flatten)(const S&, const std::string& path, const origins&, std::vector<setting>&) = nullptr;
  void (*reset)(S&) = nullptr;  ///< Back to the default.
  std::string (*schema)() = nullptr;
};

/// The fields of a section: `static constexpr std::array fields` of `field<S>`. It may also have `later`, keys that a
/// later version will read and this one refuses.
template <class S>
struct table;

template <class T>
concept section = requires { table<T>::fields; };

template <class T>
struct optional_section : std::false_type {};
template <section T>
struct optional_section<std::optional<T>> : std::true_type {
  using value_type = T;
};

/// A codec that reads a whole node (a list, a map of its own) instead of a single value.
template <class T>
concept reads_node = requires(const node& n, std::string_view key, report& r, T& out) {
  { codec<T>::read(n, key, r, out) } -> std::same_as<bool>;
};

template <section S>
bool read_section(const node& n, const std::string& path, reader& r, S& out,
                  std::span<const std::string_view> others = {});

/// Reads a single value; says what is wrong with it and answers whether it was right.
template <class T>
bool read_scalar(const node& n, std::string_view key, report& problems, T& out) {
  if (n.refused()) return false;
  if (n.kind == node::kind_type::null) {
    problems.error(n.at, ticked(key) + " has no value");
    return false;
  }
  if (!n.is_scalar()) {
    problems.error(n.at, ticked(key) + " must be a single value (" + std::string(codec<T>::unit) + "), not " +
                             std::string(kind_name(n)));
    return false;
  }
  auto value = codec<T>::parse(n.text);
  if (!value) {
    problems.error(n.at, ticked(key) + " " + value.error());
    return false;
  }
  out = std::move(*value);
  return true;
}

template <class T>
bool read_value(const node& n, const std::string& path, reader& r, T& out) {
  if (n.refused()) return false;
  if (n.at.line > 0) r.written[path] = n.at.line;
  const std::size_t last = path.rfind(separator);
  const std::string_view key = std::string_view(path).substr(last == std::string::npos ? 0 : last + 1);
  if constexpr (section<T>) {
    return read_section(n, path, r, out);
  } else if constexpr (optional_section<T>::value) {
    return read_section(n, path, r, out.emplace());
  } else if constexpr (reads_node<T>) {
    return codec<T>::read(n, key, r.problems, out);
  } else {
    return read_scalar(n, key, r.problems, out);
  }
}

/// Writes down the effective values of a section, or of one value.
template <class T>
void flatten(const T& value, const std::string& path, const origins& written, std::vector<setting>& out) {
  if constexpr (section<T>) {
    for (const auto& f : table<T>::fields) f.flatten(value, child(path, f.key), written, out);
  } else {
    if constexpr (optional_section<T>::value) {
      if (value) return flatten(*value, path, written, out);
      out.push_back({path, "none", "null", 0});
    } else {
      const auto line = written.find(path);
      out.push_back({path, codec<T>::show(value), codec<T>::json(value), line == written.end() ? 0 : line->second});
    }
  }
}

template <class S, auto Get>
using member_type = std::remove_cvref_t<std::invoke_result_t<decltype(Get), S&>>;

template <class T>
std::string schema_of();

/// The unit of a section within a section.
inline constexpr std::string_view section_unit = "section";

template <class T>
constexpr std::string_view unit_of_type() {
  if constexpr (section<T> || optional_section<T>::value) {
    return section_unit;
  } else {
    return codec<T>::unit;
  }
}

/// A field of `S` that `Get` (a pointer to member, or a function that returns a reference) leads to.
template <class S, auto Get>
constexpr field<S> member(std::string_view key, std::string_view bounds, std::string_view doc, bool required = false) {
  using value_type = member_type<S, Get>;
  return {
      key,
      bounds,
      doc,
      required,
      unit_of_type<value_type>(),
      [](const node& n, const std::string& path, reader& r, S& out) {
        return read_value(n, path, r, std::invoke(Get, out));
      },
      [](const S& from, const std::string& path, const origins& written, std::vector<setting>& out) {
        flatten(std::invoke(Get, from), path, written, out);
      },
      [](S& out) {
        S fresh{};
        std::invoke(Get, out) = std::invoke(Get, fresh);
      },
      [] { return schema_of<value_type>(); },
  };
}

/// The fields of a part of `S`, as fields of `S` itself. `Get` leads to the part.
template <class S, auto Get>
constexpr auto fields_of_part() {
  using part = member_type<S, Get>;
  constexpr std::size_t count = table<part>::fields.size();
  return []<std::size_t... I>(std::index_sequence<I...>) {
    return std::array<field<S>, count>{field<S>{
        table<part>::fields[I].key,
        table<part>::fields[I].bounds,
        table<part>::fields[I].doc,
        table<part>::fields[I].required,
        table<part>::fields[I].unit,
        [](const node& n, const std::string& path, reader& r, S& out) {
          return table<part>::fields[I].read(n, path, r, std::invoke(Get, out));
        },
        [](const S& from, const std::string& path, const origins& written, std::vector<setting>& out) {
          table<part>::fields[I].flatten(std::invoke(Get, from), path, written, out);
        },
        [](S& out) { table<part>::fields[I].reset(std::invoke(Get, out)); },
        table<part>::fields[I].schema,
    }...};
  }(std::make_index_sequence<count>{});
}

/// Two tables in a row.
template <class S, std::size_t A, std::size_t B>
constexpr std::array<field<S>, A + B> join(const std::array<field<S>, A>& a, const std::array<field<S>, B>& b) {
  return [&]<std::size_t... I, std::size_t... J>(std::index_sequence<I...>, std::index_sequence<J...>) {
    return std::array<field<S>, A + B>{a[I]..., b[J]...};
  }(std::make_index_sequence<A>{}, std::make_index_sequence<B>{});
}

/// The keys that stand in a section: its fields, and `others`.
template <section S>
std::vector<std::string_view> keys_of(std::span<const std::string_view> others = {}) {
  std::vector<std::string_view> keys;
  for (const auto& f : table<S>::fields) keys.push_back(f.key);
  keys.insert(keys.end(), others.begin(), others.end());
  return keys;
}

inline void unknown_key(const entry& e, const std::vector<std::string_view>& known, report& problems) {
  std::string hint = did_you_mean(e.key, known);
  if (hint.empty() && !known.empty()) {
    hint = "; known here are";
    for (const std::string_view k : known) hint += (k == known.front() ? " " : ", ") + std::string(k);
  }
  problems.error(e.key_at, "unknown key " + ticked(e.key) + hint);
}

inline void not_supported_yet(const entry& e, report& problems) {
  problems.error(e.key_at, ticked(e.key) + " is not supported yet");
}

/// Whether `n` is a map; says so when it is not.
inline bool is_map(const node& n, std::string_view key, report& problems) {
  if (n.is_map()) return true;
  if (!n.refused()) {
    problems.error(
        n.at, ticked(key) + (n.kind == node::kind_type::null ? " has no value; {} stands for the defaults"
                                                             : " must be a map, not " + std::string(kind_name(n))));
  }
  return false;
}

/// Whether `word` stands in `text` as a word of its own.
inline std::size_t find_word(std::string_view text, std::string_view word) noexcept {
  const auto letter = [](char c) { return c == '_' || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'); };
  for (std::size_t at = text.find(word); at != std::string_view::npos; at = text.find(word, at + 1)) {
    const std::size_t end = at + word.size();
    if ((at == 0 || !letter(text[at - 1])) && (end == text.size() || !letter(text[end]))) return at;
  }
  return std::string_view::npos;
}

/// The value that a broken bound is about: the field's, or inside a map such as an interval the part that is named.
inline const node& blamed(const node& value, std::string_view must) {
  const node* best = &value;
  std::size_t first = std::string_view::npos;
  for (const entry& e : value.entries) {
    const std::size_t at = find_word(must, e.key);
    if (at < first) {
      first = at;
      best = &e.value;
    }
  }
  return *best;
}

/// Reports every bound that `value` breaks, each at the value written last for it in `layers`. `unreadable` are fields
/// already reported. `alone`: one layer by itself, where a bound that relates two fields says nothing yet.
template <section S>
void check_bounds(std::span<const node* const> layers, S value, const std::vector<std::string_view>& unreadable,
                  bool alone, report& problems) {
  if constexpr (requires { check(value); }) {
    const auto written = [&](std::string_view key) -> const node* {
      const node* found = nullptr;
      for (const node* layer : layers) {
        if (const entry* e = layer->find(key)) found = &e->value;
      }
      return found;
    };
    for (std::size_t round = 0; round < table<S>::fields.size(); ++round) {
      const std::optional<config_error> broken = check(value);
      if (!broken) return;
      const node* at = nullptr;
      std::string key(broken->field.substr(0, broken->field.find('.')));
      bool related = false, known = true;
      for (const auto& f : table<S>::fields) {
        if (f.key == key) {
          at = written(key);
          f.reset(value);
        } else if (find_word(broken->must, f.key) != std::string_view::npos) {
          related = true;
          if (std::ranges::find(unreadable, f.key) != unreadable.end()) known = false;
        }
      }
      if (!known || (alone && related)) continue;
      // A bound between two fields of which only the other was written is the other's mistake.
      for (const auto& f : table<S>::fields) {
        if (at != nullptr || f.key == key || find_word(broken->must, f.key) == std::string_view::npos) continue;
        if (const node* other = written(f.key)) {
          f.reset(value);
          problems.error(other->at, ticked(f.key) + " does not fit: " + ticked(key) + ", left at its default, must " +
                                        std::string(broken->must));
          known = false;
        }
      }
      if (!known) continue;
      if (at == nullptr) at = layers.back();
      const node& blame = blamed(*at, broken->must);
      std::string message = ticked(key) + " must " + std::string(broken->must);
      if (blame.is_scalar() && at != layers.back()) message += ", not " + ticked(blame.text);
      if (!problems.any_at(blame.at)) problems.error(blame.at, message);
    }
  }
}

/// Reads maps one over the other, field by field, the last one wins, and checks what results.
/// `partial`: what results is not used by itself (a template).
template <section S>
bool read_layers(std::span<const node* const> layers, const std::string& path, reader& r, S& out,
                 std::span<const std::string_view> others = {}, bool partial = false) {
  const std::size_t errors = r.problems.errors();
  std::vector<std::string_view> unreadable;
  for (const node* layer : layers) {
    S alone{};
    for (const entry& e : layer->entries) {
      const auto f = std::ranges::find(table<S>::fields, e.key, &field<S>::key);
      if (f != table<S>::fields.end()) {
        if (!f->read(e.value, child(path, e.key), r, out)) {
          unreadable.push_back(f->key);
        } else if (layers.size() > 1) {
          f->read(e.value, child(path, e.key), r, alone);
        }
        continue;
      }
      if (std::ranges::find(others, e.key) != others.end()) continue;
      if constexpr (requires { table<S>::later; }) {
        if (std::ranges::find(table<S>::later, e.key) != table<S>::later.end()) {
          not_supported_yet(e, r.problems);
          continue;
        }
      }
      unknown_key(e, keys_of<S>(others), r.problems);
    }
    const node* const one[] = {layer};
    if (layers.size() > 1) check_bounds<S>(one, alone, unreadable, true, r.problems);
  }
  for (const auto& f : table<S>::fields) {
    const auto has = [&](const node* layer) {
      return layer->find(f.key) != nullptr || meant(*layer, f.key, keys_of<S>(others));
    };
    if (f.required && std::ranges::none_of(layers, has)) {
      r.problems.error(layers.back()->at, ticked(f.key) + " is missing");
    }
  }
  check_bounds<S>(layers, out, unreadable, partial, r.problems);
  return r.problems.errors() == errors;
}

template <section S>
bool read_section(const node& n, const std::string& path, reader& r, S& out, std::span<const std::string_view> others) {
  const std::size_t last = path.rfind(separator);
  if (!is_map(n, std::string_view(path).substr(last == std::string::npos ? 0 : last + 1), r.problems)) return false;
  const node* const layers[] = {&n};
  return read_layers<S>(layers, path, r, out, others);
}

/// JSON Schema of a section: an object that knows its keys. `more` are properties beyond the table: `"base":{…}`.
/// The document it becomes part of has `$defs.variable`, for values that come from the environment.
template <section S>
std::string object_schema(std::string_view more = {}) {
  const S fresh{};
  std::string properties, required;
  for (const auto& f : table<S>::fields) {
    std::string about(f.doc);
    if (!f.bounds.empty()) about += " " + std::string(f.bounds) + ".";
    properties += (properties.empty() ? "" : ",") + json_string(f.key) + R"(:{"description":)" + json_string(about);
    std::vector<setting> defaults;
    f.flatten(fresh, std::string(f.key), {}, defaults);
    const bool single = f.unit != section_unit;
    if (single && !f.required && defaults[0].json != "null") properties += R"(,"default":)" + defaults[0].json;
    properties +=
        single ? R"(,"anyOf":[)" + f.schema() + R"(,{"$ref":"#/$defs/variable"}]})" : "," + f.schema().substr(1);
    if (f.required) required += (required.empty() ? "" : ",") + json_string(f.key);
  }
  if (!more.empty()) properties += "," + std::string(more);
  if (!required.empty()) required = R"(,"required":[)" + required + "]";
  return R"({"type":"object","additionalProperties":false)" + required + R"(,"properties":{)" + properties + "}}";
}

template <class T>
std::string schema_of() {
  if constexpr (section<T>) {
    return object_schema<T>();
  } else if constexpr (optional_section<T>::value) {
    return object_schema<typename optional_section<T>::value_type>();
  } else {
    return codec<T>::schema();
  }
}

/// The rows of the reference for a section: key, unit, bounds, default, meaning.
template <section S>
std::string reference_rows() {
  std::string rows;
  const S fresh{};
  for (const auto& f : table<S>::fields) {
    std::vector<setting> defaults;
    f.flatten(fresh, std::string(f.key), {}, defaults);
    const std::string otherwise = f.required ? "required" : f.unit == section_unit ? "" : "`" + defaults[0].value + "`";
    rows += "| `" + std::string(f.key) + "` | " + std::string(f.unit) + " | " + std::string(f.bounds) + " | " +
            otherwise + " | " + std::string(f.doc) + " |\n";
  }
  return rows;
}

/// A list of values.
template <class T>
struct codec<std::vector<T>> {
  static constexpr std::string_view unit = "list";
  static bool read(const node& n, std::string_view key, report& problems, std::vector<T>& out) {
    if (n.refused()) return false;
    if (!n.is_list()) {
      problems.error(n.at, ticked(key) + " must be a list such as [a, b], not " + std::string(kind_name(n)));
      return false;
    }
    out.clear();
    bool good = true;
    for (const node& item : n.items) {
      if (!read_scalar(item, key, problems, out.emplace_back())) good = false;
    }
    return good;
  }
  static std::string show(const std::vector<T>& all) { return list(all, codec<T>::show, ", "); }
  static std::string json(const std::vector<T>& all) { return list(all, codec<T>::json, ","); }
  static std::string schema() { return R"({"type":"array","items":)" + codec<T>::schema() + "}"; }

 private:
  template <class Text>
  static std::string list(const std::vector<T>& all, Text text, std::string_view comma) {
    std::string out = "[";
    for (const T& one : all) out += (out.size() == 1 ? "" : std::string(comma)) + text(one);
    return out + "]";
  }
};

}  // namespace resilience::detail::yaml
