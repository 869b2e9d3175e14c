#include "catalog/product.hpp"

#include "common/json_writer.hpp"
#include "common/store/keys.hpp"
#include "common/store/store.hpp"

namespace catalog {
namespace {

constexpr char row_version = 1;

void append_text(std::string& row, std::string_view text) {
  common::store::append_u32(row, static_cast<std::uint32_t>(text.size()));
  row += text;
}

std::string take_text(std::string_view& row) {
  const std::uint32_t size = common::store::take_u32(row);
  if (size > row.size()) throw common::store::store_error("a product's row is too short");
  std::string text(row.substr(0, size));
  row.remove_prefix(size);
  return text;
}

}  // namespace

std::string encode(const product_data& p) {
  std::string row(1, row_version);
  common::store::append_u64(row, static_cast<std::uint64_t>(p.price.minor));
  for (const std::string* text : {&p.code, &p.name, &p.description, &p.image_url}) append_text(row, *text);
  return row;
}

product decode(std::int64_t id, std::string_view row) {
  if (row.empty() || row.front() != row_version)
    throw common::store::store_error("a product's row has another version");
  row.remove_prefix(1);
  product p;
  p.id = id;
  p.price.minor = static_cast<std::int64_t>(common::store::take_u64(row));
  for (std::string* text : {&p.code, &p.name, &p.description, &p.image_url}) *text = take_text(row);
  return p;
}

std::string to_json(const product& p, std::optional<bool> in_stock) {
  common::json_writer w;
  w.begin_object();
  w.member("id", p.id).member("productCode", p.code).member("productName", p.name);
  w.member("description", p.description).member("imageUrl", p.image_url);
  w.raw_member("price", to_string(p.price));
  if (in_stock) w.member("inStock", *in_stock);
  w.end_object();
  return std::move(w).text();
}

}  // namespace catalog
