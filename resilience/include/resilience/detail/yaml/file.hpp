#pragma once
/// A file's bytes.

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <expected>
#include <memory>
#include <string>

#include <resilience/detail/yaml/parse.hpp>

namespace resilience::detail::yaml {

/// The bytes of a file, at most one more than may be parsed; or why it can't be read.
inline std::expected<std::string, std::string> read_file(const std::string& name) {
  const auto failed = [] { return std::unexpected("can't be read: " + std::string(std::strerror(errno))); };
  struct closer {
    void operator()(std::FILE* f) const noexcept { std::fclose(f); }
  };
  const std::unique_ptr<std::FILE, closer> file(std::fopen(name.c_str(), "rb"));
  if (!file) return failed();
  std::string text;
  char part[16384];
  while (text.size() <= max_file_bytes) {
    const std::size_t n = std::fread(part, 1, sizeof part, file.get());
    text.append(part, n);
    if (n < sizeof part) {
      if (std::ferror(file.get())) return failed();
      break;
    }
  }
  return text;
}

}  // namespace resilience::detail::yaml
