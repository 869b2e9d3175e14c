#include "common/log.hpp"

#include <unistd.h>

#include <atomic>
#include <boost/json/serialize.hpp>
#include <cerrno>
#include <chrono>
#include <mutex>
#include <string>

#include "common/text.hpp"

namespace common::log {
namespace {

std::atomic<level> least_level{level::info};

constexpr std::string_view words[] = {"debug", "info", "warn", "error"};

void append_text(std::string& line, std::string_view text) {
  const std::string clean = is_utf8(text) ? std::string() : to_utf8(text);
  const std::string_view valid = clean.empty() ? text : std::string_view(clean);
  line += boost::json::serialize(boost::json::string_view(valid.data(), valid.size()));
}

void append_member(std::string& line, std::string_view name, const boost::json::value& value) {
  line += ',';
  append_text(line, name);
  line += ':';
  if (value.is_string()) {
    append_text(line, {value.get_string().data(), value.get_string().size()});
  } else {
    line += boost::json::serialize(value);
  }
}

std::string begin(level l, std::string_view message) {
  std::string line = "{\"time\":\"" + rfc3339(std::chrono::system_clock::now()) + "\",\"level\":\"";
  line.append(words[static_cast<std::size_t>(l)]);
  line += "\",\"message\":";
  append_text(line, message);
  return line;
}

void end(std::string& line) {
  line += "}\n";
  // A pipe takes a long line in parts; the lock keeps the parts together.
  static std::mutex one_line_at_a_time;
  const std::lock_guard lock(one_line_at_a_time);
  std::string_view rest = line;
  while (!rest.empty()) {
    const ssize_t written = ::write(STDERR_FILENO, rest.data(), rest.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return;  // nobody to tell
    rest.remove_prefix(static_cast<std::size_t>(written));
  }
}

}  // namespace

void set_level(level least) noexcept { least_level.store(least, std::memory_order_relaxed); }

bool enabled(level l) noexcept { return l >= least_level.load(std::memory_order_relaxed); }

std::optional<level> level_of(std::string_view word) noexcept {
  for (std::size_t i = 0; i < std::size(words); ++i) {
    if (words[i] == word) return static_cast<level>(i);
  }
  return std::nullopt;
}

void write(level l, std::string_view message, fields more) {
  if (!enabled(l)) return;
  std::string line = begin(l, message);
  for (const field& f : more) append_member(line, f.name, f.value);
  end(line);
}

void write(level l, std::string_view message, const boost::json::object& more) {
  if (!enabled(l)) return;
  std::string line = begin(l, message);
  for (const auto& [name, value] : more) append_member(line, {name.data(), name.size()}, value);
  end(line);
}

}  // namespace common::log
