#include "catalog/catalog.hpp"

#include <algorithm>
#include <charconv>

#include "catalog/products.hpp"
#include "catalog/stock.hpp"
#include "catalog_openapi.hpp"
#include "common/json.hpp"
#include "common/json_writer.hpp"
#include "common/store/rocksdb_store.hpp"

namespace catalog {
namespace {

namespace asio = boost::asio;
namespace http = common::http;
using common::money;
using http::request;
using http::response;
using http::violations;

const std::string base = "/catalog-service/api/catalog";

// Ids are written as they are shown; anything else is no product's path.
std::optional<std::int64_t> id_of(const request& in) {
  const std::string_view text = in.parameter("id");
  std::int64_t id = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), id);
  if (error != std::errc() || end != text.data() + text.size() || id < 1 || text.starts_with('0')) return std::nullopt;
  return id;
}

response not_found(const request& in) { return http::problem(in, 404, "There is no such product"); }

std::expected<product_data, response> read_product(const request& in) {
  const auto body = common::read_json(in.body, "product");
  if (!body) return std::unexpected(http::bad_request(in, body.error()));
  violations wrong;
  common::json_object object(body->root(), "product", wrong);
  const auto code = object.text("productCode");
  const auto name = object.text("productName");
  const auto description = object.text("description");
  const auto image = object.text("imageUrl");
  const auto price = object.amount("price", money{1});
  if (!wrong.empty()) return std::unexpected(http::bad_request(in, std::move(wrong)));
  return product_data{*code, *name, *description, *image, *price};
}

class catalog_application final : public common::application {
 public:
  catalog_application(common::service_context& context, std::unique_ptr<common::store::store> kept)
      : products_(std::move(kept), context.settings.boolean("store.sync") ? common::store::durability::machine
                                                                          : common::store::durability::process),
        stock_(context.server.executor(), context.settings.text("inventory.url"),
               std::chrono::milliseconds(context.settings.integer("inventory.timeout-ms"))),
        workers_(context.server.workers()) {
    stock_.export_to(context.policies);
    add_routes(context.server.routes());
  }

  void describe(resilience::health_report& health) const override {
    stock_.describe(health);
    health.add("store", "products", {"UP", "{}"});
  }

 private:
  void add_routes(http::router& routes) {
    routes.add("GET", base, [this](const request& in) { return list(in); });
    routes.add("GET", base + "/search", [this](const request& in) { return search(in); });
    routes.add("GET", base + "/id/{id}", [this](const request& in) { return by_id(in); });
    routes.add("GET", base + "/product-code/{code}", [this](const request& in) { return by_code(in); });
    routes.add("GET", base + "/exists", [this](const request& in) { return exists(in); });
    routes.add("POST", base, [this](const request& in) { return add(in); });
    routes.add("POST", base + "/generate", [this](const request& in) { return generate(in); }).takes_json = false;
    routes.add("PUT", base + "/{id}", [this](const request& in) { return change(in); });
    routes.add("DELETE", base + "/{id}", [this](const request& in) { return remove(in); });
  }

  // Rows as JSON, with `inStock` where it was asked for and is known; else the answer gets a warning.
  struct shown {
    std::vector<std::string> rows;
    bool stock_unknown = false;
  };
  asio::awaitable<shown> show(std::vector<product> found, bool fetch_stock) {
    shown result;
    std::optional<std::map<std::string, bool>> in_stock;
    if (fetch_stock && !found.empty()) {
      std::vector<std::string> codes;
      for (const product& p : found) codes.push_back(p.code);
      in_stock = co_await stock_.in_stock(std::move(codes));
      result.stock_unknown = !in_stock.has_value();
    }
    for (const product& p : found) {
      std::optional<bool> there;
      if (in_stock) there = in_stock->at(p.code);
      result.rows.push_back(to_json(p, there));
    }
    co_return result;
  }

  static response with_warning(response answer, bool stock_unknown) {
    if (stock_unknown) {
      answer.fields.emplace_back("Warning", "199 catalog-service \"inStock is not known: inventory cannot be asked\"");
    }
    return answer;
  }

  asio::awaitable<response> page(http::page_request which, product_page found, bool fetch_stock) {
    const std::int64_t total = found.total;
    shown s = co_await show(std::move(found.rows), fetch_stock);
    co_return with_warning(http::json(http::page_json(which, total, s.rows)), s.stock_unknown);
  }

  asio::awaitable<response> list(const request& in) {
    violations wrong;
    const http::page_request which = http::read_page(in, sortable, wrong);
    const bool fetch_stock = http::query_boolean(in, "fetchInStock", true, wrong);
    if (!wrong.empty()) co_return http::bad_request(in, std::move(wrong));
    auto look = [this, which] { return products_.list(which); };
    product_page found = co_await http::offload(workers_, std::move(look));
    response answer = co_await page(which, std::move(found), fetch_stock);
    co_return answer;
  }

  asio::awaitable<response> search(const request& in) {
    violations wrong;
    const http::page_request which = http::read_page(in, sortable, wrong);
    const bool fetch_stock = http::query_boolean(in, "fetchInStock", true, wrong);
    search_terms terms;
    terms.term = in.query_value("term").value_or(std::string_view());
    terms.least = http::query_amount(in, "minPrice", wrong);
    terms.most = http::query_amount(in, "maxPrice", wrong);
    if (!wrong.empty()) co_return http::bad_request(in, std::move(wrong));
    auto look = [this, which, terms] { return products_.search(terms, which); };
    product_page found = co_await http::offload(workers_, std::move(look));
    response answer = co_await page(which, std::move(found), fetch_stock);
    co_return answer;
  }

  asio::awaitable<response> one(const request& in, std::optional<product> found, bool fetch_stock) {
    if (!found) co_return not_found(in);
    std::vector<product> rows{std::move(*found)};
    shown s = co_await show(std::move(rows), fetch_stock);
    co_return with_warning(http::json(s.rows.front()), s.stock_unknown);
  }

  asio::awaitable<response> by_id(const request& in) {
    violations wrong;
    const bool fetch_stock = http::query_boolean(in, "fetchInStock", true, wrong);
    if (!wrong.empty()) co_return http::bad_request(in, std::move(wrong));
    const auto id = id_of(in);
    if (!id) co_return not_found(in);
    auto look = [this, id] { return products_.find(*id); };
    std::optional<product> found = co_await http::offload(workers_, std::move(look));
    response answer = co_await one(in, std::move(found), fetch_stock);
    co_return answer;
  }

  asio::awaitable<response> by_code(const request& in) {
    violations wrong;
    const bool fetch_stock = http::query_boolean(in, "fetchInStock", false, wrong);
    if (!wrong.empty()) co_return http::bad_request(in, std::move(wrong));
    auto look = [this, code = std::string(in.parameter("code"))] { return products_.find_code(code); };
    std::optional<product> found = co_await http::offload(workers_, std::move(look));
    response answer = co_await one(in, std::move(found), fetch_stock);
    co_return answer;
  }

  response exists(const request& in) const {
    std::vector<std::string_view> codes;
    std::string_view rest = in.query_value("productCodes").value_or(std::string_view());
    while (!rest.empty()) {
      const std::size_t comma = std::min(rest.find(','), rest.size());
      if (comma > 0) codes.push_back(rest.substr(0, comma));
      rest.remove_prefix(std::min(comma + 1, rest.size()));
    }
    if (codes.empty()) {
      violations wrong;
      wrong.push_back({"query", "productCodes", "null", "must name at least one code"});
      return http::bad_request(in, std::move(wrong));
    }
    std::ranges::sort(codes);
    const auto repeated = std::ranges::unique(codes);
    codes.erase(repeated.begin(), repeated.end());
    const bool all =
        std::ranges::all_of(codes, [&](std::string_view code) { return products_.find_code(code).has_value(); });
    return http::json(all ? R"({"exists":true})" : R"({"exists":false})");
  }

  response add(const request& in) {
    const auto data = read_product(in);
    if (!data) return data.error();
    const auto [kept, is_new] = products_.add(*data);
    response answer = http::json(to_json(kept), is_new ? 201 : 200);
    answer.fields.emplace_back("Location", base + "/id/" + std::to_string(kept.id));
    return answer;
  }

  response generate(const request& in) {
    violations wrong;
    const std::int64_t count = http::query_integer(in, "batchSize", 100, 1, 10'000, wrong);
    if (!wrong.empty()) return http::bad_request(in, std::move(wrong));
    products_.generate(count);
    return http::json(R"({"generated": )" + std::to_string(count) + '}');
  }

  response change(const request& in) {
    const auto data = read_product(in);
    if (!data) return data.error();
    const auto id = id_of(in);
    if (!id) return not_found(in);
    const auto changed = products_.change(*id, *data);
    if (changed) return http::json(to_json(*changed));
    if (changed.error() == products::refusal::unknown) return not_found(in);
    return http::problem(in, 409, "Another product has this productCode");
  }

  response remove(const request& in) {
    const auto id = id_of(in);
    if (!id || !products_.remove(*id)) return not_found(in);
    response answer;
    answer.status = 204;
    return answer;
  }

  products products_;
  stock stock_;
  asio::any_io_executor workers_;
};

}  // namespace

common::service_definition service() {
  common::service_definition s;
  s.name = "catalog-service";
  s.port = 19080;
  s.openapi = catalog_openapi;
  using type = common::option::type;
  s.options = {
      {"data", "catalog-data", "Folder of the database; made where there is none.", type::text},
      {"store.sync", "true", "Whether a write is flushed to the disk before it is answered.", type::boolean},
      {"inventory.url", "http://127.0.0.1:18181", "Where inventory is asked for what is in stock.", type::text},
      {"inventory.timeout-ms", "500", "Milliseconds that one call to inventory may take, 1-60000.", type::integer, 1,
       60'000},
  };
  s.make = [](common::service_context& context) -> std::unique_ptr<common::application> {
    auto kept = common::store::open_rocksdb(context.settings.text("data"), {.owner = "catalog-service", .version = 1});
    if (!kept) throw common::startup_error(kept.error());
    return std::make_unique<catalog_application>(context, std::move(*kept));
  };
  return s;
}

}  // namespace catalog
