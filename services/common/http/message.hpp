#pragma once
/// A request and a response as handlers see them: plain values, everything read and decoded.

#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace common::http {

/// Names and values in the order they came.
using pairs = std::vector<std::pair<std::string, std::string>>;

/// The first value under `name`, compared exactly.
std::optional<std::string_view> find(const pairs& in, std::string_view name) noexcept;
/// The first value under `name` without regard to ASCII's two cases, as header fields are compared.
std::optional<std::string_view> find_field(const pairs& in, std::string_view name) noexcept;

struct request {
  std::string method{};  ///< Upper case: GET. HEAD arrives as HEAD at a handler for GET.
  std::string target{};  ///< As sent.
  std::string path{};    ///< Without the query, decoded; well-formed UTF-8.
  pairs query{};         ///< Decoded; well-formed UTF-8.
  pairs fields{};        ///< Header fields; bytes as sent.
  pairs parameters{};    ///< What stood where the pattern has `{name}`, decoded.
  std::string body{};
  /// What the client sent as X-Correlation-Id, or one made here. Printable ASCII.
  std::string correlation_id{};

  [[nodiscard]] std::optional<std::string_view> field(std::string_view name) const noexcept {
    return find_field(fields, name);
  }
  [[nodiscard]] std::optional<std::string_view> query_value(std::string_view name) const noexcept {
    return find(query, name);
  }
  /// Empty where the pattern has no such parameter.
  [[nodiscard]] std::string_view parameter(std::string_view name) const noexcept {
    return find(parameters, name).value_or(std::string_view());
  }
};

struct response {
  int status = 200;
  std::string body{};
  std::string content_type = "application/json";
  /// Besides Content-Type, Content-Length, Date, Connection and X-Correlation-Id, which the server writes.
  pairs fields{};
};

/// 200 (or `status`) with a JSON body.
response json(std::string body, int status = 200);

}  // namespace common::http
