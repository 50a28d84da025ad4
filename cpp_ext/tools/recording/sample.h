// What both forms of a recording have in common: files, values of samples, their order, losses.
// mmedge/recording/sample.py in C++.
#ifndef MMEDGE_TOOLS_RECORDING_SAMPLE_H_
#define MMEDGE_TOOLS_RECORDING_SAMPLE_H_

#include <limits>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "bundle/mapping.h"
#include "error.h"
#include "recording/recording.h"
#include "schema/read.h"

namespace mmedge::tools {

// Bytes of one value, and the version of both forms.
constexpr size_t kMaxValueBytes = size_t{1} << 29;
constexpr int kVersion = 2;

// An error that says where, what, and what to do.
runtime::Error refusal(const std::string& where, const std::string& fault);

// Maps a plain file that was opened, up to `most` bytes. Throws Error(kInput): another kind of file,
// a larger one, or one with more than 64 MiB of holes. `where` is what a message names.
runtime::Mapping map_file(int fd, size_t most, const std::string& where);

// Tensors of safetensors bytes, by name. Throws Error(kInput).
std::map<std::string, runtime::TensorView> unpack(runtime::Bytes data, const std::string& where);

// The value that tensors named `value`, `in.<input>` or `text` are. Throws Error(kInput): they are
// none.
Value value_of(std::vector<std::pair<std::string, runtime::TensorView>> tensors,
               const std::string& where);

// Throws Error(kInput) unless they are different names of modalities, and there is one.
void check_modalities(const std::vector<std::string>& modalities, const std::string& where);

// Samples that were not recorded, by reason, in the order of the file. Throws Misfit.
using Losses = std::vector<std::pair<std::string, int64_t>>;
Losses read_losses(runtime::JsonValue value, const runtime::Place& where);
std::string words(const Losses& losses);

// Checks samples as they are read: times of a clock, arrivals in order.
class Order {
 public:
  explicit Order(const std::string& name) : name_(name) {}

  // Throws Error(kInput): the sample may not come now.
  void check(const Recorded& sample);
  int64_t count() const { return count_; }
  // The next sample, as a message names it.
  std::string where() const { return name_ + ": sample " + std::to_string(count_); }

 private:
  const std::string& name_;
  int64_t count_ = 0;
  double last_ = -std::numeric_limits<double>::infinity();
};

}  // namespace mmedge::tools

#endif  // MMEDGE_TOOLS_RECORDING_SAMPLE_H_
