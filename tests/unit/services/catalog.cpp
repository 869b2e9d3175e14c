#include "catalog/catalog.hpp"

#include <stdlib.h>

#include <boost/json.hpp>
#include <catch2/catch.hpp>
#include <filesystem>
#include <random>
#include <set>

#include "catalog/products.hpp"
#include "common/http/paging.hpp"
#include "common/store/rocksdb_store.hpp"

namespace fs = std::filesystem;
using catalog::product;
using catalog::product_data;
using catalog::products;
using common::money;
using common::http::page_request;

namespace {

class scratch {
 public:
  scratch() {
    std::string name = (fs::temp_directory_path() / "catalog-XXXXXX").string();
    path_ = ::mkdtemp(name.data());
  }
  ~scratch() { fs::remove_all(path_); }
  scratch(const scratch&) = delete;
  scratch& operator=(const scratch&) = delete;
  [[nodiscard]] std::string path() const { return path_.string(); }
  [[nodiscard]] products open() const {
    auto db = common::store::open_rocksdb(path(), {.owner = "catalog-service", .version = 1});
    if (!db.has_value()) FAIL(db.error());
    return products(std::move(*db), common::store::durability::process);
  }

 private:
  fs::path path_;
};

product_data data(std::string code, std::string name, std::int64_t minor) {
  return {std::move(code), std::move(name), "About it", "http://x/y.png", money{minor}};
}

std::vector<std::int64_t> ids(const catalog::product_page& page) {
  std::vector<std::int64_t> found;
  for (const product& p : page.rows) found.push_back(p.id);
  return found;
}

}  // namespace

TEST_CASE("the description of the API names every route, and no other", "[catalog]") {
  const scratch folder;
  const auto definition = catalog::service();
  auto options = common::service_options(definition.port);
  options.insert(options.end(), definition.options.begin(), definition.options.end());
  const auto settings = common::config::read("test", options, {"--data", folder.path()}, {});
  REQUIRE(settings.has_value());
  prometheus::Registry metrics;
  resilience::prometheus_exporter policies;
  common::http::server server;
  common::service_context context{*settings, server, metrics, policies};
  const auto running = definition.make(context);
  common::add_standard_routes(server.routes(), definition.openapi, server, [] { return nullptr; }, metrics, policies);

  std::set<std::string> served;
  for (const auto& route : server.routes().routes()) served.insert(route.method + ' ' + route.pattern);
  std::set<std::string> described;
  const auto document = boost::json::parse({definition.openapi.data(), definition.openapi.size()});
  for (const auto& [path, methods] : document.at("paths").as_object()) {
    for (const auto& method : methods.as_object()) {
      std::string name(method.key());
      for (char& c : name) c = static_cast<char>(std::toupper(c));
      described.insert(name + ' ' + std::string(path));
    }
  }
  CHECK(served == described);
}

TEST_CASE("a code has one product, and keeps it over a reopening", "[catalog]") {
  const scratch folder;
  {
    products all = folder.open();
    const auto [first, added] = all.add(data("A", "One", 100));
    CHECK(added);
    CHECK(first.id == 1);
    const auto [same, again] = all.add(data("A", "Other", 200));
    CHECK_FALSE(again);
    CHECK(same.name == "One");
    all.add(data("B", "Two", 200));
    CHECK(all.change(2, data("A", "Two", 200)).error() == products::refusal::code_taken);
    CHECK(all.change(9, data("Z", "Two", 200)).error() == products::refusal::unknown);
    CHECK(all.change(2, data("C", "Three", 300)).has_value());
    CHECK_FALSE(all.find_code("B").has_value());
    CHECK(all.remove(1));
    CHECK_FALSE(all.remove(1));
  }
  products all = folder.open();
  CHECK_FALSE(all.find(1).has_value());
  CHECK(all.find_code("C")->price == money{300});
  CHECK(all.add(data("A", "One", 100)).first.id == 3);  // ids are not used again
  CHECK(all.list({}).total == 2);
}

TEST_CASE("pages in every order are what sorting all rows gives", "[catalog]") {
  const auto seed = std::random_device{}();
  INFO("seed " << seed);
  std::mt19937 random(seed);
  const scratch folder;
  products all = folder.open();
  std::vector<product> model;
  const std::vector<std::string> names{"a", std::string("a\0", 2), "aa", "b", "é", "z z"};
  for (int n = 0; n < 40; ++n) {
    product_data d{"code" + std::to_string(random() % 1000), names[random() % names.size()],
                   names[random() % names.size()], names[random() % names.size()],
                   money{static_cast<std::int64_t>(1 + random() % 5)}};
    const auto [p, added] = all.add(d);
    if (added) model.push_back(p);
    if (random() % 5 == 0) {
      const std::size_t victim = random() % model.size();
      CHECK(all.remove(model[victim].id));
      model.erase(model.begin() + static_cast<std::ptrdiff_t>(victim));
    }
  }
  for (const std::string_view by : catalog::sortable) {
    for (const bool down : {false, true}) {
      const auto key = [&](const product& p) -> std::string {
        if (by == "productCode") return p.code;
        if (by == "productName") return p.name;
        if (by == "description") return p.description;
        if (by == "imageUrl") return p.image_url;
        char digits[24];
        std::snprintf(digits, sizeof digits, "%020lld", static_cast<long long>(by == "price" ? p.price.minor : p.id));
        return digits;
      };
      auto sorted = model;
      std::ranges::sort(sorted, [&](const product& a, const product& b) {
        if (key(a) == key(b)) return a.id < b.id;
        return down ? key(a) > key(b) : key(a) < key(b);
      });
      std::vector<std::int64_t> paged;
      for (std::int64_t number = 0; paged.size() < sorted.size(); ++number) {
        const auto page = all.list({.number = number, .size = 7, .sort_by = std::string(by), .descending = down});
        CHECK(page.total == static_cast<std::int64_t>(model.size()));
        REQUIRE_FALSE(page.rows.empty());
        for (const std::int64_t id : ids(page)) paged.push_back(id);
      }
      std::vector<std::int64_t> expected;
      for (const product& p : sorted) expected.push_back(p.id);
      INFO(by << (down ? " desc" : " asc"));
      CHECK(paged == expected);
      const auto found = all.search({}, {.number = 1, .size = 7, .sort_by = std::string(by), .descending = down});
      CHECK(found.total == static_cast<std::int64_t>(model.size()));
      CHECK(ids(found) == ids(all.list({.number = 1, .size = 7, .sort_by = std::string(by), .descending = down})));
    }
  }
  CHECK(all.list({.number = 2147483647, .size = 100, .sort_by = "id"}).rows.empty());
}

TEST_CASE("a search looks at name and description in either case, and at prices on both bounds", "[catalog]") {
  const scratch folder;
  products all = folder.open();
  all.add({"A", "Éclair au CHOCOLAT", "sweet", "u", money{250}});
  all.add({"B", "Bread", "with chocolate in it", "u", money{300}});
  all.add({"C", "Salt", "salty", "u", money{100}});
  const page_request page{.sort_by = "id"};
  CHECK(ids(all.search({.term = "chocolat"}, page)) == std::vector<std::int64_t>{1, 2});
  CHECK(ids(all.search({.term = "éCLAIR"}, page)) == std::vector<std::int64_t>{1});
  CHECK(ids(all.search({.term = "", .least = money{100}, .most = money{250}}, page)) ==
        std::vector<std::int64_t>{1, 3});
  CHECK(ids(all.search({.term = "", .least = money{101}, .most = money{249}}, page)).empty());
}

TEST_CASE("generated products have codes of their own", "[catalog]") {
  const scratch folder;
  products all = folder.open();
  all.add(data("SAMPLE-3", "By hand", 1));
  all.generate(5);
  CHECK(all.list({.sort_by = "id"}).total == 6);
  CHECK(all.find_code("SAMPLE-3")->name == "By hand");
  all.generate(2);
  CHECK(all.list({.sort_by = "id"}).total == 8);
}

TEST_CASE("a page says where it stands", "[paging]") {
  const auto page = [](std::int64_t number, std::int64_t total) {
    const page_request which{.number = number, .size = 10, .sort_by = "id"};
    return boost::json::parse(common::http::page_json(which, total, {})).as_object();
  };
  const auto flags = [&](std::int64_t number, std::int64_t total) {
    const auto p = page(number, total);
    std::string text;
    for (const char* name : {"isFirst", "isLast", "hasNext", "hasPrevious"}) text += p.at(name).as_bool() ? '1' : '0';
    return text;
  };
  CHECK(flags(0, 0) == "1100");
  CHECK(flags(0, 10) == "1100");
  CHECK(flags(0, 11) == "1010");
  CHECK(flags(1, 11) == "0101");
  CHECK(flags(1, 21) == "0011");
  CHECK(flags(7, 21) == "0101");
  CHECK(page(0, 0).at("totalPages") == 0);
  CHECK(page(2, 21).at("totalPages") == 3);
  CHECK(page(2, 21).at("pageNumber") == 3);
}

TEST_CASE("each parameter of a page that breaks its bound is told", "[paging]") {
  const auto wrong_fields = [](common::http::pairs query) {
    common::http::request in{.query = std::move(query)};
    common::http::violations wrong;
    common::http::read_page(in, catalog::sortable, wrong);
    std::set<std::string> fields;
    for (const auto& v : wrong) fields.insert(v.field);
    return fields;
  };
  using fields = std::set<std::string>;
  CHECK(wrong_fields({}).empty());
  CHECK(wrong_fields({{"pageNo", "0"}, {"pageSize", "1"}, {"sortBy", "price"}, {"sortDir", "desc"}}).empty());
  CHECK(wrong_fields({{"pageSize", "100"}}).empty());
  CHECK(wrong_fields({{"pageNo", "-1"}, {"pageSize", "101"}, {"sortBy", "nothing"}, {"sortDir", "up"}}) ==
        fields{"pageNo", "pageSize", "sortBy", "sortDir"});
  CHECK(wrong_fields({{"pageNo", ""}, {"pageSize", "0"}}) == fields{"pageNo", "pageSize"});
  CHECK(wrong_fields({{"pageNo", "1.0"}, {"pageSize", "ten"}, {"sortDir", "ASC"}}) ==
        fields{"pageNo", "pageSize", "sortDir"});
  CHECK(wrong_fields({{"pageNo", "99999999999999999999"}}) == fields{"pageNo"});
}
