#pragma once
/// The live page, page.html, as it was when this was built.

#include <string_view>

namespace sidecar {

extern const std::string_view page_html;

}  // namespace sidecar
