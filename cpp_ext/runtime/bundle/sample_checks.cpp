// Checks of single tensors of the samples file.
#include "bundle/sample_checks.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <optional>

#include "error.h"
#include "schema/constraints.h"

namespace mmedge::runtime {

namespace {

// Of a tensor that was found, for an error: "got uint8[1, 4, 4, 3]".
std::string got(const TensorView& tensor) {
  std::string text = std::string("got ") + dtype_name(tensor.dtype) + "[";
  for (size_t axis = 0; axis < tensor.rank; ++axis) {
    text += (axis > 0 ? ", " : "") + std::to_string(tensor.shape[axis]);
  }
  return text + "]";
}

Error misfit(const std::string& where, const std::string& expected, const std::string& found) {
  return Error(Code::kBundle,
               where + ": expected " + expected + ", " + found + "; export the bundle again");
}

void check_kind(const TensorView& tensor, const TensorSpec& spec, const std::string& where) {
  if (tensor.dtype != spec.dtype || tensor.rank != spec.shape.size()) {
    throw misfit(where, spec.text(), got(tensor));
  }
}

// Numbers that are none, of bits with the sign shifted out: those past infinity.
template <typename Bits>
int64_t count_nan(const TensorView& tensor, Bits infinity) {
  int64_t count = 0;
  const auto* data = static_cast<const uint8_t*>(tensor.data);
  for (size_t at = 0; at < tensor.bytes(); at += sizeof(Bits)) {
    Bits bits;
    std::memcpy(&bits, data + at, sizeof(bits));
    count += static_cast<Bits>(bits << 1) > static_cast<Bits>(infinity << 1);
  }
  return count;
}

}  // namespace

void check_tensor(const TensorView& tensor, const TensorSpec& spec, const Manifest& manifest,
                  std::map<std::string, int64_t>* sizes, const std::string& where) {
  check_kind(tensor, spec, where);
  for (size_t axis = 0; axis < tensor.rank; ++axis) {
    const int64_t size = tensor.shape[axis];
    const Axis& expected = spec.shape[axis];
    bool fits;
    if (!expected.is_dynamic()) {
      fits = size == expected.size;
    } else if (expected.dimension == kAnySize) {
      fits = size > 0;
    } else {
      fits = allows(manifest.dimensions.at(expected.dimension), size) &&
             sizes->emplace(expected.dimension, size).first->second == size;
    }
    if (!fits) throw misfit(where, spec.text() + " within its dimensions", got(tensor));
  }
}

void check_token(const TensorView& tensor, const TensorSpec& spec, const Manifest& manifest,
                 const std::string& where) {
  constexpr char kFix[] =
      "; give the stand-in with size 1 along dynamic axes and export the bundle again";
  check_kind(tensor, spec, where);
  for (size_t axis = 0; axis < tensor.rank; ++axis) {
    const Axis& expected = spec.shape[axis];
    const int64_t size = tensor.shape[axis];
    const bool is_fixed = !expected.is_dynamic();
    const int64_t least = is_fixed ? expected.size : 1;
    const int64_t most =
        is_fixed ? expected.size
                 : std::max<int64_t>(1, manifest.dimensions.at(expected.dimension).min);
    if (size == least || size == most) continue;
    const std::string options = least == most
                                    ? std::to_string(least)
                                    : std::to_string(least) + " or " + std::to_string(most);
    throw Error(Code::kBundle, where + ": expected " + spec.text() + " with size " + options +
                                   " along axis " + std::to_string(axis) + ", " + got(tensor) +
                                   kFix);
  }
  // Elements in C order, each beside the first one along its dynamic axes; bytes, so that a NaN
  // equals itself.
  const size_t item = item_size(tensor.dtype);
  const auto* data = static_cast<const uint8_t*>(tensor.data);
  int64_t strides[kMaxRank + 1];
  strides[tensor.rank] = 1;
  for (size_t axis = tensor.rank; axis > 0; --axis) {
    strides[axis - 1] = strides[axis] * std::max<int64_t>(1, tensor.shape[axis - 1]);
  }
  const int64_t count = tensor.elements();
  for (int64_t i = 0; i < count; ++i) {
    int64_t first = i;
    for (size_t axis = 0; axis < tensor.rank; ++axis) {
      if (!spec.shape[axis].is_dynamic()) continue;
      first -= i / strides[axis + 1] % tensor.shape[axis] * strides[axis + 1];
    }
    if (first != i && std::memcmp(data + i * item, data + first * item, item) != 0) {
      throw Error(Code::kBundle, where + ": expected " + spec.text() +
                                     " constant along its dynamic axes, " + got(tensor) +
                                     " that varies" + kFix);
    }
  }
}

void check_run(const TensorView& tensor, const TensorSpec& spec, bool may_be_empty,
               const std::string& where) {
  bool fits = tensor.dtype == spec.dtype && tensor.rank == spec.shape.size();
  for (size_t axis = 0; fits && axis < tensor.rank; ++axis) {
    fits = spec.shape[axis].is_dynamic() || tensor.shape[axis] == spec.shape[axis].size;
  }
  if (fits && (may_be_empty || tensor.elements() > 0)) return;
  const std::string text = spec.text();
  throw misfit(where, text.substr(text.find(": ") + 2), got(tensor));
}

void check_numbers(const std::vector<const TensorView*>& golden, const std::string& output,
                   const std::string& source) {
  int64_t size = 0, count = 0;
  for (const TensorView* tensor : golden) {
    size += tensor->elements();
    switch (tensor->dtype) {
      case DType::kFloat16:
        count += count_nan<uint16_t>(*tensor, 0x7C00);
        break;
      case DType::kFloat32:
        count += count_nan<uint32_t>(*tensor, 0x7F800000);
        break;
      case DType::kFloat64:
        count += count_nan<uint64_t>(*tensor, 0x7FF0000000000000);
        break;
      default:
        return;
    }
  }
  // NaN equals NaN when a variant is held against them, so that of more nothing would be checked.
  if (count <= size - count) return;
  char share[8];
  std::snprintf(share, sizeof(share), "%.0f%%", 100.0 * count / size);
  throw Error(Code::kBundle, source + ": output '" + output + "' is NaN in " + share +
                                 " of its golden values, expected at most 50%: nothing could be "
                                 "held against it; export the bundle again");
}

}  // namespace mmedge::runtime
