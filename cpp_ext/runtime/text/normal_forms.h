// Unicode's normal forms, as the tokenizers library has them.
#ifndef MMEDGE_RUNTIME_TEXT_NORMAL_FORMS_H_
#define MMEDGE_RUNTIME_TEXT_NORMAL_FORMS_H_

#include <cstdint>
#include <vector>

#include "text/code_set.h"
#include "text/text_buffer.h"

namespace mmedge::runtime {

// NFC, NFD, NFKC or NFKD.
class NormalForm {
 public:
  NormalForm(bool is_compatible, bool is_composed);

  // Appends the form of a text to `out`. `work` has room for the characters of its decomposition;
  // if it has not, `out` is full.
  void apply(TextView text, std::vector<uint32_t>* work, TextBuffer* out) const noexcept;

 private:
  struct Entry {
    uint32_t character;
    uint32_t count;
    const uint8_t* data;  // of the table
  };
  struct Pair {
    uint64_t parts;  // the first one, and the second in the lower 32 bits
    uint32_t composed;
  };

  static std::vector<Entry> read_entries(bool is_compatible);
  static const Entry* find(const std::vector<Entry>& entries, uint32_t character) noexcept;
  void read_pairs();
  uint32_t compose(uint32_t first, uint32_t second) const noexcept;  // 0: they stay two
  size_t compose_all(uint32_t* characters, size_t count, size_t* first) const noexcept;

  bool is_composed_;
  std::vector<Entry> entries_;
  std::vector<Pair> pairs_;  // sorted
  CodeMap classes_;
};

}  // namespace mmedge::runtime

#endif  // MMEDGE_RUNTIME_TEXT_NORMAL_FORMS_H_
