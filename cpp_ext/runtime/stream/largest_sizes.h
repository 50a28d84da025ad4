// The largest size of each dimension, for which a stream sets memory aside.
#ifndef MMEDGE_RUNTIME_STREAM_LARGEST_SIZES_H_
#define MMEDGE_RUNTIME_STREAM_LARGEST_SIZES_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include "spec.h"
#include "tensor.h"

namespace mmedge::runtime::stream {

class LargestSizes {
 public:
  // `stated`: the stream's option.
  LargestSizes(const Manifest& manifest, std::map<std::string, int64_t> stated);

  // Of a dimension; none: nobody states one.
  std::optional<int64_t> find(const std::string& dimension) const;
  // Says what a dimension is at most that has no largest size.
  void state(const std::string& dimension, int64_t size) { stated_.emplace(dimension, size); }
  // A tensor of the largest sizes, without data. Throws Error(kInput): a dimension has none. `what`
  // begins the message.
  TensorView view(const TensorSpec& spec, const char* what) const;
  // The bytes of it, at least 1. Throws Error(kInput), too, where they are more than can be set aside.
  size_t bytes(const TensorSpec& spec, const char* what) const;

 private:
  std::map<std::string, Dimension> dimensions_;
  std::map<std::string, int64_t> stated_;
};

}  // namespace mmedge::runtime::stream

#endif  // MMEDGE_RUNTIME_STREAM_LARGEST_SIZES_H_
