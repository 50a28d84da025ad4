// Counts what libmmedge allocates and locks in calls of a bundle, through its C API.
//
// `pipeline_allocations BUNDLE LIBRARY PLAN RUNS [VARIANT [OPENVINO LONGEST]]`: runs the bundle on zeros
// of the example's sizes (dynamic ones are LONGEST, or 2000, and of a batch 1) and on inputs that change,
// with what is optional and without, and calls that are refused. A loop is taken step by step to its end,
// cancelled, begun anew, and with a state, as are networks that keep one.
#include <cstdio>
#include <cstring>
#include <vector>

#include "allocation_counter.h"
#include "mmedge/mmedge.h"

namespace {

constexpr int64_t kRows = 2, kTokens = 16;  // of a loop
constexpr size_t kBytes[] = {4, 2, 2, 1, 1, 8, 2, 4, 8, 1, 2, 4, 8};  // by mmedge_dtype

int fail(const char* what) { return std::printf("%s: %s\n", what, mmedge_last_error()), 2; }

}  // namespace

int main(int count, char** arguments) {
  const int runs = std::atoi(arguments[4]);
  const char* variant = count > 5 ? arguments[5] : nullptr;
  mmedge_bundle* bundle = nullptr;
  if (mmedge_bundle_open(arguments[1], &bundle) != MMEDGE_OK) return fail("open");
  mmedge_load_options options = MMEDGE_LOAD_OPTIONS;
  options.onnxruntime = arguments[2];
  options.plan = arguments[3];
  options.openvino = count > 6 ? arguments[6] : nullptr;
  const int64_t longest = count > 7 ? std::atoi(arguments[7]) : 2000;
  options.threads = 1;
  options.variant = variant;
  mmedge_pipeline* pipeline = nullptr;
  if (mmedge_pipeline_load(bundle, &options, &pipeline) != MMEDGE_OK) return fail("load");
  const bool has_loop = mmedge_loop_reserve(pipeline, kRows, kTokens) == MMEDGE_OK;

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
      // The dynamic sizes of the bundles that are tried take these, and of a batch 1.
      const int64_t size = axis == 0 ? 1 : has_loop ? 3 : longest;
      tensor.shape[axis] = spec.shape[axis] < 0 ? size : spec.shape[axis];
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

  const bool is_generate = has_loop && std::strcmp(outputs[0].name, "tokens") == 0;
  mmedge_state* state = nullptr;
  const auto call = [&](const std::vector<mmedge_tensor>& given, mmedge_state* kept) {
    for (mmedge_tensor& output : outputs) output.data = nullptr;
    return mmedge_pipeline_run_state(pipeline, given.data(), static_cast<int32_t>(given.size()),
                                     outputs.data(), static_cast<int32_t>(outputs.size()), kept);
  };
  const auto run_loop = [&](int i, mmedge_state* state, int most_steps) {
    mmedge_loop_options of_loop = MMEDGE_LOOP_OPTIONS;
    of_loop.seed = static_cast<uint64_t>(i);
    if (is_generate) {
      of_loop.limit = 6;
      of_loop.temperature = i % 2;
    }
    mmedge_status status = mmedge_loop_begin(
        pipeline, inputs.data(), static_cast<int32_t>(inputs.size()), &of_loop, state);
    mmedge_loop_step_info step = MMEDGE_LOOP_STEP_INFO;
    step.taken = 1;
    for (int taken = 0; status == MMEDGE_OK && step.taken && taken < most_steps; ++taken) {
      status = mmedge_loop_step(pipeline, &step);
    }
    mmedge_loop_cancel(pipeline);
    for (mmedge_tensor& output : outputs) output.data = nullptr;
    int32_t finish[kRows];
    if (status == MMEDGE_OK) {
      status = mmedge_loop_result(pipeline, finish, kRows, outputs.data(),
                                  static_cast<int32_t>(outputs.size()));
    }
    return status == MMEDGE_OK;
  };
  const auto turn = [&](int i) {
    memory[0][0] = static_cast<char>(i / 2 % 8);  // new content in every second call
    bool good = mmedge_pipeline_run(pipeline, &unknown, 1, nullptr, 0) == MMEDGE_INPUT_ERROR;
    if (has_loop) {
      good = run_loop(i, nullptr, 1000) && run_loop(i, nullptr, is_generate ? 1 : 1000) && good;
      if (state == nullptr) return good;
      good = run_loop(i, state, 1000) && run_loop(i, state, 2) && good;
    } else {
      good = call(inputs, nullptr) == MMEDGE_OK && call(required, nullptr) == MMEDGE_OK && good;
      if (state == nullptr) return good;
      good = call(inputs, state) == MMEDGE_OK && good;
    }
    if (mmedge_state_position(state) < 1) return false;
    if (i % 2 == 1) mmedge_state_reset(state);
    return good;
  };
  for (const auto& given : {inputs, required}) {
    const auto count = static_cast<int32_t>(given.size());
    if (mmedge_pipeline_warm_up(pipeline, given.data(), count) != MMEDGE_OK) return fail("warm up");
  }
  if (mmedge_state_create(pipeline, &state) != MMEDGE_OK) state = nullptr;
  if (!counters_work()) return std::puts("the counters see nothing"), 2;
  bool good = true;
  counting = true;
  for (int i = 0; i < runs; ++i) good = turn(i) && good;
  counting = false;
  std::printf("%d %ld %ld %ld %ld\n", static_cast<int>(good), allocations.load(), frees.load(),
              locks.load(), engine_allocations.load());
  mmedge_state_close(state);
  mmedge_pipeline_close(pipeline);
  mmedge_bundle_close(bundle);
  return 0;
}
