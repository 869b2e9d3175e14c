#pragma once
/// The catalogue as a service.

#include "common/service.hpp"

namespace catalog {

/// What `run_service` needs to run it.
common::service_definition service();

}  // namespace catalog
