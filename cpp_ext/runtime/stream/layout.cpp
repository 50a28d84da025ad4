// What a stream knows of each modality's tensors from the start.
#include "stream/layout.h"

#include <algorithm>

#include "error.h"
#include "execution/inputs.h"

namespace mmedge::runtime::stream {
namespace {

// Memory of one value, past which a stream is surely not meant.
constexpr size_t kMostBytes = size_t{1} << 40;

size_t multiply(size_t bytes, int64_t size, const std::string& what) {
  if (size != 0 && bytes > kMostBytes / static_cast<size_t>(size)) {
    throw Error(Code::kInput, what + ": more memory than a stream can set aside; state a smaller "
                                     "size in the option `largest`");
  }
  return bytes * static_cast<size_t>(size);
}

}  // namespace

DimensionTable::DimensionTable(const Manifest& manifest) {
  for (const auto& [name, limit] : call_dimensions(manifest)) {
    names.push_back(name);
    limits.push_back(limit);
  }
}

size_t DimensionTable::index(const std::string& name) const {
  const auto found = std::lower_bound(names.begin(), names.end(), name);
  if (found == names.end() || *found != name) {
    throw Error(Code::kBundle, "dimension '" + name + "' is not in the manifest");
  }
  return static_cast<size_t>(found - names.begin());
}

ModalityLayout::ModalityLayout(const Modality& of, const Policy& with, const Manifest& manifest,
                               const StreamOptions& options, const DimensionTable& table)
    : modality(&of), policy(with), has_rows(with.kind == Policy::Kind::kWindow) {
  if (has_rows) {
    most_rows = policy.chunk_rows ? policy.chunk_rows : std::max<int64_t>(policy.length, 64);
  }
  const std::vector<TensorSpec> specs = call_inputs(manifest);
  for (const std::string& name : of.inputs) {
    InputLayout input;
    input.spec = *std::find_if(specs.begin(), specs.end(),
                               [&name](const TensorSpec& spec) { return spec.name == name; });
    if (has_rows) input.row_axis = row_axis(policy, input.spec);
    const std::string what = "modality '" + of.name + "', input " + input.spec.text();
    input.bytes = input.window_bytes = item_size(input.spec.dtype);
    for (size_t axis = 0; axis < input.spec.shape.size(); ++axis) {
      const Axis& size = input.spec.shape[axis];
      int64_t most = size.size;
      int place = -1;
      if (size.is_dynamic()) {
        const size_t index = table.index(size.dimension);
        place = static_cast<int>(index);
        if (std::find(dimensions.begin(), dimensions.end(), index) == dimensions.end()) {
          dimensions.push_back(index);
        }
        const auto largest = options.largest.find(size.dimension);
        const bool is_row = has_rows && axis == input.row_axis;
        if (largest != options.largest.end()) {
          most = largest->second;
          if (table.limits[index].max) most = std::min(most, *table.limits[index].max);
        } else if (table.limits[index].max) {
          most = *table.limits[index].max;
        } else if (!is_row) {
          throw Error(Code::kInput, what + ": dimension '" + size.dimension +
                                        "' has no largest size in this bundle; state one in the "
                                        "option `largest`, so that memory can be set aside");
        }
      }
      input.dimensions.push_back(place);
      const bool is_row = has_rows && axis == input.row_axis;
      input.bytes = multiply(input.bytes, is_row ? most_rows : most, what);
      input.window_bytes = multiply(input.window_bytes, is_row ? policy.length : most, what);
    }
    input.quaternions = slices_of(policy.quaternions, name);
    input.angles = slices_of(policy.angles, name);
    bytes += align_up(input.bytes);
    inputs.push_back(std::move(input));
  }
  sorted_dimensions = dimensions;
  std::sort(sorted_dimensions.begin(), sorted_dimensions.end());
}

Code ModalityLayout::check(const TensorView* values, const DimensionTable& table,
                           const SizeRules* rules, int64_t* sizes,
                           CallError* error) const noexcept {
  std::fill(sizes, sizes + table.names.size(), kNoSize);
  int64_t rows = -1;
  for (size_t i = 0; i < inputs.size(); ++i) {
    const InputLayout& input = inputs[i];
    const TensorView& value = values[i];
    const char* name = input.spec.name.c_str();
    if (value.dtype != input.spec.dtype) {
      return error->set(Code::kInput,
                        "input '%s': expected dtype %s, got %s; convert it where it is made, so "
                        "that no precision is lost unseen",
                        name, dtype_name(input.spec.dtype), dtype_name(value.dtype));
    }
    if (value.rank != input.spec.shape.size()) {
      return error->set(Code::kInput, "input '%s': expected rank %zu, got rank %zu", name,
                        input.spec.shape.size(), value.rank);
    }
    for (size_t axis = 0; axis < value.rank; ++axis) {
      const int64_t size = value.shape[axis];
      if (has_rows && axis == input.row_axis) {
        if (size < 1) return error->set(Code::kInput, "input '%s': a chunk without rows", name);
        if (rows >= 0 && size != rows) {
          return error->set(Code::kInput, "the inputs of a chunk have different numbers of rows");
        }
        if (size > most_rows) {
          return error->set(Code::kInput,
                            "input '%s': a chunk of %lld rows, memory is set aside for %lld; "
                            "raise the policy's chunk_rows",
                            name, static_cast<long long>(size), static_cast<long long>(most_rows));
        }
        rows = size;
        continue;
      }
      const int place = input.dimensions[axis];
      if (place < 0) {
        if (size != input.spec.shape[axis].size) {
          return error->set(Code::kInput, "input '%s': axis %zu must have size %lld, got %lld",
                            name, axis, static_cast<long long>(input.spec.shape[axis].size),
                            static_cast<long long>(size));
        }
      } else if (sizes[place] == kNoSize) {
        sizes[place] = size;
      } else if (sizes[place] != size) {
        return error->set(Code::kInput,
                          "input '%s': axis %zu is dimension '%s', which is %lld elsewhere in "
                          "this call, got %lld",
                          name, axis, table.names[static_cast<size_t>(place)].c_str(),
                          static_cast<long long>(sizes[place]), static_cast<long long>(size));
      }
    }
  }
  for (size_t place : dimensions) {
    const Dimension& limit = table.limits[place];
    const int64_t size = sizes[place];
    if (size == kNoSize) continue;
    if (size < limit.min || (limit.max && size > *limit.max) || size % limit.multiple != 0) {
      return error->set(Code::kInput, "dimension '%s' may not be %lld in this bundle",
                        table.names[place].c_str(), static_cast<long long>(size));
    }
  }
  if (rules != nullptr && rules->any() && rules->is_broken(sizes, error->text, sizeof error->text)) {
    error->code = Code::kInput;
    return Code::kInput;
  }
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (values[i].bytes() > inputs[i].bytes) {
      return error->set(Code::kInput,
                        "input '%s': %zu bytes, memory is set aside for %zu; raise the stream's "
                        "option `largest`",
                        inputs[i].spec.name.c_str(), values[i].bytes(), inputs[i].bytes);
    }
  }
  return Code::kOk;
}

}  // namespace mmedge::runtime::stream
