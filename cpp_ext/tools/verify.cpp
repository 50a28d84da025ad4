// mmedge-verify BUNDLE: does this machine compute what the network did?
//
// Opens and checks the bundle, loads the variant that runs here, replays the golden samples and prints
// the worst error. Exit code 0: all within the tolerance; 1: not, or an error.
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <string>
#include <vector>

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
    "  --key FILE          refuse what this public key (PEM) has not signed; may be given again for\n"
    "                      keys of which any will do\n"
    "  --lowest-version N  refuse a release of a lower version; needs --key\n"
    "\n"
    "Exit code: 0 within the tolerance, 1 not, or an error; 2 wrong options.\n";

int fail(const mmedge::Failure& failure) {
  std::fprintf(stderr, "mmedge-verify: %s\n", failure.message.c_str());
  return 1;
}

// Whether a text is a version: digits alone, and no more than any int64_t has.
bool is_number(const std::string& text) {
  return !text.empty() && text.size() <= 16 &&
         text.find_first_not_of("0123456789") == std::string::npos;
}

// The text of a small file; false: it cannot be read.
bool read_text(const char* path, std::string* text) {
  std::FILE* file = std::fopen(path, "rb");
  if (file == nullptr) return false;
  char part[4097];
  const size_t size = std::fread(part, 1, sizeof part, file);
  const bool is_whole = std::ferror(file) == 0;
  std::fclose(file);
  text->assign(part, size);
  return is_whole;
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
  std::vector<std::string> keys;
  mmedge_open_options opening = mmedge::open_options();
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
    } else if (value != nullptr && word == "--key") {
      std::string text;
      if (!read_text(arguments[++i], &text)) {
        return fail({MMEDGE_SIGNATURE_ERROR, std::string(value) + ": the public key cannot be read"});
      }
      // C would take a null character for the end of the text.
      if (text.find('\0') != std::string::npos) text.clear();
      keys.push_back(text);
    } else if (value != nullptr && word == "--lowest-version" && is_number(value)) {
      opening.lowest_version = std::atoll(arguments[++i]);
    } else if (value != nullptr && word == "--threads" && std::atoi(value) > 0) {
      options.threads = std::atoi(arguments[++i]);
    } else {
      std::fprintf(stderr, "mmedge-verify: '%s' is not expected here\n\n%s", word.c_str(), kHelp);
      return 2;
    }
  }
  if (path == nullptr) return std::fputs(kHelp, stderr), 2;

  std::vector<const char*> key_texts;
  for (const std::string& text : keys) key_texts.push_back(text.c_str());
  opening.trusted_keys = keys.empty() ? nullptr : key_texts.data();
  opening.trusted_key_count = static_cast<int32_t>(keys.size());
  auto bundle = mmedge::Bundle::open(path, opening);
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
