// A tensor that a stream keeps: of the engine that made it, or a copy in memory that was set aside.
#ifndef MMEDGE_RUNTIME_STREAM_KEPT_TENSOR_H_
#define MMEDGE_RUNTIME_STREAM_KEPT_TENSOR_H_

#include <cstring>
#include <utility>
#include <vector>

#include "backends/backend.h"

namespace mmedge::runtime::stream {

struct KeptTensor {
  Value value;
  std::vector<uint8_t> memory;  // of copies
  TensorView view;

  void keep(Value* made) noexcept {
    value = std::move(*made);
    view = value.view();
  }
  // False: it is larger than the memory.
  bool copy(const TensorView& from) noexcept {
    const size_t bytes = from.bytes();
    if (bytes > memory.size()) return false;
    view = from;
    view.data = memory.data();
    if (bytes) std::memcpy(view.data, from.data, bytes);
    return true;
  }
  // As a stage takes it.
  Code give(RunSlot* slot, size_t input) const noexcept {
    return value ? slot->set_input(input, value) : slot->set_input(input, view);
  }
};

// What a tensor is, without its ownership.
inline Value borrow(const KeptTensor& tensor) noexcept {
  return Value(tensor.value.engine(), tensor.value.tensor(), [](const void*, void*) noexcept {},
               tensor.view);
}
inline Value borrow(const Value& value) noexcept {
  return Value(value.engine(), value.tensor(), [](const void*, void*) noexcept {}, value.view());
}

}  // namespace mmedge::runtime::stream

#endif  // MMEDGE_RUNTIME_STREAM_KEPT_TENSOR_H_
