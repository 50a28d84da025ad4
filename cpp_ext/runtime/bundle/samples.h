// Golden samples, absent tokens and first states: `samples.safetensors`.
//
// mmedge/bundle/samples.py in C++; docs/reference/bundle.md, "Samples".
#ifndef MMEDGE_RUNTIME_BUNDLE_SAMPLES_H_
#define MMEDGE_RUNTIME_BUNDLE_SAMPLES_H_

#include <cstdlib>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "spec.h"
#include "tensor.h"

namespace mmedge::runtime {

// Where tensors begin: at multiples of this many bytes.
constexpr size_t kTensorAlignment = 64;

using TensorMap = std::map<std::string, TensorView>;  // by the tensors' names

// One golden sample.
struct Sample {
  TensorMap inputs;   // of the network
  TensorMap outputs;  // of every stage
  TensorMap step;     // what else stages with a state, and stages of a loop, took
  TensorMap loop;     // what the loop gave: tokens and logits, or noise and latents
};

// What the file holds. Tensors are not to be written to. They begin at multiples of
// kTensorAlignment, and are valid as long as the Samples and the bytes that it was read from.
struct Samples {
  std::vector<Sample> golden;
  TensorMap absent;         // stand-ins of inputs of optional modalities
  TensorMap states;         // what states begin with
  TensorMap unconditional;  // what stands for outputs of the network in a run without condition

  // Copies of tensors that the file does not hold aligned.
  struct Free {
    void operator()(uint8_t* memory) const { std::free(memory); }
  };
  std::unique_ptr<uint8_t, Free> memory;
};

// Reads the file; tensors have the dtypes and shapes that `manifest` declares. Throws
// Error(kBundle), which names `source`: not safetensors, a tensor is missing or unknown, or one is
// not as the manifest declares it.
Samples read_samples(Bytes data, const Manifest& manifest, const std::string& source);

}  // namespace mmedge::runtime

#endif  // MMEDGE_RUNTIME_BUNDLE_SAMPLES_H_
