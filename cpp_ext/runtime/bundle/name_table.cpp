// Names in the order in which they come.
#include "bundle/name_table.h"

#include <functional>
#include <limits>

namespace mmedge::runtime::onnx {
namespace {

constexpr NameId kFree = std::numeric_limits<NameId>::max();
constexpr size_t kTries = 16;  // slots that a name may have

}  // namespace

NameTable::NameTable() : slots_(256, kFree) { id(""); }

NameId NameTable::id(std::string_view text) {
  const size_t hash = std::hash<std::string_view>()(text);
  const size_t mask = slots_.size() - 1;
  bool is_crowded = true;
  for (size_t i = 0; i < kTries; ++i) {
    const NameId id = slots_[(hash + i) & mask];
    is_crowded = id != kFree;  // nothing is removed, so what is behind a free slot never came there
    if (!is_crowded) break;
    if (hashes_[id] == hash && texts_[id] == text) return id;
  }
  if (is_crowded) {
    const auto found = crowded_.find(text);
    if (found != crowded_.end()) return found->second;
  }
  const auto id = static_cast<NameId>(texts_.size());
  texts_.push_back(text);
  hashes_.push_back(hash);
  place(id);
  if (texts_.size() * 2 > slots_.size()) grow();
  return id;
}

void NameTable::place(NameId id) {
  for (size_t i = 0; i < kTries; ++i) {
    NameId& slot = slots_[(hashes_[id] + i) & (slots_.size() - 1)];
    if (slot != kFree) continue;
    slot = id;
    return;
  }
  crowded_.emplace(texts_[id], id);
}

void NameTable::grow() {
  crowded_.clear();
  slots_.assign(slots_.size() * 2, kFree);
  for (NameId id = 0; id < texts_.size(); ++id) place(id);
}

}  // namespace mmedge::runtime::onnx
