#pragma once
/// What the callee may know of the call it serves.

#include <algorithm>
#include <optional>

#include <resilience/clock.hpp>

namespace resilience::this_call {

namespace detail {
inline thread_local std::optional<time_point> deadline;
}

/// When the nearest enclosing call has to be done; none where nobody set one. Blocking calls only: it belongs to the
/// thread.
inline std::optional<time_point> deadline() noexcept { return detail::deadline; }

/// Sets the deadline for the calls made in its scope; an earlier one that encloses it stays.
class [[nodiscard]] deadline_scope {
 public:
  explicit deadline_scope(std::optional<time_point> until) noexcept : before_(detail::deadline) {
    if (until) detail::deadline = before_ ? std::min(*before_, *until) : *until;
  }
  ~deadline_scope() { detail::deadline = before_; }
  deadline_scope(const deadline_scope&) = delete;
  deadline_scope& operator=(const deadline_scope&) = delete;

 private:
  std::optional<time_point> before_;
};

}  // namespace resilience::this_call
