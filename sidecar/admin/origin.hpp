#pragma once
/// Keeps web pages from writing to the admin address through the browser of someone who can reach it.

#include <string>
#include <string_view>

#include "common/http/message.hpp"

namespace sidecar {

/// Whether a write may come from where it says it comes from. A page of another origin is told by `Origin` and
/// `Sec-Fetch-Site`; one that made its own name resolve to this address (DNS rebinding) by a `Host` that is neither an
/// address, nor `localhost`, nor `own_host` (the configured one).
bool may_write(const common::http::request& r, std::string_view own_host);

}  // namespace sidecar
