#pragma once
/// The whole core: all that needs the standard library and nothing else. Asio's awaitables, YAML, Prometheus and the
/// manual clock have headers of their own.

#include <resilience/adaptive_rate_limiter.hpp>
#include <resilience/bulkhead.hpp>
#include <resilience/circuit_breaker.hpp>
#include <resilience/clock.hpp>
#include <resilience/error.hpp>
#include <resilience/events.hpp>
#include <resilience/fallback.hpp>
#include <resilience/outcome.hpp>
#include <resilience/pipeline.hpp>
#include <resilience/rate_limiter.hpp>
#include <resilience/registry.hpp>
#include <resilience/retry.hpp>
#include <resilience/retry_budget.hpp>
#include <resilience/this_call.hpp>
#include <resilience/time_limiter.hpp>
#include <resilience/units.hpp>
