// Compiles graphs, and looks at what OpenVINO has made of them.
#include "compiled.h"

#include <utility>

#include "../../error.h"

namespace mmedge::runtime::openvino {
namespace {

// Largest input that is copied to where OpenVINO has it: COPIED_BYTES of compiled.py.
constexpr size_t kCopiedBytes = 1 << 18;

}  // namespace

Owner<CompiledModel> compile(Library& library, const Model* model, int threads) {
  const Api& api = library.api();
  const std::string count = std::to_string(threads);
  Owner<CompiledModel> compiled(api.compiled_model_free);
  // Precision: otherwise it computes in bfloat16 where the processor has it, which is not what was
  // verified. Pinning: threads of several stages, or of several programs, would be pinned to the same
  // cores.
  library.check(api.core_compile_model(
      library.core(), model, "CPU", size_t{10}, compiled.out(),
      "PERFORMANCE_HINT", "LATENCY",
      "NUM_STREAMS", "1",
      "INFERENCE_NUM_THREADS", count.c_str(),
      "INFERENCE_PRECISION_HINT", "f32",
      "ENABLE_CPU_PINNING", "NO"));
  return compiled;
}

Compiled::Compiled(const Library& library, Owner<CompiledModel> compiled, InputShapes shapes,
                   const std::vector<TensorSpec>& inputs, const std::vector<TensorSpec>& outputs)
    : compiled_(std::move(compiled)), shapes_(std::move(shapes)) {
  const Api& api = library.api();
  char* text = nullptr;
  library.check(api.compiled_model_get_property(model(), "EXECUTION_DEVICES", &text));
  const std::string devices = text;
  api.free(text);
  if (devices != "CPU") {
    throw Error(Code::kBackend, "OpenVINO: expected every node on the CPU, found " + devices);
  }
  const Ports taken = read_ports(library, model(), true, inputs);
  for (size_t i = 0; i < inputs.size(); ++i) {
    const PortInfo& port = taken.all.at(i);
    const size_t bytes =
        port.dynamic ? 0 : static_cast<size_t>(port.elements()) * item_size(inputs[i].dtype);
    copied_bytes_.push_back(bytes <= kCopiedBytes ? bytes : 0);
  }
  const Ports given = read_ports(library, model(), false, outputs);
  for (size_t i = 0; i < outputs.size(); ++i) {
    output_places_.push_back(given.find(i));
    fixed_outputs_.push_back(!given.all[output_places_.back()].dynamic);
  }
}

}  // namespace mmedge::runtime::openvino
