// Bytes, element types and tensors that somebody else owns.
#ifndef MMEDGE_RUNTIME_TENSOR_H_
#define MMEDGE_RUNTIME_TENSOR_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace mmedge::runtime {

// Bytes of a file or of a part of it, read-only. It does not own them.
struct Bytes {
  const uint8_t* data = nullptr;
  size_t size = 0;

  const uint8_t* begin() const { return data; }
  const uint8_t* end() const { return data + size; }
  std::string_view text() const { return {reinterpret_cast<const char*>(data), size}; }
  Bytes part(size_t offset, size_t length) const { return {data + offset, length}; }
};

// Element types of a manifest, DTYPES of mmedge/spec.py.
enum class DType : uint8_t {
  kBool,
  kFloat16,
  kFloat32,
  kFloat64,
  kInt8,
  kInt16,
  kInt32,
  kInt64,
  kUint8,
  kUint16,
  kUint32,
  kUint64,
};

// Bytes of one element.
size_t item_size(DType dtype);
// Name in a manifest, such as "float32".
const char* dtype_name(DType dtype);
// The type of a name in a manifest; false where there is none.
bool parse_dtype(std::string_view name, DType* out);

// Most axes of a tensor (docs/reference/bundle.md, "Tensor").
constexpr size_t kMaxRank = 8;

// A tensor in C order whose memory somebody else owns.
struct TensorView {
  DType dtype = DType::kFloat32;
  size_t rank = 0;
  int64_t shape[kMaxRank] = {};
  void* data = nullptr;

  int64_t elements() const {
    int64_t count = 1;
    for (size_t axis = 0; axis < rank; ++axis) count *= shape[axis];
    return count;
  }
  size_t bytes() const { return static_cast<size_t>(elements()) * item_size(dtype); }
};

inline bool same_shape(const TensorView& a, const TensorView& b) noexcept {
  return a.rank == b.rank && std::equal(a.shape, a.shape + a.rank, b.shape);
}

// A tensor with memory of its own.
struct Tensor {
  DType dtype = DType::kFloat32;
  std::vector<int64_t> shape;
  std::vector<uint8_t> data;  // elements in C order, little-endian

  TensorView view() {
    TensorView view;
    view.dtype = dtype;
    view.rank = shape.size();
    for (size_t axis = 0; axis < shape.size(); ++axis) view.shape[axis] = shape[axis];
    view.data = data.data();
    return view;
  }
};

}  // namespace mmedge::runtime

#endif  // MMEDGE_RUNTIME_TENSOR_H_
