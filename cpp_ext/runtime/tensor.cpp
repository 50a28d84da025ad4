// Element types of a manifest and their names.
#include "tensor.h"

namespace mmedge::runtime {
namespace {

struct Kind {
  const char* name;
  size_t size;
};

// In the order of DType.
constexpr Kind kKinds[] = {
    {"bool", 1},  {"float16", 2}, {"float32", 4}, {"float64", 8}, {"int8", 1},   {"int16", 2},
    {"int32", 4}, {"int64", 8},   {"uint8", 1},   {"uint16", 2},  {"uint32", 4}, {"uint64", 8},
};

}  // namespace

size_t item_size(DType dtype) { return kKinds[static_cast<size_t>(dtype)].size; }

const char* dtype_name(DType dtype) { return kKinds[static_cast<size_t>(dtype)].name; }

bool parse_dtype(std::string_view name, DType* out) {
  for (size_t i = 0; i < sizeof kKinds / sizeof *kKinds; ++i) {
    if (name == kKinds[i].name) {
      *out = static_cast<DType>(i);
      return true;
    }
  }
  return false;
}

}  // namespace mmedge::runtime
