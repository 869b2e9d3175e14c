#include "common/http/router.hpp"

#include <algorithm>

namespace common::http {
namespace {

bool is_parameter(std::string_view segment) noexcept { return segment.starts_with('{') && segment.ends_with('}'); }

bool fits(const route& r, const std::vector<std::string>& segments) noexcept {
  return std::ranges::equal(r.segments, segments, [](const std::string& pattern, const std::string& given) {
    return is_parameter(pattern) ? !given.empty() : pattern == given;
  });
}

// Whether `a` says more than `b`, both fitting the same path.
bool more_literal(const route& a, const route& b) noexcept {
  for (std::size_t i = 0; i < a.segments.size(); ++i) {
    const bool of_b = is_parameter(b.segments[i]);
    if (is_parameter(a.segments[i]) != of_b) return of_b;
  }
  return false;
}

}  // namespace

event_stream::event_stream() {
  head.content_type = "text/event-stream";
  head.fields.emplace_back("Cache-Control", "no-store");
}

route& router::add_route(std::string method, std::string pattern,
                         std::variant<sync_handler, async_handler, stream_handler> handler) {
  route& added = routes_.emplace_back(
      route{.method = std::move(method), .pattern = std::move(pattern), .handler = std::move(handler)});
  std::string_view rest = added.pattern;
  while (rest.size() > 1) {
    rest.remove_prefix(1);
    const std::size_t end = std::min(rest.find('/'), rest.size());
    added.segments.emplace_back(rest.substr(0, end));
    rest.remove_prefix(end);
  }
  added.takes_json = added.method == "POST" || added.method == "PUT" || added.method == "PATCH";
  if (std::holds_alternative<stream_handler>(added.handler)) added.produces = "text/event-stream";
  return added;
}

router::match router::find(std::string_view method, const std::vector<std::string>& segments) const {
  match result;
  const std::string_view wanted = method == "HEAD" ? "GET" : method;
  for (const route& r : routes_) {
    if (!fits(r, segments)) continue;
    result.allowed.push_back(r.method);
    if (r.method == "GET") result.allowed.emplace_back("HEAD");
    if (r.method == wanted && (!result.found || more_literal(r, *result.found))) result.found = &r;
  }
  std::ranges::sort(result.allowed);
  const auto repeated = std::ranges::unique(result.allowed);
  result.allowed.erase(repeated.begin(), repeated.end());
  if (result.found) {
    for (std::size_t i = 0; i < segments.size(); ++i) {
      const std::string_view pattern = result.found->segments[i];
      if (is_parameter(pattern)) result.parameters.emplace_back(pattern.substr(1, pattern.size() - 2), segments[i]);
    }
  }
  return result;
}

}  // namespace common::http
