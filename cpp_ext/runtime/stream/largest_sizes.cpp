// The largest size of each dimension.
#include "stream/largest_sizes.h"

#include <algorithm>

#include "error.h"
#include "execution/inputs.h"

namespace mmedge::runtime::stream {
namespace {

// Memory of one tensor, past which a stream is surely not meant.
constexpr size_t kMostBytes = size_t{1} << 40;

}  // namespace

LargestSizes::LargestSizes(const Manifest& manifest, std::map<std::string, int64_t> stated)
    : dimensions_(call_dimensions(manifest)), stated_(std::move(stated)) {}

std::optional<int64_t> LargestSizes::find(const std::string& dimension) const {
  const auto stated = stated_.find(dimension);
  if (stated != stated_.end()) return stated->second;
  const auto limit = dimensions_.find(dimension);
  if (limit == dimensions_.end()) return std::nullopt;
  return limit->second.max;
}

TensorView LargestSizes::view(const TensorSpec& spec, const char* what) const {
  TensorView view;
  view.dtype = spec.dtype;
  view.rank = spec.shape.size();
  for (size_t i = 0; i < view.rank; ++i) {
    const Axis& axis = spec.shape[i];
    view.shape[i] = axis.size;
    if (!axis.is_dynamic()) continue;
    const std::optional<int64_t> size = find(axis.dimension);
    if (!size) {
      throw Error(Code::kInput, std::string(what) + " " + spec.text() + ": dimension '" +
                                    axis.dimension +
                                    "' has no largest size in this bundle; state one in the option "
                                    "`largest`, so that memory can be set aside");
    }
    view.shape[i] = *size;
  }
  return view;
}

size_t LargestSizes::bytes(const TensorSpec& spec, const char* what) const {
  const TensorView largest = view(spec, what);
  size_t bytes = item_size(spec.dtype);
  for (size_t i = 0; i < largest.rank; ++i) {
    const auto size = static_cast<size_t>(largest.shape[i]);
    if (size != 0 && bytes > kMostBytes / size) {
      throw Error(Code::kInput, std::string(what) + " " + spec.text() +
                                    ": more memory than can be set aside");
    }
    bytes *= size;
  }
  return std::max<size_t>(bytes, 1);
}

}  // namespace mmedge::runtime::stream
