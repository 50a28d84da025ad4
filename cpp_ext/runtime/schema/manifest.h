// Reads a manifest and holds it to every rule of docs/reference/bundle.md: mmedge/schema.
#ifndef MMEDGE_RUNTIME_SCHEMA_MANIFEST_H_
#define MMEDGE_RUNTIME_SCHEMA_MANIFEST_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "spec.h"
#include "tensor.h"

namespace mmedge::runtime {

// The oldest version of the schema that is still read.
constexpr int kOldestVersion = 3;

// Reads a manifest of schema version 3 to 6; `schema_version` of the result is 6.
//
// `source` is what an error names as the place. Throws Error (kBundle): the text is no such
// manifest. The message holds the JSON path, what was expected there and what was found.
Manifest manifest_from_json(Bytes data, const std::string& source);

// The version that a manifest says it has; null where it says none that is a whole number. One that
// does not fit into 64 bits is the largest or smallest that does.
std::optional<int64_t> stated_version(Bytes data);

// Holds a manifest that was put together otherwise to the rules between its fields. Throws Error
// (kBundle).
void check_manifest(const Manifest& manifest, const std::string& source);

// Reads a labels file: a list of printable texts, at most 4 MiB. Throws Error (kBundle).
std::vector<std::string> labels_from_json(Bytes data, const std::string& source);

}  // namespace mmedge::runtime

#endif  // MMEDGE_RUNTIME_SCHEMA_MANIFEST_H_
