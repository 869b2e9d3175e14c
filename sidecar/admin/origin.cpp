#include "sidecar/admin/origin.hpp"

#include <boost/asio/ip/address.hpp>

namespace sidecar {
namespace {

/// `name`, `name:port` or `[address]:port` without its port; an address without brackets.
std::string_view host_part(std::string_view authority) {
  if (authority.starts_with('[')) return authority.substr(1, authority.find(']') - 1);
  return authority.substr(0, authority.rfind(':'));
}

bool is_address(std::string_view host) {
  boost::system::error_code ec;
  boost::asio::ip::make_address(host, ec);
  return !ec;
}

}  // namespace

bool may_write(const common::http::request& r, std::string_view own_host) {
  const std::string_view authority = r.field("Host").value_or("");
  const std::string_view host = host_part(authority);
  if (!is_address(host) && host != "localhost" && host != own_host) return false;
  if (const auto origin = r.field("Origin"); origin && *origin != "http://" + std::string(authority)) return false;
  const auto site = r.field("Sec-Fetch-Site");
  return !site || *site == "same-origin" || *site == "none";
}

}  // namespace sidecar
