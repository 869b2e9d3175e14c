#pragma once
/// Reads JSON bodies strictly, and says everything that is wrong with one at once.
///
///     auto body = read_json(in.body, "product");
///     if (!body) return bad_request(in, body.error());
///     violations wrong;
///     json_object product(body->root(), "product", wrong);
///     const auto code = product.text("productCode");
///     const auto price = product.amount("price", money{1});
///     if (!wrong.empty()) return bad_request(in, wrong);

#include <cstdint>
#include <expected>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/http/problem.hpp"
#include "common/money.hpp"

namespace common {

enum class json_kind : std::uint8_t { null, boolean, number, string, array, object };

class json_document;

/// One value of a document; valid as long as that is. Copied freely.
class json_value {
 public:
  [[nodiscard]] json_kind kind() const noexcept;
  /// A string's characters; a number as it was written; "true", "false", "null".
  [[nodiscard]] std::string_view text() const noexcept;
  /// The member's name; empty for an element of an array.
  [[nodiscard]] std::string_view name() const noexcept;
  /// Members of an object or elements of an array, in order.
  [[nodiscard]] std::vector<json_value> children() const;
  [[nodiscard]] std::optional<json_value> find(std::string_view name) const;
  /// As JSON text without spaces, the members in the order of their names' bytes and numbers as they were written, so
  /// that two bodies are the same value (but for the spelling of a number) when their texts are the same.
  [[nodiscard]] std::string canonical() const;

 private:
  friend class json_document;
  json_value(const json_document& document, std::uint32_t index) : document_(&document), index_(index) {}
  const json_document* document_;
  std::uint32_t index_;
};

/// A parsed body: a flat list of values, 28 bytes each, and one string with all their characters.
class json_document {
 public:
  struct node {
    std::uint32_t parent = 0;
    std::uint32_t end = 0;  ///< The index after its last descendant.
    std::uint32_t name_at = 0, name_size = 0;
    std::uint32_t text_at = 0, text_size = 0;
    json_kind kind = json_kind::null;
  };

  [[nodiscard]] json_value root() const noexcept { return {*this, 0}; }
  /// Where it stands, as violations name it: `items[0].quantity`.
  [[nodiscard]] std::string path(std::uint32_t index) const;

 private:
  friend class json_value;
  friend class json_builder;
  [[nodiscard]] std::string_view slice(std::uint32_t at, std::uint32_t size) const noexcept {
    return std::string_view(characters_).substr(at, size);
  }
  std::vector<node> nodes_;
  std::string characters_;
};

/// Parses RFC 8259 text in UTF-8, nested at most 64 deep, no member twice in an object. What is wrong otherwise: one
/// violation of `object`, with field "" unless it is a repeated member. Cost: linear, but for sorting long objects.
std::expected<json_document, http::violations> read_json(std::string_view body, std::string_view object);

/// Reads the members of an object, and adds a violation for each that breaks its rule; members it is not asked for are
/// ignored. Null is the same as missing. What is not an object is one violation, and each member then reads as nothing.
class json_object {
 public:
  /// `object` names the kind of thing in violations; both references must outlive it.
  json_object(json_value value, std::string object, http::violations& wrong, std::string path = {});

  /// 1 to `most` characters, not blank.
  std::optional<std::string> text(std::string_view name, std::size_t most = 255);
  std::optional<std::string> optional_text(std::string_view name, std::size_t most = 255);
  /// A whole number, written as one.
  std::optional<std::int64_t> integer(std::string_view name, std::int64_t least,
                                      std::int64_t most = std::numeric_limits<std::int64_t>::max());
  /// An amount of at most two decimals.
  std::optional<money> amount(std::string_view name, money least,
                              money most = {std::numeric_limits<std::int64_t>::max()});
  /// The object under `name`.
  std::optional<json_object> object(std::string_view name);
  /// The objects in the array under `name`, which has `least` to `most` of them.
  std::vector<json_object> objects(std::string_view name, std::size_t least, std::size_t most);
  /// Whether there is something other than null under `name`.
  [[nodiscard]] bool has(std::string_view name) const;

  /// Adds a violation of the member, with its present value: for rules that only the caller knows.
  void reject(std::string_view name, std::string message);

 private:
  [[nodiscard]] std::optional<json_value> member(std::string_view name) const;
  std::optional<json_value> required(std::string_view name);
  std::optional<std::string> checked_text(std::string_view name, json_value value, std::size_t most);
  [[nodiscard]] std::string path_of(std::string_view name) const;

  std::optional<json_value> value_;
  std::string object_;
  http::violations* wrong_;
  std::string path_;
  bool usable_ = false;  // it is an object
};

/// What a client sent, as JSON for violation::rejected: a short number as it stands, everything else as text.
std::string rejected_value(std::optional<json_value> value);

}  // namespace common
