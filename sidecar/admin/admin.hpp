#pragma once
/// The admin address: shows and changes what the sidecar does. It has its own threads, so it answers under any load.

#include <cstdint>
#include <expected>
#include <memory>
#include <string>

#include "sidecar/admin/control.hpp"

namespace sidecar {

class admin {
 public:
  /// Serves `of` at the admin address of its configuration. `of` outlives this; its `reloaded` is taken.
  explicit admin(control& of);
  /// Ends every connection.
  ~admin();
  admin(const admin&) = delete;
  admin& operator=(const admin&) = delete;

  /// The port bound, or a sentence that names the address and what is wrong with it.
  std::expected<std::uint16_t, std::string> start();

 private:
  struct state;
  std::unique_ptr<state> state_;
};

}  // namespace sidecar
