// From what a caller passes to what stages take: names, dtypes, sizes, absent modalities.
//
// The rules are those of mmedge/execution/inputs.py and finite.py. Everything about the names, limits
// and stand-ins of a network is laid out when it is loaded, so that a call compares and copies alone.
#ifndef MMEDGE_RUNTIME_EXECUTION_INPUTS_H_
#define MMEDGE_RUNTIME_EXECUTION_INPUTS_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "bundle/samples.h"
#include "execution/call_error.h"
#include "schema/constraints.h"
#include "spec.h"

namespace mmedge::runtime {

// Inputs of the network as a call takes them, in the modalities' order, and the dimensions of those by
// name. A loop takes the caller's tokens in as many runs of its stage as it needs, so that they are any
// number: [batch, n], whatever one run takes.
std::vector<TensorSpec> call_inputs(const Manifest& manifest);
std::map<std::string, Dimension> call_dimensions(const Manifest& manifest);

// A tensor of a caller.
struct NamedTensor {
  const char* name = nullptr;
  TensorView view;
  size_t bytes = 0;  // of all elements; 0: not stated
};

// What one caller's calls need, set aside by Inputs::reserve.
struct InputCall {
  std::vector<TensorView> values;               // of each input of the network
  std::vector<uint8_t> present;                 // whether the caller brought it
  std::vector<int64_t> sizes;                   // of each dimension; kUnknownSize: nothing has it yet
  std::vector<int64_t> scratch;
  std::vector<std::vector<uint8_t>> stand_ins;  // memory for what is absent, by input
  std::vector<TensorView> filled;               // what was last written there
  CallError error;
};

class Inputs {
 public:
  // `samples` may be null where no golden sample and no stored token is needed.
  Inputs(const Manifest& manifest, std::shared_ptr<const Samples> samples, bool allow_non_finite);

  // Inputs of the network, in the modalities' order.
  const std::vector<TensorSpec>& specs() const noexcept { return specs_; }
  const Modality& modality(size_t input) const noexcept { return *modality_of_[input]; }
  // Place of a modality's first input; the others follow it.
  size_t first_input(size_t modality) const noexcept { return first_of_[modality]; }

  // Limits of a dynamic dimension of the specs.
  const Dimension& limits(const std::string& dimension) const {
    return dimensions_[static_cast<size_t>(relations_.index(dimension))];
  }

  InputCall make_call() const;

  // Checks and completes a call, and sets aside memory that it needs and has not. Throws
  // Error(kInput).
  void reserve(const NamedTensor* tensors, size_t count, InputCall* call) const;

  // The same without setting anything aside: `call->values` holds every input then.
  // kInput: it does not fit; kNotWarm: it needs more memory than reserve() has set aside.
  Code prepare(const NamedTensor* tensors, size_t count, InputCall* call) const noexcept;

  // Zeros for every input at each dimension's `opt`; inputs of optional modalities are left out where
  // `required_only`. They live in `memory`.
  std::vector<NamedTensor> example(bool required_only, std::vector<Tensor>* memory) const;

 private:
  struct AxisLimit {
    int64_t size = 0;
    int dimension = -1;  // place in relations_; -1: fixed
  };

  Code take(const NamedTensor& tensor, InputCall* call) const noexcept;
  Code check_sizes(InputCall* call) const noexcept;
  Code check_presence(InputCall* call, bool* absent) const noexcept;
  Code fill(size_t input, InputCall* call) const noexcept;
  Code check_finite(size_t input, InputCall* call) const noexcept;
  TensorView stand_in_shape(size_t input, const InputCall& call) const noexcept;
  size_t find(const char* name) const noexcept;
  const char* shape_text(size_t input) const noexcept { return shape_texts_[input].c_str(); }

  const Manifest& manifest_;
  std::shared_ptr<const Samples> samples_;
  std::vector<TensorSpec> specs_;
  std::vector<std::string> shape_texts_;
  std::vector<std::vector<AxisLimit>> axes_;
  std::vector<const Modality*> modality_of_;
  std::vector<size_t> first_of_;
  std::vector<Dimension> dimensions_;  // by their place in relations_
  std::vector<std::string> spans_;     // of each dimension, in words
  Relations relations_;
  bool allow_non_finite_ = false;
  std::vector<uint8_t> nan_allowed_, infinity_allowed_;
  std::vector<std::vector<uint8_t>> tokens_;  // the first element of each dynamic axis, by input
  std::string names_text_;
};

}  // namespace mmedge::runtime

#endif  // MMEDGE_RUNTIME_EXECUTION_INPUTS_H_
