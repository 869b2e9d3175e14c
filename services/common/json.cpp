#include "common/json.hpp"

#include <algorithm>
#include <boost/json/basic_parser_impl.hpp>
#include <charconv>

#include "common/json_writer.hpp"
#include "common/text.hpp"

namespace common {
namespace {

constexpr std::size_t max_depth = 64;
constexpr std::size_t max_body = 64UL * 1024 * 1024;  // what the 32 bits of a node can surely hold
constexpr std::size_t rejected_characters = 256;

}  // namespace

// Takes the parser's events. Every number's characters are kept: a double would lose them.
class json_builder {
 public:
  using error_code = boost::json::error_code;
  using piece = boost::json::string_view;

  static constexpr std::size_t max_object_size = max_body;
  static constexpr std::size_t max_array_size = max_body;
  static constexpr std::size_t max_key_size = max_body;
  static constexpr std::size_t max_string_size = max_body;

  json_document document;
  // The second of two members of one name.
  std::optional<std::uint32_t> repeated;

  bool on_document_begin(error_code&) { return true; }
  bool on_document_end(error_code&) { return true; }
  bool on_object_begin(error_code&) { return open(json_kind::object); }
  bool on_object_end(std::size_t, error_code&) {
    note_repeated(open_);
    return close();
  }
  bool on_array_begin(error_code&) { return open(json_kind::array); }
  bool on_array_end(std::size_t, error_code&) { return close(); }
  bool on_key_part(piece s, std::size_t, error_code&) { return gather(s); }
  bool on_key(piece s, std::size_t, error_code&) {
    gather(s);
    name_at_ = begun_;
    name_size_ = static_cast<std::uint32_t>(document.characters_.size()) - begun_;
    begun_ = static_cast<std::uint32_t>(document.characters_.size());
    return true;
  }
  bool on_string_part(piece s, std::size_t, error_code&) { return gather(s); }
  bool on_string(piece s, std::size_t, error_code&) { return leaf(json_kind::string, s); }
  bool on_number_part(piece s, error_code&) { return gather(s); }
  bool on_int64(std::int64_t, piece s, error_code&) { return leaf(json_kind::number, s); }
  bool on_uint64(std::uint64_t, piece s, error_code&) { return leaf(json_kind::number, s); }
  bool on_double(double, piece s, error_code&) { return leaf(json_kind::number, s); }
  bool on_bool(bool truth, error_code&) { return leaf(json_kind::boolean, truth ? "true" : "false"); }
  bool on_null(error_code&) { return leaf(json_kind::null, "null"); }
  bool on_comment_part(piece, error_code&) { return true; }
  bool on_comment(piece, error_code&) { return true; }

 private:
  bool gather(piece s) {
    document.characters_.append(s.data(), s.size());
    return true;
  }

  json_document::node& add(json_kind kind) {
    json_document::node& n = document.nodes_.emplace_back();
    n.kind = kind;
    n.parent = open_;
    n.name_at = name_at_;
    n.name_size = std::exchange(name_size_, 0);
    n.end = static_cast<std::uint32_t>(document.nodes_.size());
    return n;
  }

  bool leaf(json_kind kind, piece last) {
    gather(last);
    json_document::node& n = add(kind);
    n.text_at = begun_;
    n.text_size = static_cast<std::uint32_t>(document.characters_.size()) - begun_;
    begun_ = static_cast<std::uint32_t>(document.characters_.size());
    return true;
  }

  bool open(json_kind kind) {
    add(kind);
    open_ = static_cast<std::uint32_t>(document.nodes_.size() - 1);
    return true;
  }

  bool close() {
    json_document::node& n = document.nodes_[open_];
    n.end = static_cast<std::uint32_t>(document.nodes_.size());
    open_ = n.parent;
    return true;
  }

  void note_repeated(std::uint32_t object) {
    if (repeated) return;
    const auto& nodes = document.nodes_;
    names_.clear();
    for (std::uint32_t i = object + 1; i < nodes.size(); i = nodes[i].end) names_.push_back(i);
    const auto name = [&](std::uint32_t i) { return document.slice(nodes[i].name_at, nodes[i].name_size); };
    std::ranges::sort(names_, [&](std::uint32_t a, std::uint32_t b) {
      const int order = name(a).compare(name(b));
      return order != 0 ? order < 0 : a < b;
    });
    const auto twice =
        std::ranges::adjacent_find(names_, [&](std::uint32_t a, std::uint32_t b) { return name(a) == name(b); });
    if (twice != names_.end()) repeated = *std::next(twice);
  }

  std::uint32_t open_ = 0;
  std::uint32_t begun_ = 0;  // where the characters of the key or leaf at hand begin
  std::uint32_t name_at_ = 0, name_size_ = 0;
  std::vector<std::uint32_t> names_;
};

json_kind json_value::kind() const noexcept { return document_->nodes_[index_].kind; }

std::string_view json_value::text() const noexcept {
  const auto& n = document_->nodes_[index_];
  return document_->slice(n.text_at, n.text_size);
}

std::string_view json_value::name() const noexcept {
  const auto& n = document_->nodes_[index_];
  return document_->slice(n.name_at, n.name_size);
}

std::vector<json_value> json_value::children() const {
  std::vector<json_value> found;
  const auto& nodes = document_->nodes_;
  for (std::uint32_t i = index_ + 1; i < nodes[index_].end; i = nodes[i].end) found.push_back({*document_, i});
  return found;
}

std::optional<json_value> json_value::find(std::string_view name) const {
  const auto& nodes = document_->nodes_;
  if (nodes[index_].kind != json_kind::object) return std::nullopt;
  for (std::uint32_t i = index_ + 1; i < nodes[index_].end; i = nodes[i].end) {
    if (document_->slice(nodes[i].name_at, nodes[i].name_size) == name) return json_value{*document_, i};
  }
  return std::nullopt;
}

std::string json_value::canonical() const {
  std::string out;
  switch (kind()) {
    case json_kind::string:
      append_json_string(out, text());
      break;
    case json_kind::array:
      for (const json_value& element : children()) out += (out.empty() ? "[" : ",") + element.canonical();
      out += out.empty() ? "[]" : "]";
      break;
    case json_kind::object: {
      std::vector<json_value> members = children();
      std::ranges::sort(members, {}, &json_value::name);
      for (const json_value& member : members) {
        out += out.empty() ? "{" : ",";
        append_json_string(out, member.name());
        out += ':' + member.canonical();
      }
      out += out.empty() ? "{}" : "}";
      break;
    }
    default:
      out = text();
  }
  return out;
}

std::string json_document::path(std::uint32_t index) const {
  if (index == 0) return {};
  const node& n = nodes_[index];
  std::string above = path(n.parent);
  if (nodes_[n.parent].kind == json_kind::object) {
    return above + (above.empty() ? "" : ".") + std::string(slice(n.name_at, n.name_size));
  }
  std::size_t position = 0;
  for (std::uint32_t i = n.parent + 1; i < index; i = nodes_[i].end) ++position;
  return above + '[' + std::to_string(position) + ']';
}

std::expected<json_document, http::violations> read_json(std::string_view body, std::string_view object) {
  const auto refuse = [&](std::string message) {
    http::violation broken{.object = std::string(object), .message = std::move(message)};
    return std::unexpected(http::violations{std::move(broken)});
  };
  if (body.size() > max_body) return refuse("The body is too large");
  boost::json::parse_options strict;
  strict.max_depth = max_depth;
  boost::json::basic_parser<json_builder> parser(strict);
  boost::json::error_code ec;
  const std::size_t read = parser.write_some(false, body.data(), body.size(), ec);
  if (!ec && body.substr(read).find_first_not_of(" \t\r\n") != std::string_view::npos) {
    ec = boost::json::error::extra_data;
  }
  if (ec == boost::json::error::too_deep) return refuse("The body is nested deeper than 64 levels");
  if (ec || !parser.done()) {
    return refuse("The body is not JSON: " + (ec ? ec.message() : "incomplete") + " at byte " + std::to_string(read));
  }
  json_builder& built = parser.handler();
  if (built.repeated) {
    http::violation twice{.object = std::string(object),
                          .field = built.document.path(*built.repeated),
                          .message = "must not appear twice"};
    return std::unexpected(http::violations{std::move(twice)});
  }
  return std::move(built.document);
}

std::string rejected_value(std::optional<json_value> value) {
  if (!value) return "null";
  switch (value->kind()) {
    case json_kind::null:
    case json_kind::boolean:
      return std::string(value->text());
    case json_kind::number:
      return value->text().size() <= rejected_characters ? std::string(value->text())
                                                         : http::rejected_text(value->text());
    case json_kind::string:
      return http::rejected_text(value->text());
    default:
      return http::rejected_text(value->canonical());
  }
}

json_object::json_object(json_value value, std::string object, http::violations& wrong, std::string path)
    : object_(std::move(object)), wrong_(&wrong), path_(std::move(path)) {
  usable_ = value.kind() == json_kind::object;
  if (usable_) {
    value_ = value;
  } else {
    wrong_->push_back({object_, path_, rejected_value(value), "must be an object"});
  }
}

std::string json_object::path_of(std::string_view name) const {
  return path_.empty() ? std::string(name) : path_ + '.' + std::string(name);
}

void json_object::reject(std::string_view name, std::string message) {
  if (!usable_) return;
  wrong_->push_back({object_, path_of(name), rejected_value(member(name)), std::move(message)});
}

std::optional<json_value> json_object::member(std::string_view name) const {
  if (!usable_) return std::nullopt;
  const auto found = value_->find(name);
  return found && found->kind() != json_kind::null ? found : std::nullopt;
}

bool json_object::has(std::string_view name) const { return member(name).has_value(); }

std::optional<json_value> json_object::required(std::string_view name) {
  const auto found = member(name);
  if (!found) reject(name, "must be given");
  return found;
}

std::optional<std::string> json_object::checked_text(std::string_view name, json_value value, std::size_t most) {
  if (value.kind() != json_kind::string) {
    reject(name, "must be a string");
  } else if (is_blank(value.text())) {
    reject(name, "must not be blank");
  } else if (characters(value.text()) > most) {
    reject(name, "must have at most " + std::to_string(most) + " characters");
  } else {
    return std::string(value.text());
  }
  return std::nullopt;
}

std::optional<std::string> json_object::text(std::string_view name, std::size_t most) {
  const auto found = required(name);
  return found ? checked_text(name, *found, most) : std::nullopt;
}

std::optional<std::string> json_object::optional_text(std::string_view name, std::size_t most) {
  const auto found = member(name);
  return found ? checked_text(name, *found, most) : std::nullopt;
}

std::optional<std::int64_t> json_object::integer(std::string_view name, std::int64_t least, std::int64_t most) {
  const auto found = required(name);
  if (!found) return std::nullopt;
  const std::string_view digits = found->text();
  if (found->kind() != json_kind::number || digits.find_first_not_of("-0123456789") != std::string_view::npos) {
    reject(name, "must be a whole number");
    return std::nullopt;
  }
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  if (error != std::errc() || value < least || value > most) {
    reject(name, "must be between " + std::to_string(least) + " and " + std::to_string(most));
    return std::nullopt;
  }
  return value;
}

std::optional<money> json_object::amount(std::string_view name, money least, money most) {
  const auto found = required(name);
  if (!found) return std::nullopt;
  if (found->kind() != json_kind::number) {
    reject(name, "must be a number");
    return std::nullopt;
  }
  const auto value = parse_money(found->text());
  if (!value) {
    reject(name, std::string(value.error()));
    return std::nullopt;
  }
  if (*value < least || *value > most) {
    reject(name, "must be between " + to_string(least) + " and " + to_string(most));
    return std::nullopt;
  }
  return *value;
}

std::optional<json_object> json_object::object(std::string_view name) {
  const auto found = required(name);
  if (!found) return std::nullopt;
  json_object inner(*found, object_, *wrong_, path_of(name));
  if (!inner.usable_) return std::nullopt;
  return inner;
}

std::vector<json_object> json_object::objects(std::string_view name, std::size_t least, std::size_t most) {
  std::vector<json_object> found;
  const auto list = required(name);
  if (!list) return found;
  if (list->kind() != json_kind::array) {
    reject(name, "must be an array");
    return found;
  }
  const std::vector<json_value> elements = list->children();
  if (elements.size() < least || elements.size() > most) {
    reject(name, "must have " + std::to_string(least) + " to " + std::to_string(most) + " elements");
    return found;
  }
  const std::string path = path_of(name);
  for (std::size_t i = 0; i < elements.size(); ++i) {
    found.emplace_back(elements[i], object_, *wrong_, path + '[' + std::to_string(i) + ']');
  }
  return found;
}

}  // namespace common
