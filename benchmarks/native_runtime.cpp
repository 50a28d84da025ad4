// Calls a bundle in libmmedge for native_runtime.py, and says how long they and ONNX Runtime took.
//
// `native_runtime BUNDLE ONNXRUNTIME calls|steps NAME:DTYPE:SIZES:FILE...`: opens, loads and warms the
// bundle, makes one call, and prints the time of CLOCK_MONOTONIC in nanoseconds and the most memory
// that the process had, in KiB. Then, for each line of its input, a number, it makes so many calls, or
// takes so many steps of a loop, and prints for each its time and ONNX Runtime's share of it.
//
// ONNX Runtime's functions are in a table. The one that runs a session is replaced by one that also
// reads the clock; libmmedge is used as it is installed.
#include <dlfcn.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include <mmedge/mmedge.h>

namespace {

int64_t now() {
  timespec time{};
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec * 1'000'000'000 + time.tv_nsec;
}

// Of OrtApi: the level that libmmedge asks for may be any, the table is one.
constexpr int kLevel = 18, kRun = 9;
using Run = void* (*)(void*, const void*, const char* const*, const void* const*, size_t,
                      const char* const*, size_t, void**);
Run real_run = nullptr;
int64_t in_engine = 0;

void* timed_run(void* session, const void* options, const char* const* names,
                const void* const* inputs, size_t count, const char* const* outputs, size_t most,
                void** values) {
  const int64_t start = now();
  void* status = real_run(session, options, names, inputs, count, outputs, most, values);
  in_engine += now() - start;
  return status;
}

bool replace_run(const char* library) {
  struct Base {
    void** (*get_api)(uint32_t);
    const char* (*version)();
  };
  void* handle = dlopen(library, RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) return false;
  const auto get = reinterpret_cast<const Base* (*)()>(dlsym(handle, "OrtGetApiBase"));
  void** table = get != nullptr ? get()->get_api(kLevel) : nullptr;
  if (table == nullptr) return false;
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const auto begin = reinterpret_cast<uintptr_t>(table + kRun) & ~(page - 1);
  if (mprotect(reinterpret_cast<void*>(begin), page, PROT_READ | PROT_WRITE) != 0) return false;
  real_run = reinterpret_cast<Run>(table[kRun]);
  table[kRun] = reinterpret_cast<void*>(timed_run);
  return true;
}

long peak_kib() {
  FILE* file = std::fopen("/proc/self/status", "r");
  char line[256];
  long peak = 0;
  while (file != nullptr && std::fgets(line, sizeof line, file) != nullptr) {
    if (std::sscanf(line, "VmHWM: %ld", &peak) == 1) break;
  }
  if (file != nullptr) std::fclose(file);
  return peak;
}

[[noreturn]] void fail(const char* what) {
  std::fprintf(stderr, "%s: %s\n", what, mmedge_last_error());
  std::exit(1);
}

void check(mmedge_status status, const char* what) {
  if (status != MMEDGE_OK) fail(what);
}

struct Input {
  std::string name;
  std::vector<char> data;
};

// NAME:DTYPE:1x64x3:FILE, the dtype as a number of mmedge_dtype.
mmedge_tensor read_input(const std::string& word, Input* input) {
  const size_t dtype = word.find(':'), sizes = word.find(':', dtype + 1);
  const size_t path = word.find(':', sizes + 1);
  mmedge_tensor tensor{};
  input->name = word.substr(0, dtype);
  tensor.dtype = std::atoi(word.c_str() + dtype + 1);
  const std::string shape = word.substr(sizes + 1, path - sizes - 1);
  for (const char* at = shape.c_str(); *at != '\0';) {
    char* end = nullptr;
    tensor.shape[tensor.rank++] = std::strtoll(at, &end, 10);
    at = *end == 'x' ? end + 1 : end;
  }
  FILE* file = std::fopen(word.c_str() + path + 1, "rb");
  if (file == nullptr) fail("an input's file");
  char block[4096];
  for (size_t got; (got = std::fread(block, 1, sizeof block, file)) > 0;) {
    input->data.insert(input->data.end(), block, block + got);
  }
  std::fclose(file);
  tensor.name = input->name.c_str();
  tensor.data = input->data.data();
  tensor.bytes = input->data.size();
  return tensor;
}

}  // namespace

int main(int count, char** words) {
  if (count < 4) return 2;
  const bool steps = std::strcmp(words[3], "steps") == 0;
  mmedge_bundle* bundle = nullptr;
  check(mmedge_bundle_open(words[1], &bundle), "open");
  mmedge_load_options options = MMEDGE_LOAD_OPTIONS;
  options.onnxruntime = words[2];
  options.threads = 1;
  options.cache = 0;
  mmedge_pipeline* pipeline = nullptr;
  check(mmedge_pipeline_load(bundle, &options, &pipeline), "load");
  std::vector<Input> inputs(static_cast<size_t>(count - 4));
  std::vector<mmedge_tensor> given;
  for (int i = 4; i < count; ++i) {
    given.push_back(read_input(words[i], &inputs[static_cast<size_t>(i - 4)]));
  }
  const auto number = static_cast<int32_t>(given.size());
  std::vector<mmedge_tensor> outputs;
  for (int32_t i = 0; i < mmedge_pipeline_output_count(pipeline); ++i) {
    mmedge_tensor_spec spec = MMEDGE_TENSOR_SPEC;
    mmedge_pipeline_output(pipeline, i, &spec);
    mmedge_tensor tensor{};
    tensor.name = spec.name;
    outputs.push_back(tensor);
  }
  const auto call = [&] {
    for (mmedge_tensor& output : outputs) output.data = nullptr;
    check(mmedge_pipeline_run(pipeline, given.data(), number, outputs.data(),
                              static_cast<int32_t>(outputs.size())),
          "run");
  };
  check(mmedge_pipeline_warm_up(pipeline, given.data(), number), "warm up");
  call();
  std::printf("%lld %ld\n", static_cast<long long>(now()), peak_kib());
  std::fflush(stdout);

  // The engine's library is loaded by now; its table is that of libmmedge.
  if (!replace_run(words[2])) fail("the table of ONNX Runtime");
  mmedge_loop_options how = MMEDGE_LOOP_OPTIONS;
  how.temperature = 0;
  how.stop_count = 0;
  how.stop = nullptr;
  char line[64];
  std::vector<int64_t> times, shares;
  while (std::fgets(line, sizeof line, stdin) != nullptr) {
    const long calls = std::atol(line);
    times.assign(static_cast<size_t>(calls), 0);
    shares = times;
    if (steps) {
      how.limit = calls;
      check(mmedge_loop_begin(pipeline, given.data(), number, &how, nullptr), "begin");
    }
    for (size_t i = 0; i < times.size(); ++i) {
      in_engine = 0;
      const int64_t start = now();
      if (steps) {
        mmedge_loop_step_info step = MMEDGE_LOOP_STEP_INFO;
        check(mmedge_loop_step(pipeline, &step), "step");
      } else {
        call();
      }
      times[i] = now() - start;
      shares[i] = in_engine;
    }
    for (size_t i = 0; i < times.size(); ++i) {
      std::printf("%lld %lld ", static_cast<long long>(times[i]),
                  static_cast<long long>(shares[i]));
    }
    std::printf("\n");
    std::fflush(stdout);
  }
  mmedge_pipeline_close(pipeline);
  mmedge_bundle_close(bundle);
  return 0;
}
