#pragma once
/// Which route a request takes, and which peers may say for whom they speak.

#include <array>
#include <cstdint>
#include <memory>
#include <regex>
#include <string>
#include <string_view>
#include <vector>

#include "sidecar/config/settings.hpp"
#include "sidecar/proxy/http_head.hpp"

namespace sidecar {

/// The matching part of every route, in file order. Immutable. Cost: linear, a few comparisons a route.
class router {
 public:
  explicit router(const std::vector<route_settings>& routes);
  ~router();
  router(const router&) = delete;
  router& operator=(const router&) = delete;

  static constexpr std::size_t none = static_cast<std::size_t>(-1);
  /// The index of the first route that matches, or `none`. What is compared is the path as it will be forwarded,
  /// without its query.
  [[nodiscard]] std::size_t match(const request_head& request) const;

 private:
  struct compiled;
  std::vector<compiled> routes_;
};

/// Address blocks whose peers' X-Forwarded-* fields are believed.
class trusted_networks {
 public:
  /// `blocks`: addresses or CIDR blocks, checked before; one that is neither is left out.
  explicit trusted_networks(const std::vector<std::string>& blocks);

  [[nodiscard]] bool empty() const noexcept { return blocks_.empty(); }
  /// An IPv4 address may come as the IPv4-mapped IPv6 one.
  [[nodiscard]] bool contains(std::string_view address) const;

 private:
  struct block {
    std::array<std::uint8_t, 16> bits;
    int length;
  };
  std::vector<block> blocks_;
};

}  // namespace sidecar
