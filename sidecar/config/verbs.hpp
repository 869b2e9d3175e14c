#pragma once
/// The verbs of the command line that look at a configuration: validate, explain, schema.

#include <iosfwd>
#include <span>
#include <string>

namespace sidecar {

// `args` is what stands after the verb. Each returns the exit code: 0, or 2 for a bad configuration or usage, and
// understands --help.

/// `validate FILE [--enable-chaos]`: everything that is wrong with a file goes to `err`, in file order. A file with
/// `policies` alone is good too.
int validate(std::span<const std::string> args, std::ostream& out, std::ostream& err);

/// `explain FILE [--route NAME] [--enable-chaos]`: every effective value with where it comes from, and the pipelines.
int explain(std::span<const std::string> args, std::ostream& out, std::ostream& err);

/// `schema`: the JSON Schema (2020-12) of a file.
int schema(std::span<const std::string> args, std::ostream& out, std::ostream& err);

/// The reference of all keys as Markdown: a table per section. policies/README.md holds it.
std::string reference();

}  // namespace sidecar
