// Numbers for texts, so that names of tensors are compared and looked up as integers.
#ifndef MMEDGE_RUNTIME_BUNDLE_NAME_TABLE_H_
#define MMEDGE_RUNTIME_BUNDLE_NAME_TABLE_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <string_view>
#include <utility>
#include <vector>

namespace mmedge::runtime::onnx {

using NameId = uint32_t;

// The empty name has this number in every table.
constexpr NameId kNoName = 0;

// Keeps views, not copies: the bytes must stay as long as the table.
class NameTable {
 public:
  NameTable();

  // The number of a text, a new one where it was not there before.
  NameId id(std::string_view text);
  std::string_view text(NameId id) const { return texts_[id]; }
  size_t size() const { return texts_.size(); }

 private:
  void place(NameId id);
  void grow();

  std::vector<std::string_view> texts_;
  std::vector<size_t> hashes_;
  // A hash table: after the slot of its hash, a name has one of the next few. Names that find no
  // free one are in a search tree, so that names made to have the same hash cost little more.
  std::vector<NameId> slots_;  // kFree: none
  std::map<std::string_view, NameId> crowded_;
};

}  // namespace mmedge::runtime::onnx

#endif  // MMEDGE_RUNTIME_BUNDLE_NAME_TABLE_H_
