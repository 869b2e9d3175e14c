#include "catalog/stock.hpp"

#include "common/json.hpp"
#include "common/log.hpp"

namespace catalog {
namespace {

using namespace std::chrono_literals;
namespace asio = boost::asio;
namespace http = common::http;

// A target may have 8 KiB.
constexpr std::size_t most_target = 6 * 1024;

std::optional<bool> is_in_stock(common::json_value row) {
  const auto quantity = row.find("availableQuantity");
  if (!quantity || quantity->kind() != common::json_kind::number) return std::nullopt;
  return quantity->text() != "0" && !quantity->text().starts_with('-');
}

// Targets that ask for all the codes, none of them too long.
std::vector<std::string> targets_for(const std::vector<std::string>& codes) {
  static const std::string base = "/inventory-service/api/inventory/product?codes=";
  std::vector<std::string> targets;
  for (const std::string& code : codes) {
    const std::string part = http::encode(code);
    if (targets.empty() || targets.back().size() + part.size() > most_target) {
      targets.push_back(base + part);
    } else {
      targets.back() += ',' + part;
    }
  }
  return targets;
}

}  // namespace

stock::stock(asio::any_io_executor where, std::string_view inventory_url, std::chrono::milliseconds timeout)
    : client_(std::move(where), inventory_url, {.connect_timeout = timeout, .response_timeout = timeout}),
      retry_("inventory", {.max_attempts = 2}),
      breaker_("inventory"),
      limiter_("inventory", {.timeout = timeout}),
      guarded_(retry_, breaker_, limiter_) {
  exported_.push_back(breaker_.events().on_transition([](const resilience::breaker_transition& t) {
    common::log::warn("circuit breaker", {{"name", t.policy}, {"from", to_string(t.from)}, {"to", to_string(t.to)}});
  }));
}

// Answers that say inventory is unwell are errors, so that the breaker counts them.
asio::awaitable<stock::reply> stock::ask(std::string target) {
  http::client_request what{.target = std::move(target)};
  what.fields.emplace_back("Accept", "application/json");
  auto call = [this, what]() -> asio::awaitable<reply> {
    reply got = co_await client_.send(what);
    if (got && got->status >= 500) got = std::unexpected(std::make_error_code(std::errc::protocol_error));
    co_return got;
  };
  reply answer = co_await guarded_.async_execute(std::move(call));
  co_return answer;
}

asio::awaitable<std::optional<std::map<std::string, bool>>> stock::in_stock(std::vector<std::string> codes) {
  std::map<std::string, bool> known;
  // The list is joined by commas; a code that has one is asked for by itself.
  std::vector<std::string> listed;
  for (std::string& code : codes) {
    if (code.find(',') == std::string::npos) {
      known[code] = false;
      listed.push_back(std::move(code));
      continue;
    }
    reply answer = co_await ask("/inventory-service/api/inventory/" + http::encode(code));
    if (!answer || (answer->status != 200 && answer->status != 404)) co_return std::nullopt;
    const auto row = common::read_json(answer->body, "stock");
    const auto there = answer->status == 200 && row ? is_in_stock(row->root()) : std::optional(false);
    if (!there) co_return std::nullopt;
    known[code] = *there;
  }
  for (const std::string& target : targets_for(listed)) {
    reply answer = co_await ask(target);
    if (!answer || answer->status != 200) co_return std::nullopt;
    const auto rows = common::read_json(answer->body, "stock");
    if (!rows || rows->root().kind() != common::json_kind::array) co_return std::nullopt;
    for (const common::json_value& row : rows->root().children()) {
      const auto code = row.find("productCode");
      const auto there = is_in_stock(row);
      if (code && there) known[std::string(code->text())] = *there;
    }
  }
  co_return known;
}

void stock::describe(resilience::health_report& health) const {
  health.add(breaker_);
  health.add(retry_);
}

void stock::export_to(resilience::prometheus_exporter& exporter) {
  exported_.push_back(exporter.add(breaker_));
  exported_.push_back(exporter.add(retry_));
  exported_.push_back(exporter.add(limiter_));
}

}  // namespace catalog
