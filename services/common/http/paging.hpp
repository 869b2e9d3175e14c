#pragma once
/// Pages of a list, and the numbers in a query that ask for them.

#include <cstdint>
#include <initializer_list>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/http/problem.hpp"
#include "common/money.hpp"

namespace common::http {

/// The whole number under `name` in the query, `otherwise` where there is none; outside the bounds a violation of
/// "query" is added, and `otherwise` returned.
std::int64_t query_integer(const request& in, std::string_view name, std::int64_t otherwise, std::int64_t least,
                           std::int64_t most, violations& wrong);
/// true or false, in the same way.
bool query_boolean(const request& in, std::string_view name, bool otherwise, violations& wrong);
/// An amount that is not negative, if there is one, in the same way.
std::optional<money> query_amount(const request& in, std::string_view name, violations& wrong);

/// Which rows, and in which order; rows that are equal in it come in the order of their ids.
struct page_request {
  std::int64_t number = 0;  ///< From 0.
  std::int64_t size = 10;
  std::string sort_by;
  bool descending = false;

  [[nodiscard]] std::int64_t first_row() const noexcept { return number * size; }
};

/// pageNo, pageSize (1–100), sortBy (one of `sortable`; the first is the default) and sortDir (asc, desc).
page_request read_page(const request& in, std::initializer_list<std::string_view> sortable, violations& wrong);

/// The page as JSON; `rows` are JSON objects.
std::string page_json(const page_request& page, std::int64_t total, const std::vector<std::string>& rows);

}  // namespace common::http
