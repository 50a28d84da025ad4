// What a tokenizer file of a bundle may hold: mmedge/schema/tokenizer.py.
#ifndef MMEDGE_RUNTIME_SCHEMA_TOKENIZER_RULES_H_
#define MMEDGE_RUNTIME_SCHEMA_TOKENIZER_RULES_H_

#include <cstddef>
#include <string>

#include "tensor.h"

namespace mmedge::runtime {

// Characters of one text, as it is given and after normalization.
constexpr size_t kMaxTextCharacters = 8192;

// Refuses a tokenizer file with anything that docs/reference/bundle.md, "Components" and
// "Patterns", does not list.
//
// `source` is what messages call the file. Throws Error (kBundle): which component, where, and what
// is allowed in its place.
void check_tokenizer(Bytes data, const std::string& source);

}  // namespace mmedge::runtime

#endif  // MMEDGE_RUNTIME_SCHEMA_TOKENIZER_RULES_H_
