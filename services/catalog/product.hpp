#pragma once
/// What the catalogue sells.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "common/money.hpp"

namespace catalog {

/// What a client says of a product.
struct product_data {
  std::string code;
  std::string name;
  std::string description;
  std::string image_url;
  common::money price;
};

struct product : product_data {
  std::int64_t id = 0;
};

/// As a row of the store keeps it; the id is in the key.
std::string encode(const product_data& p);
/// The reverse. Throws common::store::store_error for what `encode` does not write.
product decode(std::int64_t id, std::string_view row);

/// As the API shows it; `in_stock` is left out where it is not known.
std::string to_json(const product& p, std::optional<bool> in_stock = std::nullopt);

}  // namespace catalog
