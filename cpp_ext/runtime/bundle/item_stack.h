// A stack of names and places, for a reader of messages that lie in each other.
#ifndef MMEDGE_RUNTIME_BUNDLE_ITEM_STACK_H_
#define MMEDGE_RUNTIME_BUNDLE_ITEM_STACK_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "bundle/onnx_graph.h"

namespace mmedge::runtime::onnx {

// Names and places that are gathered while other messages, which gather too, lie between them.
class ItemStack {
 public:
  // Where what comes next will begin.
  size_t mark() const { return items_.size(); }
  void push(uint32_t item) { items_.push_back(item); }
  const uint32_t* from(size_t mark) const { return items_.data() + mark; }
  // Forgets all since the mark.
  void drop(size_t mark) { items_.resize(mark); }
  // Moves all since the mark to the end of `items`.
  Items take(size_t mark, std::vector<uint32_t>* items) {
    const auto begin = static_cast<uint32_t>(items->size());
    items->insert(items->end(), items_.begin() + static_cast<std::ptrdiff_t>(mark), items_.end());
    items_.resize(mark);
    return {begin, static_cast<uint32_t>(items->size())};
  }

 private:
  std::vector<uint32_t> items_;
};

}  // namespace mmedge::runtime::onnx

#endif  // MMEDGE_RUNTIME_BUNDLE_ITEM_STACK_H_
