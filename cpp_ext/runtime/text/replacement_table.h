// SentencePiece's table of replacements, applied.
#ifndef MMEDGE_RUNTIME_TEXT_REPLACEMENT_TABLE_H_
#define MMEDGE_RUNTIME_TEXT_REPLACEMENT_TABLE_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "text/code_set.h"
#include "text/text_buffer.h"

namespace mmedge::runtime {

class ReplacementTable {
 public:
  // Takes the table in base64. Throws Error(kBundle): it is none. `where` is its place in the file.
  ReplacementTable(const std::string& table, const std::string& where);

  // Appends a text to `out`: each grapheme cluster of less than 6 bytes by its entry, and where it has
  // none or is longer, each of its characters. False: the table leads out of itself.
  bool apply(TextView text, TextBuffer* out) const noexcept;

 private:
  enum class Found { kNothing, kText, kFault };
  Found find(std::string_view text, std::string_view* replacement) const noexcept;
  size_t cluster_end(std::string_view text, size_t at) const noexcept;

  std::vector<uint32_t> units_;  // a double-array trie
  std::string texts_;            // each ends with a 0 byte
  CodeMap classes_;
};

}  // namespace mmedge::runtime

#endif  // MMEDGE_RUNTIME_TEXT_REPLACEMENT_TABLE_H_
