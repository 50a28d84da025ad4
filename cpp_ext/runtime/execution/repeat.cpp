// A tensor repeated to larger sizes.
#include "execution/repeat.h"

#include <cstring>

namespace mmedge::runtime {

void repeat(const TensorView& from, const TensorView& out) noexcept {
  const size_t item = item_size(out.dtype);
  int64_t index[kMaxRank] = {};
  const int64_t count = out.elements();
  auto* to = static_cast<uint8_t*>(out.data);
  const auto* data = static_cast<const uint8_t*>(from.data);
  for (int64_t i = 0; i < count; ++i, to += item) {
    int64_t at = 0;
    for (size_t axis = 0; axis < out.rank; ++axis) {
      at = at * from.shape[axis] + (from.shape[axis] == 1 ? 0 : index[axis]);
    }
    std::memcpy(to, data + static_cast<size_t>(at) * item, item);
    for (size_t axis = out.rank; axis-- > 0;) {
      if (++index[axis] < out.shape[axis]) break;
      index[axis] = 0;
    }
  }
}

}  // namespace mmedge::runtime
