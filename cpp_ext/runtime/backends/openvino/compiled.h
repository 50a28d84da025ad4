// A graph compiled by OpenVINO for the CPU: mmedge/backends/openvino/compiled.py.
#ifndef MMEDGE_RUNTIME_BACKENDS_OPENVINO_COMPILED_H_
#define MMEDGE_RUNTIME_BACKENDS_OPENVINO_COMPILED_H_

#include <string>
#include <vector>

#include "library.h"
#include "ports.h"

namespace mmedge::runtime::openvino {

// Sizes of each of a model's inputs, in its order.
using InputShapes = std::vector<std::vector<int64_t>>;

class Compiled {
 public:
  // `shapes`: those that it is compiled for; empty: any. `inputs`, `outputs`: of the model, in its
  // order. Throws Error(kBackend): OpenVINO refuses it, or some of it would run on another device.
  Compiled(const Library& library, Owner<CompiledModel> compiled, InputShapes shapes,
           const std::vector<TensorSpec>& inputs, const std::vector<TensorSpec>& outputs);

  const InputShapes& shapes() const noexcept { return shapes_; }
  const CompiledModel* model() const noexcept { return compiled_.get(); }
  // Where OpenVINO has an output, by its place among the model's.
  size_t output_place(size_t output) const noexcept { return output_places_[output]; }
  // Whether a request writes it to one place in every run.
  bool has_fixed_shape(size_t output) const noexcept { return fixed_outputs_[output]; }
  // Bytes of an input that is copied to where OpenVINO has it; 0: it is told of another place.
  size_t copied_bytes(size_t input) const noexcept { return copied_bytes_[input]; }

 private:
  Owner<CompiledModel> compiled_;
  InputShapes shapes_;
  std::vector<size_t> output_places_;
  std::vector<bool> fixed_outputs_;
  std::vector<size_t> copied_bytes_;
};

// Compiles with the options that Python has. Throws Error(kBackend).
Owner<CompiledModel> compile(Library& library, const Model* model, int threads);

}  // namespace mmedge::runtime::openvino

#endif  // MMEDGE_RUNTIME_BACKENDS_OPENVINO_COMPILED_H_
