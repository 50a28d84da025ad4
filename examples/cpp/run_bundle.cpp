// Runs a bundle on files of raw numbers and prints what comes out.
//
//   run_bundle vqa.mmedge image=frame.rgb audio=question.f32
//
// Each file holds one input's elements in C order. Where an input has a dynamic size, the file's
// length says what it is; every other dynamic size of it is 1.
#include <chrono>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "mmedge/mmedge.hpp"

namespace {

int fail(const mmedge::Failure& failure) {
  std::fprintf(stderr, "%s\n", failure.message.c_str());
  return 1;
}

// Bytes of an element, by mmedge_dtype.
constexpr size_t kBytes[] = {4, 2, 2, 1, 1, 8, 2, 4, 8, 1, 2, 4, 8};

mmedge_tensor shaped(const mmedge_tensor_spec& spec, std::vector<char>& data) {
  mmedge_tensor tensor{};
  tensor.name = spec.name;
  tensor.data = data.data();
  tensor.bytes = data.size();
  tensor.dtype = spec.dtype;
  tensor.rank = spec.rank;
  size_t fixed = kBytes[spec.dtype];
  int dynamic = -1;
  for (int axis = 0; axis < spec.rank; ++axis) {
    tensor.shape[axis] = spec.shape[axis] < 0 ? 1 : spec.shape[axis];
    fixed *= static_cast<size_t>(tensor.shape[axis]);
    if (spec.shape[axis] < 0) dynamic = axis;  // the last one
  }
  if (dynamic >= 0 && fixed > 0) tensor.shape[dynamic] = static_cast<int64_t>(data.size() / fixed);
  return tensor;
}

}  // namespace

int main(int count, char** arguments) {
  if (count < 2) return std::puts("usage: run_bundle BUNDLE INPUT=FILE ..."), 2;
  auto bundle = mmedge::Bundle::open(arguments[1]);
  if (!bundle) return fail(bundle.error());
  auto pipeline = mmedge::Pipeline::load(*bundle);
  if (!pipeline) return fail(pipeline.error());

  std::vector<std::vector<char>> files(static_cast<size_t>(count));
  std::vector<mmedge_tensor> inputs, outputs;
  for (int i = 0; i < mmedge_pipeline_input_count(pipeline->handle()); ++i) {
    mmedge_tensor_spec spec = MMEDGE_TENSOR_SPEC;
    mmedge_pipeline_input(pipeline->handle(), i, &spec);
    for (int a = 2; a < count; ++a) {
      const std::string argument = arguments[a], prefix = std::string(spec.name) + "=";
      if (argument.rfind(prefix, 0) != 0) continue;
      std::ifstream file(argument.substr(prefix.size()), std::ios::binary);
      if (!file) return std::fprintf(stderr, "cannot read %s\n", argument.c_str()), 1;
      auto& data = files[static_cast<size_t>(a)];
      data.assign(std::istreambuf_iterator<char>(file), {});
      inputs.push_back(shaped(spec, data));
    }
  }
  for (int i = 0; i < mmedge_pipeline_output_count(pipeline->handle()); ++i) {
    mmedge_tensor_spec spec = MMEDGE_TENSOR_SPEC;
    mmedge_pipeline_output(pipeline->handle(), i, &spec);
    outputs.push_back(mmedge::output(spec.name));
  }

  // Whatever can fail or takes memory happens here, before the first frame.
  const auto inputs_count = static_cast<int32_t>(inputs.size());
  mmedge::Status status =
      mmedge_pipeline_warm_up(pipeline->handle(), inputs.data(), inputs_count);
  if (!status) return fail(status.error());

  const auto begin = std::chrono::steady_clock::now();
  status = mmedge_pipeline_run(pipeline->handle(), inputs.data(), inputs_count, outputs.data(),
                               static_cast<int32_t>(outputs.size()));
  const std::chrono::duration<double, std::milli> time = std::chrono::steady_clock::now() - begin;
  if (!status) return fail(status.error());

  std::printf("%s: %.3f ms\n", pipeline->choice().variant, time.count());
  for (const mmedge_tensor& output : outputs) {
    std::printf("%s:", output.name);
    const auto* values = static_cast<const float*>(output.data);
    const size_t shown = output.dtype == MMEDGE_F32 ? output.bytes / sizeof(float) : 0;
    for (size_t i = 0; i < shown && i < 16; ++i) std::printf(" %.6g", static_cast<double>(values[i]));
    std::printf(" (%zu bytes)\n", output.bytes);
  }
  return 0;
}
