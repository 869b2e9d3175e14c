#pragma once
/// The sidecar's own numbers, for one scrape.

#include <resilience/metric_page.hpp>

#include "sidecar/proxy/runtime.hpp"

namespace sidecar {

/// Writes every `sidecar_…` metric of the data path, and `resilience4j_timelimiter_…` of the routes' timeouts.
void write_metrics(resilience::metric_page& page, const runtime& from);

}  // namespace sidecar
