#pragma once
/// Errors as RFC 9457 problem details, with every violation of a request at once.

#include <string>
#include <string_view>
#include <vector>

#include "common/http/message.hpp"

namespace common::http {

/// One thing that is wrong with what a client sent.
struct violation {
  std::string object{};           ///< What kind of thing it is about: "product", "page".
  std::string field{};            ///< A path: `items[0].quantity`; empty for the whole body.
  std::string rejected = "null";  ///< The rejected value as JSON; null when it is missing.
  std::string message{};          ///< "must be at least 1"
};
using violations = std::vector<violation>;

/// `text` as JSON for violation::rejected: a string, cut at 256 characters.
std::string rejected_text(std::string_view text);

/// An application/problem+json response; violations come out sorted by the bytes of their field, then message.
response problem(const request& about, int status, std::string_view detail, violations wrong = {});

/// 400 with what is wrong. `wrong` is not empty.
response bad_request(const request& about, violations wrong);

}  // namespace common::http
