// Counts what libmmedge allocates and locks in calls of a bundle, through its C API.
//
// `pipeline_allocations BUNDLE LIBRARY PLAN RUNS`: runs the bundle on zeros of the example's sizes and
// on inputs that change, with what is optional and without, and calls that are refused.
#include <cstdio>
#include <vector>

#include "allocation_counter.h"
#include "mmedge/mmedge.h"

namespace {

constexpr size_t kBytes[] = {4, 2, 2, 1, 1, 8, 2, 4, 8, 1, 2, 4, 8};  // by mmedge_dtype

int fail(const char* what) { return std::printf("%s: %s\n", what, mmedge_last_error()), 2; }

}  // namespace

int main(int, char** arguments) {
  const int runs = std::atoi(arguments[4]);
  mmedge_bundle* bundle = nullptr;
  if (mmedge_bundle_open(arguments[1], &bundle) != MMEDGE_OK) return fail("open");
  mmedge_load_options options = MMEDGE_LOAD_OPTIONS;
  options.onnxruntime = arguments[2];
  options.plan = arguments[3];
  options.threads = 1;
  mmedge_pipeline* pipeline = nullptr;
  if (mmedge_pipeline_load(bundle, &options, &pipeline) != MMEDGE_OK) return fail("load");

  std::vector<mmedge_tensor> inputs, required;
  std::vector<std::vector<char>> memory;
  for (int32_t i = 0; i < mmedge_pipeline_input_count(pipeline); ++i) {
    mmedge_tensor_spec spec = MMEDGE_TENSOR_SPEC;
    mmedge_pipeline_input(pipeline, i, &spec);
    mmedge_tensor tensor{};
    tensor.name = spec.name;
    tensor.dtype = spec.dtype;
    tensor.rank = spec.rank;
    size_t bytes = kBytes[spec.dtype];
    for (int32_t axis = 0; axis < spec.rank; ++axis) {
      // The dynamic sizes of the bundles that are tried take 2000 and, of a batch, 1.
      const bool is_long = spec.shape[axis] < 0 && axis > 0;
      tensor.shape[axis] = is_long ? 2000 : spec.shape[axis] < 0 ? 1 : spec.shape[axis];
      bytes *= static_cast<size_t>(tensor.shape[axis]);
    }
    memory.emplace_back(bytes, 0);
    tensor.data = memory.back().data();
    tensor.bytes = bytes;
    inputs.push_back(tensor);
    if (spec.required) required.push_back(tensor);
  }
  std::vector<mmedge_tensor> outputs;
  for (int32_t i = 0; i < mmedge_pipeline_output_count(pipeline); ++i) {
    mmedge_tensor_spec spec = MMEDGE_TENSOR_SPEC;
    mmedge_pipeline_output(pipeline, i, &spec);
    mmedge_tensor tensor{};
    tensor.name = spec.name;
    outputs.push_back(tensor);
  }
  mmedge_tensor unknown = inputs[0];
  unknown.name = "nothing of this name";

  const auto call = [&](const std::vector<mmedge_tensor>& given) {
    for (mmedge_tensor& output : outputs) output.data = nullptr;
    return mmedge_pipeline_run(pipeline, given.data(), static_cast<int32_t>(given.size()),
                               outputs.data(), static_cast<int32_t>(outputs.size()));
  };
  const auto turn = [&](int i) {
    memory[0][0] = static_cast<char>(i / 2);  // new content in every second call
    return call(inputs) == MMEDGE_OK && call(required) == MMEDGE_OK &&
           mmedge_pipeline_run(pipeline, &unknown, 1, nullptr, 0) == MMEDGE_INPUT_ERROR;
  };
  for (const auto& given : {inputs, required}) {
    const auto count = static_cast<int32_t>(given.size());
    if (mmedge_pipeline_warm_up(pipeline, given.data(), count) != MMEDGE_OK) return fail("warm up");
  }
  if (!counters_work()) return std::puts("the counters see nothing"), 2;
  bool good = true;
  counting = true;
  for (int i = 0; i < runs; ++i) good = turn(i) && good;
  counting = false;
  std::printf("%d %ld %ld %ld %ld\n", static_cast<int>(good), allocations.load(), frees.load(),
              locks.load(), engine_allocations.load());
  mmedge_pipeline_close(pipeline);
  mmedge_bundle_close(bundle);
  return 0;
}
