// mmedge-verify BUNDLE: does this machine compute what the network did?
//
// Opens and checks the bundle, loads the variant that runs here, replays the golden samples and prints
// the worst error. Exit code 0: all within the tolerance; 1: not, or an error.
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <string>

#include "mmedge/mmedge.hpp"
#include "trust.h"

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
    "%s"
    "\n"
    "Exit code: 0 within the tolerance, 1 not, or an error; 2 wrong options.\n";

void print_help(std::FILE* file) { std::fprintf(file, kHelp, mmedge::tools::Trust::kHelp); }

int fail(const mmedge::Failure& failure) {
  std::fprintf(stderr, "mmedge-verify: %s\n", failure.message.c_str());
  return 1;
}

// Seconds since 1970 as a date in UTC.
std::string date(int64_t seconds) {
  const std::time_t time = static_cast<std::time_t>(seconds);
  std::tm parts{};
  char text[40];
  if (gmtime_r(&time, &parts) == nullptr || parts.tm_year > 8099 ||
      std::strftime(text, sizeof text, "%Y-%m-%d %H:%M:%S UTC", &parts) == 0) {
    return std::to_string(seconds) + " s after 1970";
  }
  return text;
}

void print_release(const mmedge::Bundle& bundle) {
  const mmedge_release release = bundle.release();
  if (release.verified == MMEDGE_UNSIGNED) {
    std::puts("release  unsigned; not checked: no key was given");
    return;
  }
  std::printf("release  version %lld, signed %s, expires %s\n",
              static_cast<long long>(release.version), date(release.signed_at).c_str(),
              release.expires < 0 ? "never" : date(release.expires).c_str());
  for (int32_t i = 0; i < release.signatures; ++i) {
    bool is_verified = false;
    const std::string key_id = bundle.signature(i, &is_verified);
    std::printf("key      %s: %s\n", key_id.c_str(),
                is_verified ? "verified"
                : release.verified == MMEDGE_VERIFIED ? "not checked: not a trusted key"
                                                      : "not checked: no key was given");
  }
}

}  // namespace

int main(int count, char** arguments) {
  mmedge_load_options options = mmedge::load_options();
  // Golden samples are replayed below in any case.
  options.allow_unverified = 1;
  mmedge::tools::Trust trust;
  const char* path = nullptr;
  bool open_only = false;
  for (int i = 1; i < count; ++i) {
    const std::string word = arguments[i];
    const char* value = i + 1 < count ? arguments[i + 1] : nullptr;
    if (word == "--help" || word == "-h") return print_help(stdout), 0;
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
    } else if (value != nullptr && mmedge::tools::Trust::has(word) && trust.take(word, value)) {
      ++i;
    } else if (value != nullptr && word == "--threads" && std::atoi(value) > 0) {
      options.threads = std::atoi(arguments[++i]);
    } else {
      std::fprintf(stderr, "mmedge-verify: '%s' is not expected here\n\n", word.c_str());
      return print_help(stderr), 2;
    }
  }
  if (path == nullptr) return print_help(stderr), 2;

  auto bundle = trust.open(path);
  if (!bundle) return fail(bundle.error());
  std::printf("bundle   %s\ndigest   %s\n", path, bundle->digest().c_str());
  print_release(*bundle);
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
