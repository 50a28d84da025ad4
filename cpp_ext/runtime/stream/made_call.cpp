// A call whose stages before the loop have run elsewhere.
#include "stream/made_call.h"

#include <algorithm>

#include "schema/constraints.h"

namespace mmedge::runtime::stream {

MadeCall::MadeCall(std::shared_ptr<const Network> network)
    : Pipeline(std::move(network), false), made_sizes_(sizes_.size(), kUnknownSize) {}

void MadeCall::clear() noexcept {
  std::fill(made_sizes_.begin(), made_sizes_.end(), kUnknownSize);
}

void MadeCall::add_sizes(size_t stage, size_t output, const TensorView& view) noexcept {
  const std::vector<int>& places = output_dimensions_[stage][output];
  for (size_t axis = 0; axis < places.size(); ++axis) {
    if (places[axis] >= 0) made_sizes_[static_cast<size_t>(places[axis])] = view.shape[axis];
  }
}

void MadeCall::set_made(size_t stage, size_t boundary, Value value) noexcept {
  values_[stage][boundary] = std::move(value);
}

void MadeCall::find_all_sizes(std::vector<int64_t>* sizes) const noexcept {
  *sizes = made_sizes_;  // of the same size: nothing is allocated
  add_input_sizes(-1, sizes);
}

}  // namespace mmedge::runtime::stream
