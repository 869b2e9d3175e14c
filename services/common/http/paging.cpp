#include "common/http/paging.hpp"

#include <algorithm>
#include <charconv>

#include "common/json_writer.hpp"

namespace common::http {
namespace {

void reject(violations& wrong, std::string_view field, std::string_view value, std::string message) {
  wrong.push_back({"query", std::string(field), rejected_text(value), std::move(message)});
}

}  // namespace

std::int64_t query_integer(const request& in, std::string_view name, std::int64_t otherwise, std::int64_t least,
                           std::int64_t most, violations& wrong) {
  const auto text = in.query_value(name);
  if (!text) return otherwise;
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(text->data(), text->data() + text->size(), value);
  if (error == std::errc() && end == text->data() + text->size() && value >= least && value <= most) return value;
  reject(wrong, name, *text,
         "must be a whole number between " + std::to_string(least) + " and " + std::to_string(most));
  return otherwise;
}

bool query_boolean(const request& in, std::string_view name, bool otherwise, violations& wrong) {
  const auto text = in.query_value(name);
  if (!text) return otherwise;
  if (*text == "true" || *text == "false") return *text == "true";
  reject(wrong, name, *text, "must be true or false");
  return otherwise;
}

std::optional<money> query_amount(const request& in, std::string_view name, violations& wrong) {
  const auto text = in.query_value(name);
  if (!text) return std::nullopt;
  const auto amount = parse_money(*text);
  if (amount && amount->minor >= 0) return *amount;
  reject(wrong, name, *text, amount ? "must not be negative" : std::string(amount.error()));
  return std::nullopt;
}

page_request read_page(const request& in, std::initializer_list<std::string_view> sortable, violations& wrong) {
  page_request page;
  page.number = query_integer(in, "pageNo", 0, 0, std::numeric_limits<std::int32_t>::max(), wrong);
  page.size = query_integer(in, "pageSize", 10, 1, 100, wrong);
  page.sort_by = in.query_value("sortBy").value_or(*sortable.begin());
  if (std::ranges::find(sortable, page.sort_by) == sortable.end()) {
    std::string known;
    for (const std::string_view s : sortable) known += (known.empty() ? "" : ", ") + std::string(s);
    reject(wrong, "sortBy", page.sort_by, "must be one of " + known);
  }
  const std::string_view way = in.query_value("sortDir").value_or("asc");
  page.descending = way == "desc";
  if (way != "asc" && way != "desc") reject(wrong, "sortDir", way, "must be asc or desc");
  return page;
}

std::string page_json(const page_request& page, std::int64_t total, const std::vector<std::string>& rows) {
  const std::int64_t pages = (total + page.size - 1) / page.size;
  const bool first = page.number == 0 || total == 0;
  const bool last = page.number + 1 >= pages;
  json_writer w;
  w.begin_object().key("data").begin_array();
  for (const std::string& row : rows) w.raw(row);
  w.end_array();
  w.member("totalElements", total).member("pageNumber", page.number + 1).member("totalPages", pages);
  w.member("isFirst", first).member("isLast", last).member("hasNext", !last).member("hasPrevious", !first);
  w.end_object();
  return std::move(w).text();
}

}  // namespace common::http
