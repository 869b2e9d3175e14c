#include "sidecar/proxy/router.hpp"

#include <arpa/inet.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <optional>

namespace sidecar {
namespace {

/// Host without port, as it stands in a URI or a Host field.
std::string_view without_port(std::string_view host) noexcept {
  if (host.starts_with('[')) {
    const std::size_t end = host.find(']');
    return end == std::string_view::npos ? host : host.substr(0, end + 1);
  }
  return host.substr(0, host.find(':'));
}

/// IPv4 as IPv4-mapped IPv6, so that there is one kind of address.
std::optional<std::array<std::uint8_t, 16>> address_bits(std::string_view text, bool& v4) {
  const std::string copy(text);
  std::array<std::uint8_t, 16> bits{};
  v4 = false;
  if (::inet_pton(AF_INET6, copy.c_str(), bits.data()) == 1) return bits;
  bits[10] = bits[11] = 0xff;
  v4 = true;
  if (::inet_pton(AF_INET, copy.c_str(), bits.data() + 12) == 1) return bits;
  return std::nullopt;
}

}  // namespace

struct router::compiled {
  route_match match;
  std::optional<std::regex> regex;

  [[nodiscard]] bool path_fits(std::string_view path) const {
    const std::string& text = match.path.text;
    switch (match.path.kind) {
      case path_match::kind_type::exact:
        return path == text;
      case path_match::kind_type::regex:
        return std::regex_match(path.begin(), path.end(), *regex);
      case path_match::kind_type::prefix:
        break;
    }
    if (text == "/") return true;
    if (!path.starts_with(text)) return false;
    return path.size() == text.size() || text.back() == '/' || path[text.size()] == '/';
  }
};

router::router(const std::vector<route_settings>& routes) {
  routes_.reserve(routes.size());
  for (const route_settings& route : routes) {
    compiled& entry = routes_.emplace_back(compiled{route.match, std::nullopt});
    if (route.match.path.kind == path_match::kind_type::regex) {
      entry.regex.emplace(route.match.path.text, std::regex::ECMAScript | std::regex::optimize);
    }
  }
}

router::~router() = default;

std::size_t router::match(const request_head& request) const {
  const std::string_view path = request.path.substr(0, request.path.find('?'));
  for (std::size_t i = 0; i < routes_.size(); ++i) {
    const compiled& route = routes_[i];
    if (!route.path_fits(path)) continue;
    const auto& methods = route.match.methods;
    if (!methods.empty() && std::ranges::find(methods, request.method) == methods.end()) continue;
    if (!route.match.host.empty() && !iequals(route.match.host, without_port(request.host))) continue;
    const bool headers_fit = std::ranges::all_of(route.match.headers, [&](const auto& wanted) {
      return std::ranges::any_of(request.fields, [&](const head_field& field) {
        return iequals(field.name, wanted.first) && field.value == wanted.second;
      });
    });
    if (headers_fit) return i;
  }
  return none;
}

trusted_networks::trusted_networks(const std::vector<std::string>& blocks) {
  for (const std::string& text : blocks) {
    const std::size_t slash = text.find('/');
    bool v4 = false;
    const auto bits = address_bits(std::string_view(text).substr(0, slash), v4);
    if (!bits) continue;
    int length = v4 ? 32 : 128;
    if (slash != std::string::npos) std::from_chars(text.data() + slash + 1, text.data() + text.size(), length);
    blocks_.push_back({*bits, std::clamp(v4 ? length + 96 : length, 0, 128)});
  }
}

bool trusted_networks::contains(std::string_view address) const {
  if (blocks_.empty()) return false;
  bool v4 = false;
  const auto bits = address_bits(address, v4);
  if (!bits) return false;
  return std::ranges::any_of(blocks_, [&](const block& b) {
    const auto whole = static_cast<std::size_t>(b.length / 8);
    if (std::memcmp(bits->data(), b.bits.data(), whole) != 0) return false;
    const int rest = b.length % 8;
    return rest == 0 || ((*bits)[whole] ^ b.bits[whole]) >> (8 - rest) == 0;
  });
}

}  // namespace sidecar
