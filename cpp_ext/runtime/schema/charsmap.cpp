// A SentencePiece table: the size of a trie in 4 bytes, the trie, texts that end with a 0 byte.
#include "schema/charsmap.h"

#include <algorithm>
#include <vector>

#include "schema/base64.h"
#include "schema/read.h"

namespace mmedge::runtime {
int64_t longest_replacement(const std::optional<JsonValue>& value, const std::string& where) {
  if (!value || !value->is(JsonKind::kString)) {
    throw Misfit(where, "a table in base64", value ? show(*value) : "null");
  }
  std::vector<uint8_t> table;
  if (!decode_base64(value->string(), &table) || table.size() < 4) {
    throw Misfit(where, "a table in base64", "what is none");
  }
  const size_t size = table[0] | table[1] << 8 | table[2] << 16 | static_cast<size_t>(table[3]) << 24;
  if (size % 4 != 0 || size < 4 || table.size() - 4 < size) {
    throw Misfit(where, "a table and its texts", "a table of " + std::to_string(size) + " bytes");
  }
  int64_t longest = 1, length = 0;
  for (size_t at = 4 + size; at < table.size(); ++at) {
    length = table[at] == 0 ? 0 : length + 1;
    longest = std::max(longest, length);
  }
  return longest;
}

}  // namespace mmedge::runtime
