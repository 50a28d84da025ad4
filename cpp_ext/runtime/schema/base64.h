// Base64 (RFC 4648, section 4).
#ifndef MMEDGE_RUNTIME_SCHEMA_BASE64_H_
#define MMEDGE_RUNTIME_SCHEMA_BASE64_H_

#include <cstdint>
#include <string_view>
#include <vector>

namespace mmedge::runtime {

// Decodes base64 of the strict kind: groups of four characters, padding at the end alone, nothing
// else. False where the text is none. `is_canonical` gets whether encoding the bytes gives this very
// text: the last character may hold bits that no byte takes.
bool decode_base64(std::string_view text, std::vector<uint8_t>* bytes,
                   bool* is_canonical = nullptr);

}  // namespace mmedge::runtime

#endif  // MMEDGE_RUNTIME_SCHEMA_BASE64_H_
