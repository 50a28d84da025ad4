// What a stream knows of each modality's tensors from the start: shapes, dimensions, memory.
#ifndef MMEDGE_RUNTIME_STREAM_LAYOUT_H_
#define MMEDGE_RUNTIME_STREAM_LAYOUT_H_

#include <string>
#include <vector>

#include "execution/call_error.h"
#include "spec.h"
#include "stream/options.h"
#include "tensor.h"

namespace mmedge::runtime::stream {

// Size of a dimension that a value does not have.
constexpr int64_t kNoSize = -1;

// Dynamic dimensions of a bundle's calls, in order of name.
struct DimensionTable {
  std::vector<std::string> names;
  std::vector<Dimension> limits;

  explicit DimensionTable(const Manifest& manifest);
  // Throws Error(kBundle): there is none of that name.
  size_t index(const std::string& name) const;
};

// One input of a modality.
struct InputLayout {
  TensorSpec spec;
  std::vector<int> dimensions;  // of each axis: its place in the table; -1: of a fixed size
  size_t row_axis = 0;          // of chunks
  size_t bytes = 0;             // most that one value, or one chunk, takes
  size_t window_bytes = 0;      // most that what is handed to the encoder takes
  std::vector<Slice> quaternions, angles;
};

// The inputs of a modality.
struct ModalityLayout {
  const Modality* modality = nullptr;
  Policy policy;
  bool has_rows = false;  // pushes bring chunks of rows
  int64_t most_rows = 0;
  std::vector<InputLayout> inputs;
  std::vector<size_t> dimensions;         // its own, in order of their first occurrence
  std::vector<size_t> sorted_dimensions;  // the same in order of name
  size_t bytes = 0;                       // of one value with all inputs, each aligned

  // Throws Error(kInput): a dimension without largest size.
  ModalityLayout(const Modality& modality, const Policy& policy, const Manifest& manifest,
                 const StreamOptions& options, const DimensionTable& table);

  // Checks a value as mmedge.execution.inputs.Feeds.check_modality does, and notes the sizes of its
  // dimensions in `sizes`, all of the table. kInput: it does not fit.
  Code check(const TensorView* values, const DimensionTable& table, const SizeRules* rules,
             int64_t* sizes, CallError* error) const noexcept;
};

// Bytes up to the next multiple that every tensor may begin at.
constexpr size_t align_up(size_t bytes) { return (bytes + 63) / 64 * 64; }

}  // namespace mmedge::runtime::stream

#endif  // MMEDGE_RUNTIME_STREAM_LAYOUT_H_
