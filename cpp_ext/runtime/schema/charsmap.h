// The table of replacements of a SentencePiece normalizer, as far as rules on it go.
#ifndef MMEDGE_RUNTIME_SCHEMA_CHARSMAP_H_
#define MMEDGE_RUNTIME_SCHEMA_CHARSMAP_H_

#include <cstdint>
#include <optional>
#include <string>

#include "schema/json.h"

namespace mmedge::runtime {

// Bytes of the longest entry of a table in base64, at least 1. `where` is its JSON path. Throws
// Misfit (schema/read.h): it is no such table.
int64_t longest_replacement(const std::optional<JsonValue>& table, const std::string& where);

}  // namespace mmedge::runtime

#endif  // MMEDGE_RUNTIME_SCHEMA_CHARSMAP_H_
