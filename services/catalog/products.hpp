#pragma once
/// The products in the store, with an index for every order that a page can have.

#include <cstdint>
#include <expected>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "catalog/product.hpp"
#include "common/http/paging.hpp"
#include "common/store/store.hpp"

namespace catalog {

/// The names that pages may be sorted by; the first is the default.
inline constexpr std::initializer_list<std::string_view> sortable{"id",          "productCode", "productName",
                                                                  "description", "imageUrl",    "price"};

/// Bounds are inclusive; what is missing lets everything through.
struct search_terms {
  std::string term{};  ///< In the name or the description, without regard to case.
  std::optional<common::money> least{}, most{};
};

struct product_page {
  std::int64_t total = 0;
  std::vector<product> rows;
};

/// Every write is on disk when it returns, and seen by the next read. Every member throws store_error when the disk
/// fails. Threads: any; writes one after another.
class products {
 public:
  explicit products(std::unique_ptr<common::store::store> kept, common::store::durability lasting);

  [[nodiscard]] std::optional<product> find(std::int64_t id) const;
  [[nodiscard]] std::optional<product> find_code(std::string_view code) const;

  /// The product, and whether it is new: a code that is there already keeps its product unchanged.
  std::pair<product, bool> add(const product_data& data);
  enum class refusal : std::uint8_t { unknown, code_taken };
  std::expected<product, refusal> change(std::int64_t id, const product_data& data);
  /// Whether it was there.
  bool remove(std::int64_t id);
  /// Adds this many products with codes of their own, in one write.
  void generate(std::int64_t count);

  /// Cost: a look at every index entry before the page, then its rows.
  [[nodiscard]] product_page list(const common::http::page_request& page) const;
  /// Cost: a look at every row.
  [[nodiscard]] product_page search(const search_terms& terms, const common::http::page_request& page) const;

 private:
  using filter = std::function<bool(const product&)>;
  product_page select(const common::store::reader& from, const common::http::page_request& page,
                      const filter& wanted) const;

  std::unique_ptr<common::store::store> store_;
  common::store::durability lasting_;
  std::mutex writing_;
};

}  // namespace catalog
