// Counts what code of our own allocates, frees and locks while it runs a stage.
//
// `ort_allocations LIBRARY GRAPH RUNS KERNELS ATTENTION`: the graph has inputs x and state, and
// outputs doubled and total, all float32 [n]; the other one has attention over two segments, which
// the library KERNELS runs.
#include <link.h>

#include <atomic>
#include <cstdio>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#include "allocation_counter.h"
#include "backends/onnxruntime/session.h"

using namespace mmedge::runtime;

namespace {

constexpr int64_t kSize = 64;

TensorView view(float* data, int64_t size = kSize) {
  TensorView view;
  view.dtype = DType::kFloat32;
  view.rank = 1;
  view.shape[0] = size;
  view.data = data;
  return view;
}

TensorView view4(float* data, int64_t rows) {
  TensorView view;
  view.dtype = DType::kFloat32;
  view.rank = 4;
  const int64_t shape[] = {1, 2, rows, 16};
  for (size_t axis = 0; axis < 4; ++axis) view.shape[axis] = shape[axis];
  view.data = data;
  return view;
}

// The memory of a thread, and its slots.
struct Work {
  float x[2][kSize] = {}, state[kSize] = {}, out[2][kSize] = {}, short_one[1] = {};
  float tokens[2 * 9 * 16] = {};
  std::unique_ptr<RunSlot> slot, attention;
  Value kept;

  // Every way to run; false where one goes wrong.
  bool run(int i) noexcept {
    RunSlot& each = *slot;
    bool ok = true;
    const auto check = [&](Code code) { ok = ok && code == Code::kOk; };
    // Inputs at the same and at other addresses, outputs in the caller's memory.
    check(each.set_input(0, view(x[i % 2])));
    check(each.set_input(1, view(state)));
    check(each.set_output(0, view(out[i % 2])));
    each.reset_output(1);
    check(each.run());
    // A state goes back, is taken out, and is an input again; the old one is let go of.
    check(each.feed_back(1, 1));
    check(each.run());
    Value next = each.take_output(1);
    ok = ok && static_cast<bool>(next);
    check(each.set_input(1, next));
    kept = std::move(next);
    check(each.run());
    // What is refused: by us, and by ONNX Runtime.
    ok = ok && each.set_input(7, view(state)) == Code::kInput;
    check(each.set_input(1, view(short_one, 1)));
    check(each.set_output(1, view(short_one, 1)));
    ok = ok && each.run() == Code::kBackend && std::strlen(each.message()) > 0;
    for (size_t k = 0; k < 5; ++k) {
      check(attention->set_input(k, view4(tokens, k == 0 ? 3 : k % 2 == 1 ? 9 : 5)));
    }
    check(attention->run());
    return ok;
  }
};

std::unique_ptr<Session> open(const char* library, const char* graph, const char* kernels,
                              std::vector<const char*> inputs, std::vector<const char*> outputs,
                              size_t rank, double seconds) {
  Stage stage;
  stage.name = "net";
  const std::vector<Axis> axes = {{0, "a"}, {0, "b"}, {0, "c"}, {0, "d"}};
  const std::vector<Axis> shape(axes.begin(), axes.begin() + static_cast<long>(rank));
  for (const char* name : inputs) stage.inputs.push_back({name, DType::kFloat32, shape});
  for (const char* name : outputs) stage.outputs.push_back({name, DType::kFloat32, shape});
  Variant variant;
  variant.backend = "ort";
  variant.target = "cpu";
  StageSource source;
  source.stage = &stage;
  source.variant = &variant;
  source.inputs = stage.inputs;
  source.alone = true;
  source.functions = rank == 4;
  source.path = graph;
  SessionOptions options;
  options.kernels = true;
  options.threads = 1;
  if (seconds > 0) options.run_timeout_s = seconds;
  const Backend backend = onnxruntime::make_backend(library, onnxruntime::load_kernels(kernels));
  return backend.open_stage(backend.context.get(), source, options);
}

// Where the code of a loaded library lies.
int find_kernels(dl_phdr_info* info, size_t, void* name) {
  if (std::strcmp(info->dlpi_name, static_cast<const char*>(name)) != 0) return 0;
  for (int i = 0; i < info->dlpi_phnum; ++i) {
    const auto& part = info->dlpi_phdr[i];
    if (part.p_type != PT_LOAD || (part.p_flags & PF_X) == 0) continue;
    kernels_begin = reinterpret_cast<const char*>(info->dlpi_addr + part.p_vaddr);
    kernels_end = kernels_begin + part.p_memsz;
  }
  return 1;
}

}  // namespace

int main(int, char** arguments) {
  const char* library = arguments[1];
  const int runs = std::atoi(arguments[3]);
  const char* kernels = arguments[4];
  // One has a limit to the time of its runs.
  const std::unique_ptr<Session> sessions[] = {
      open(library, arguments[2], kernels, {"x", "state"}, {"doubled", "total"}, 1, 0),
      open(library, arguments[2], kernels, {"x", "state"}, {"doubled", "total"}, 1, 100)};
  const auto attention =
      open(library, arguments[5], kernels, {"q", "k0", "k1", "v0", "v1"}, {"y"}, 4, 0);
  dl_iterate_phdr(find_kernels, arguments[4]);
  if (kernels_begin == nullptr || attention->attention()->kernel.empty()) {
    std::printf("the kernels were not found\n");
    return 2;
  }
  if (!counters_work()) {
    std::printf("the counters see nothing\n");
    return 2;
  }
  Work work[2];
  std::atomic<bool> good{true};
  const auto turn = [&](int index) {
    Work& each = work[index];
    each.slot = sessions[index]->make_slot();
    each.attention = attention->make_slot();
    for (int i = 0; i < 2; ++i) {
      if (!each.run(i)) good = false;
    }
    counting = true;
    for (int i = 0; i < runs; ++i) {
      if (!each.run(i)) good = false;
    }
    counting = false;
  };
  std::thread first(turn, 0), second(turn, 1);
  first.join();
  second.join();
  std::printf("%d %ld %ld %ld %ld\n", static_cast<int>(good), allocations.load(), frees.load(),
              locks.load(), engine_allocations.load());
  if (!good) std::printf("%s; %s\n", work[0].slot->message(), work[0].attention->message());
  for (Work& each : work) {
    each.slot.reset();  // before what it refers to
    each.attention.reset();
    each.kept = Value();
  }
  return good ? 0 : 1;
}
