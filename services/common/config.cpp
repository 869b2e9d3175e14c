#include "common/config.hpp"

#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <charconv>
#include <optional>
#include <stdexcept>

namespace common {
namespace {

using values = std::map<std::string, std::string, std::less<>>;

std::string flag_of(std::string_view name) {
  std::string flag = "--" + std::string(name);
  std::ranges::replace(flag, '.', '-');
  return flag;
}

std::string variable_of(std::string_view name) {
  std::string variable = "RESILIENCE_";
  for (const char c : name) {
    variable += c == '.' || c == '-' ? '_' : static_cast<char>(c >= 'a' && c <= 'z' ? c - ('a' - 'A') : c);
  }
  return variable;
}

std::optional<std::int64_t> integer_of(std::string_view text) {
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

// What `text` must be to serve as `o`; nothing when it does.
std::optional<std::string> broken_rule(const option& o, std::string_view text) {
  if (o.kind == option::type::boolean && text != "true" && text != "false") return "must be true or false";
  if (o.kind != option::type::integer) return std::nullopt;
  const auto number = integer_of(text);
  if (number && *number >= o.least && *number <= o.most) return std::nullopt;
  return "must be a whole number between " + std::to_string(o.least) + " and " + std::to_string(o.most);
}

std::string help(std::string_view program, const std::vector<option>& options) {
  std::string text =
      "Usage: " + std::string(program) + " [--config FILE] [--OPTION VALUE]…\n\n" +
      "Every option may stand in the YAML file, in the environment (RESILIENCE_…), or here; the last "
      "one wins.\n\n  --config FILE\n      YAML with the options below. Environment: RESILIENCE_CONFIG.\n";
  for (const option& o : options) {
    text += "  " + flag_of(o.name) +
            (o.kind == option::type::integer   ? " N"
             : o.kind == option::type::boolean ? " true|false"
                                               : " TEXT");
    text += "\n      " + o.help + " Default: " + (o.initial.empty() ? "none" : o.initial) + ". File: " + o.name +
            ". Environment: " + variable_of(o.name) + ".\n";
  }
  return text + "  --help\n      This text.\n";
}

const option* find(const std::vector<option>& options, std::string_view name) {
  const auto it = std::ranges::find(options, name, &option::name);
  return it == options.end() ? nullptr : &*it;
}

class reader {
 public:
  explicit reader(const std::vector<option>& options) : options_(options) {
    for (const option& o : options) values_[o.name] = o.initial;
  }

  void take(const option& o, std::string_view text, const std::string& where) {
    if (auto rule = broken_rule(o, text)) {
      mistake(where + ": " + o.name + ' ' + *rule + ", not \"" + std::string(text) + '"');
    } else {
      values_[o.name] = text;
    }
  }

  void mistake(std::string text) { mistakes_ += std::move(text) + '\n'; }

  void file(const std::string& path) {
    try {
      const YAML::Node root = YAML::LoadFile(path);
      if (!root.IsNull()) node(path, root, {});
    } catch (const YAML::BadFile&) {
      mistake(path + ": cannot be read");
    } catch (const YAML::Exception& e) {
      mistake(at(path, e.mark) + ": " + e.msg);
    }
  }

  void environment(const std::vector<std::string>& entries) {
    for (const option& o : options_) {
      const std::string prefix = variable_of(o.name) + '=';
      for (const std::string& entry : entries) {
        if (entry.starts_with(prefix)) take(o, std::string_view(entry).substr(prefix.size()), variable_of(o.name));
      }
    }
  }

  values values_;
  std::string mistakes_;

 private:
  static std::string at(const std::string& path, const YAML::Mark& mark) {
    return path + ':' + std::to_string(mark.line + 1) + ':' + std::to_string(mark.column + 1);
  }

  void node(const std::string& path, const YAML::Node& here, const std::string& name) {
    if (here.IsMap()) {
      for (const auto& entry : here) {
        const std::string key = entry.first.IsScalar() ? entry.first.Scalar() : std::string("?");
        const std::string full = name.empty() ? key : name + '.' + key;
        const bool leads_somewhere = std::ranges::any_of(
            options_, [&](const option& o) { return o.name == full || o.name.starts_with(full + '.'); });
        if (leads_somewhere) {
          node(path, entry.second, full);
        } else {
          mistake(at(path, entry.first.Mark()) + ": there is no option " + full);
        }
      }
      return;
    }
    const option* o = find(options_, name);
    if (!o || !here.IsScalar()) {
      mistake(at(path, here.Mark()) + ": " + (name.empty() ? "the file" : name) + " must be " +
              (o ? "a value" : "a map of options"));
      return;
    }
    if (!seen_.emplace(name, "").second) mistake(at(path, here.Mark()) + ": " + name + " stands here twice");
    take(*o, here.Scalar(), at(path, here.Mark()));
  }

  const std::vector<option>& options_;
  values seen_;
};

}  // namespace

std::expected<config, config::refusal> config::read(std::string_view program, const std::vector<option>& options,
                                                    const std::vector<std::string>& arguments,
                                                    const std::vector<std::string>& environment) {
  reader in(options);
  std::string file;
  static constexpr std::string_view file_variable = "RESILIENCE_CONFIG=";
  for (const std::string& entry : environment) {
    if (entry.starts_with(file_variable)) file = entry.substr(file_variable.size());
  }
  std::vector<std::pair<const option*, std::string>> flags;
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    const std::string& argument = arguments[i];
    if (argument == "--help" || argument == "-h") return std::unexpected(refusal{0, help(program, options)});
    const std::size_t equals = argument.find('=');
    const std::string flag = argument.substr(0, equals);
    const auto known = std::ranges::find(options, flag, [](const option& o) { return flag_of(o.name); });
    if (flag != "--config" && known == options.end()) {
      in.mistake(flag + ": there is no such option; --help lists them");
      continue;
    }
    if (equals == std::string::npos && i + 1 == arguments.size()) {
      in.mistake(flag + ": a value must follow");
      continue;
    }
    std::string value = equals == std::string::npos ? arguments[++i] : argument.substr(equals + 1);
    if (flag == "--config") {
      file = std::move(value);
    } else {
      flags.emplace_back(&*known, std::move(value));
    }
  }
  if (!file.empty()) in.file(file);
  in.environment(environment);
  for (const auto& [o, value] : flags) in.take(*o, value, flag_of(o->name));
  if (!in.mistakes_.empty()) return std::unexpected(refusal{2, std::move(in.mistakes_)});

  config result;
  result.values_ = std::move(in.values_);
  for (const option& o : options) result.kinds_[o.name] = o.kind;
  return result;
}

const std::string& config::value(std::string_view name, option::type kind) const {
  const auto known = kinds_.find(name);
  if (known == kinds_.end() || known->second != kind) {
    throw std::logic_error("no option " + std::string(name) + " of this type");
  }
  return values_.find(name)->second;
}

const std::string& config::text(std::string_view name) const { return value(name, option::type::text); }

std::int64_t config::integer(std::string_view name) const {
  return integer_of(value(name, option::type::integer)).value_or(0);
}

bool config::boolean(std::string_view name) const { return value(name, option::type::boolean) == "true"; }

}  // namespace common
