// What names a bundle may use, and limits: mmedge/schema/names.py. Paths are those of bundle/paths.h.
#ifndef MMEDGE_RUNTIME_SCHEMA_NAMES_H_
#define MMEDGE_RUNTIME_SCHEMA_NAMES_H_

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "bundle/paths.h"

namespace mmedge::runtime {

constexpr size_t kMaxTokenizerBytes = size_t{128} << 20;
constexpr size_t kMaxStages = 256;
constexpr size_t kMaxVariants = 64;
// Golden samples times tensors of each.
constexpr int64_t kMaxSampleTensors = int64_t{1} << 16;
constexpr int64_t kMaxElements = int64_t{1} << 31;
constexpr int64_t kMaxFlops = int64_t{1} << 53;
constexpr double kMaxRtol = 2, kMaxAtol = 1e9, kMaxLatencyMs = 1e9;

// [A-Za-z0-9_][A-Za-z0-9_.-]{0,63}
bool is_name(std::string_view text);
// [A-Za-z0-9_./:-]{1,200}
bool is_tensor_name(std::string_view text);
// [0-9a-f]{64}
bool is_digest(std::string_view text);

}  // namespace mmedge::runtime

#endif  // MMEDGE_RUNTIME_SCHEMA_NAMES_H_
