// mmedge-verify BUNDLE: does this machine compute what the network did?
//
// Opens and checks the bundle, loads the variant that runs here, replays the golden samples and prints
// the worst error. Exit code 0: all within the tolerance; 1: not, or an error.
#include <cstdio>
#include <cstdlib>
#include <string>

#include "mmedge/mmedge.hpp"

namespace {

constexpr const char* kHelp =
    "usage: mmedge-verify [options] BUNDLE\n"
    "\n"
    "Checks a bundle, loads it here and replays its golden samples.\n"
    "\n"
    "  --variant ID        such as ort-int8-cpu; default: the best that runs here\n"
    "  --plan NAME         whole or cut; default: the rule for single calls\n"
    "  --threads N         most threads of a stage\n"
    "  --onnxruntime PATH  ONNX Runtime's library, or a folder that holds it\n"
    "  --openvino PATH     the same of OpenVINO: libopenvino_c\n"
    "  --open-only         check the bundle and load nothing\n"
    "\n"
    "Exit code: 0 within the tolerance, 1 not, or an error; 2 wrong options.\n";

int fail(const mmedge::Failure& failure) {
  std::fprintf(stderr, "mmedge-verify: %s\n", failure.message.c_str());
  return 1;
}

}  // namespace

int main(int count, char** arguments) {
  mmedge_load_options options = mmedge::load_options();
  // Golden samples are replayed below in any case.
  options.allow_unverified = 1;
  const char* path = nullptr;
  bool open_only = false;
  for (int i = 1; i < count; ++i) {
    const std::string word = arguments[i];
    const char* value = i + 1 < count ? arguments[i + 1] : nullptr;
    if (word == "--help" || word == "-h") return std::fputs(kHelp, stdout), 0;
    if (word == "--open-only") {
      open_only = true;
    } else if (word.rfind("--", 0) != 0 && path == nullptr) {
      path = arguments[i];
    } else if (value != nullptr && word == "--variant") {
      options.variant = arguments[++i];
    } else if (value != nullptr && word == "--plan") {
      options.plan = arguments[++i];
    } else if (value != nullptr && word == "--onnxruntime") {
      options.onnxruntime = arguments[++i];
    } else if (value != nullptr && word == "--openvino") {
      options.openvino = arguments[++i];
    } else if (value != nullptr && word == "--threads" && std::atoi(value) > 0) {
      options.threads = std::atoi(arguments[++i]);
    } else {
      std::fprintf(stderr, "mmedge-verify: '%s' is not expected here\n\n%s", word.c_str(), kHelp);
      return 2;
    }
  }
  if (path == nullptr) return std::fputs(kHelp, stderr), 2;

  auto bundle = mmedge::Bundle::open(path);
  if (!bundle) return fail(bundle.error());
  std::printf("bundle   %s\ndigest   %s\n", path, bundle->digest().c_str());
  if (open_only) return 0;

  auto pipeline = mmedge::Pipeline::load(*bundle, options);
  if (!pipeline) return fail(pipeline.error());
  const mmedge_choice choice = pipeline->choice();
  std::printf("variant  %s on %s, plan %s (%s)\n", choice.variant, choice.backend, choice.plan,
              choice.why_plan);

  int32_t samples = 0, outputs = 0;
  const mmedge::Status status = mmedge_pipeline_verify(pipeline->handle(), &samples, &outputs);
  if (!status && status.code() != MMEDGE_ACCURACY_ERROR) return fail(status.error());
  const mmedge::Failure failure = status.error();
  mmedge_verified_output worst = MMEDGE_VERIFIED_OUTPUT;
  for (int32_t i = 0; i < outputs; ++i) {
    mmedge_verified_output output = MMEDGE_VERIFIED_OUTPUT;
    mmedge_pipeline_verified_output(pipeline->handle(), i, &output);
    // NaN is never less than anything: it counts as the worst.
    if (i == 0 || !(output.limit_used <= worst.limit_used)) worst = output;
  }
  std::printf("worst    %.3g of the tolerance, %.3g absolute: output %s of %s, %d golden samples\n",
              worst.limit_used, worst.max_abs, worst.output, worst.stage, samples);
  std::puts(status ? "passes" : "FAILS");
  if (!status) return fail(failure);
  return 0;
}
