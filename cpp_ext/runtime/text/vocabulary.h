// Tokens by text and by id.
#ifndef MMEDGE_RUNTIME_TEXT_VOCABULARY_H_
#define MMEDGE_RUNTIME_TEXT_VOCABULARY_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "schema/json.h"

namespace mmedge::runtime {

class Vocabulary {
 public:
  static constexpr int64_t kNone = -1;

  // Of a text that is there already, the last id counts.
  void add(std::string_view text, uint32_t id);
  // From an object of ids by text. Throws Error(kBundle).
  void read(JsonValue ids);
  // To be called after the last one was added, before token().
  void finish();

  size_t size() const { return entries_.size(); }
  // Bytes of the longest token.
  size_t longest() const { return longest_; }
  // The id of `prefix` and `text` joined, or kNone.
  int64_t find(std::string_view text, std::string_view prefix = {}) const noexcept;
  // Whether there is a token of an id.
  bool token(uint32_t id, std::string_view* text) const noexcept;
  // That of a byte, such as "<0x41>"; kNone where there is none.
  int64_t find_byte(uint8_t byte) const noexcept;

 private:
  friend class PrefixTable;
  struct Entry {
    size_t begin;
    uint32_t size, id;
  };
  std::string_view text(const Entry& entry) const noexcept {
    return std::string_view(texts_).substr(entry.begin, entry.size);
  }
  void place(size_t entry);
  void grow();

  std::string texts_;
  size_t longest_ = 0;
  std::vector<Entry> entries_;
  std::vector<uint32_t> slots_;                         // entry + 1, by hash; 0: free
  std::vector<std::pair<uint32_t, uint32_t>> by_id_;    // id and entry, sorted
};

// The tokens of a vocabulary that a text begins with, by growing length.
class PrefixTable {
 public:
  // The vocabulary must outlive it, and stay as it is.
  explicit PrefixTable(const Vocabulary& vocabulary);

  // Calls `found(bytes, id)` for each.
  template <class Found>
  void find(std::string_view text, Found found) const noexcept {
    size_t low = 0, high = order_.size();
    for (size_t depth = 0; depth < text.size(); ++depth) {
      if (!narrow(static_cast<uint8_t>(text[depth]), depth, &low, &high)) return;
      const Vocabulary::Entry& entry = vocabulary_.entries_[order_[low]];
      if (entry.size == depth + 1) found(depth + 1, entry.id);
    }
  }

 private:
  bool narrow(uint8_t byte, size_t depth, size_t* low, size_t* high) const noexcept;

  const Vocabulary& vocabulary_;
  std::vector<uint32_t> order_;       // of entries, by their bytes
  std::vector<uint32_t> first_byte_;  // where those with a first byte begin
};

}  // namespace mmedge::runtime

#endif  // MMEDGE_RUNTIME_TEXT_VOCABULARY_H_
