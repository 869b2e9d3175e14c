#include "catalog/products.hpp"

#include <algorithm>

#include "common/store/keys.hpp"
#include "common/text.hpp"

namespace catalog {
namespace {

using common::http::page_request;
using common::store::batch;
using common::store::reader;
namespace store = common::store;

// The first byte of a key says what it is.
//   p id                 -> the row
//   c code               -> id
//   n|d|u text id, $ price id -> nothing: the orders by name, description, image and price
//   m word               -> a number: "next" id, "count" of products
constexpr std::string_view rows = "p";
constexpr std::string_view codes = "c";
constexpr std::string_view next_key = "mnext";
constexpr std::string_view count_key = "mcount";

std::string number_text(std::int64_t value) {
  std::string text;
  store::append_u64(text, static_cast<std::uint64_t>(value));
  return text;
}

std::int64_t number_of(std::string_view text) { return static_cast<std::int64_t>(store::take_u64(text)); }

std::int64_t number_at(const reader& from, std::string_view key, std::int64_t otherwise) {
  const auto text = from.get(key);
  return text ? number_of(*text) : otherwise;
}

std::string row_key(std::int64_t id) { return std::string(rows) + number_text(id); }
std::string code_key(std::string_view code) { return std::string(codes) + std::string(code); }

std::string text_index(char kind, std::string_view text, std::int64_t id) {
  std::string key(1, kind);
  store::append_text(key, text);
  return key + number_text(id);
}

std::vector<std::string> index_keys(const product& p) {
  return {text_index('n', p.name, p.id), text_index('d', p.description, p.id), text_index('u', p.image_url, p.id),
          '$' + number_text(p.price.minor) + number_text(p.id)};
}

void put(batch& b, const product& p) {
  b.put(row_key(p.id), encode(p));
  b.put(code_key(p.code), number_text(p.id));
  for (std::string& key : index_keys(p)) b.put(std::move(key), {});
}

void erase(batch& b, const product& p) {
  b.erase(row_key(p.id));
  b.erase(code_key(p.code));
  for (std::string& key : index_keys(p)) b.erase(std::move(key));
}

std::optional<product> find_in(const reader& from, std::int64_t id) {
  const auto row = from.get(row_key(id));
  if (!row) return std::nullopt;
  return decode(id, *row);
}

char index_of(std::string_view sort_by) {
  if (sort_by == "productCode") return 'c';
  if (sort_by == "productName") return 'n';
  if (sort_by == "description") return 'd';
  if (sort_by == "imageUrl") return 'u';
  return sort_by == "price" ? '$' : 'p';
}

// Visits every id in the page's order; `visit` returns false to stop. Equal rows come by id in both directions, so
// going down, the ids of one value are gathered and turned round; `pending` holds 8 bytes for each.
void for_each_id(const reader& from, const page_request& page, const std::function<bool(std::int64_t)>& visit) {
  const char index = index_of(page.sort_by);
  const std::string first(1, index);
  const bool unique = index == 'p' || index == 'c';
  const auto id_of = [&](std::string_view key, std::string_view value) {
    return index == 'c' ? number_of(value) : number_of(key.substr(key.size() - sizeof(std::int64_t)));
  };
  if (!page.descending || unique) {
    const auto way = page.descending ? store::direction::descending : store::direction::ascending;
    from.scan(first, store::end_of(first), way,
              [&](std::string_view key, std::string_view value) { return visit(id_of(key, value)); });
    return;
  }
  std::string value_at_hand;
  std::vector<std::int64_t> pending;
  bool more = true;
  const auto flush = [&] {
    for (auto id = pending.rbegin(); more && id != pending.rend(); ++id) more = visit(*id);
    pending.clear();
  };
  from.scan(first, store::end_of(first), store::direction::descending,
            [&](std::string_view key, std::string_view value) {
              const std::string_view of = key.substr(0, key.size() - sizeof(std::int64_t));
              if (of != value_at_hand) {
                flush();
                value_at_hand = of;
              }
              pending.push_back(id_of(key, value));
              return more;
            });
  flush();
}

bool contains(std::string_view folded_term, std::string_view text) {
  return common::fold_case(text).find(folded_term) != std::string::npos;
}

}  // namespace

products::products(std::unique_ptr<store::store> kept, store::durability lasting)
    : store_(std::move(kept)), lasting_(lasting) {}

std::optional<product> products::find(std::int64_t id) const { return find_in(*store_, id); }

std::optional<product> products::find_code(std::string_view code) const {
  const auto from = store_->snapshot();
  const auto id = from->get(code_key(code));
  if (!id) return std::nullopt;
  return find_in(*from, number_of(*id));
}

std::pair<product, bool> products::add(const product_data& data) {
  const std::lock_guard lock(writing_);
  if (auto there = find_code(data.code)) return {std::move(*there), false};
  product added{data, number_at(*store_, next_key, 1)};
  batch b;
  put(b, added);
  b.put(std::string(next_key), number_text(added.id + 1));
  b.put(std::string(count_key), number_text(number_at(*store_, count_key, 0) + 1));
  store_->write(b, lasting_);
  return {std::move(added), true};
}

std::expected<product, products::refusal> products::change(std::int64_t id, const product_data& data) {
  const std::lock_guard lock(writing_);
  const auto before = find(id);
  if (!before) return std::unexpected(refusal::unknown);
  if (data.code != before->code && store_->get(code_key(data.code))) return std::unexpected(refusal::code_taken);
  product after{data, id};
  batch b;
  erase(b, *before);
  put(b, after);
  store_->write(b, lasting_);
  return after;
}

bool products::remove(std::int64_t id) {
  const std::lock_guard lock(writing_);
  const auto there = find(id);
  if (!there) return false;
  batch b;
  erase(b, *there);
  b.put(std::string(count_key), number_text(number_at(*store_, count_key, 0) - 1));
  store_->write(b, lasting_);
  return true;
}

void products::generate(std::int64_t count) {
  const std::lock_guard lock(writing_);
  std::int64_t id = number_at(*store_, next_key, 1);
  batch b;
  for (std::int64_t made = 0; made < count; ++id) {
    const std::string number = std::to_string(id);
    product sample;
    sample.id = id;
    sample.code = "SAMPLE-" + number;
    if (store_->get(code_key(sample.code))) continue;  // somebody chose this code by hand
    sample.name = "Sample product " + number;
    sample.description = "One of the products that were generated to try things out";
    sample.image_url = "https://example.com/images/" + number + ".png";
    sample.price.minor = 100 + id * 7919 % 50'000;
    put(b, sample);
    ++made;
  }
  b.put(std::string(next_key), number_text(id));
  b.put(std::string(count_key), number_text(number_at(*store_, count_key, 0) + count));
  store_->write(b, lasting_);
}

product_page products::select(const reader& from, const page_request& page, const filter& wanted) const {
  product_page found;
  const std::int64_t first = page.first_row();
  std::vector<std::int64_t> ids;
  std::int64_t passed = 0;
  for_each_id(from, page, [&](std::int64_t id) {
    if (wanted) {
      const auto row = find_in(from, id);
      if (!row || !wanted(*row)) return true;
    }
    if (passed >= first && passed < first + page.size) ids.push_back(id);
    ++passed;
    return wanted || passed < first + page.size;  // without a filter the total is known, and the page is enough
  });
  found.total = wanted ? passed : number_at(from, count_key, 0);
  for (const std::int64_t id : ids) {
    if (auto row = find_in(from, id)) found.rows.push_back(std::move(*row));
  }
  return found;
}

product_page products::list(const page_request& page) const {
  const auto from = store_->snapshot();
  // A page behind the end needs no walk to it.
  const std::int64_t total = number_at(*from, count_key, 0);
  if (page.first_row() >= total) return {.total = total, .rows = {}};
  return select(*from, page, {});
}

product_page products::search(const search_terms& terms, const page_request& page) const {
  const auto from = store_->snapshot();
  const std::string term = common::fold_case(terms.term);
  return select(*from, page, [&](const product& p) {
    if (terms.least && p.price < *terms.least) return false;
    if (terms.most && p.price > *terms.most) return false;
    return contains(term, p.name) || contains(term, p.description);
  });
}

}  // namespace catalog
