// Readers of a manifest's larger parts, for the files that hold them and for other files that list
// variants.
#ifndef MMEDGE_RUNTIME_SCHEMA_FIELDS_H_
#define MMEDGE_RUNTIME_SCHEMA_FIELDS_H_

#include <string>
#include <vector>

#include "schema/read.h"
#include "spec.h"

namespace mmedge::runtime {

// Each throws Misfit where a value is not what the schema expects.

// A variant as a manifest of a version has it; of the newest in other files.
Variant read_variant(JsonValue value, const Place& where, int version = kSchemaVersion);

StateSpec read_state(JsonValue value, const Place& where);
Loop read_loop(JsonValue value, const Place& where, int version);

std::vector<std::string> read_tensor_names(JsonValue value, const Place& where, size_t least = 0);
std::optional<std::string> read_name_or_null(JsonValue value, const Place& where);
std::optional<std::string> read_tensor_name_or_null(JsonValue value, const Place& where);

// Refuses what an older version of the schema could not say: mmedge/schema/upgrade.py.
void check_older_version(JsonValue manifest, int64_t version);

}  // namespace mmedge::runtime

#endif  // MMEDGE_RUNTIME_SCHEMA_FIELDS_H_
