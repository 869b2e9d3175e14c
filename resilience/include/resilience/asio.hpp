#pragma once
/// Makes every policy's `async_execute` work with `boost::asio::awaitable`.

#include <resilience/asio/awaitable.hpp>
