// Kernels with one fault each, which the emulator must find.
#include "cuda_runtime.h"
#include "emulated_ptx.h"

namespace mmedge::cuda {
namespace {

struct Given {
  const uint32_t* in;
  uint32_t* out;
};

// Each thread leaves its number and reads its neighbour's: of its warp, or of the next.
template <int Distance, bool Warp, bool Block>
void exchange(Given given) {
  int* numbers = reinterpret_cast<int*>(shared_memory());
  const int thread = thread_index();
  numbers[thread] = thread;
  if (Warp) sync_warp();
  if (Block) sync_block();
  given.out[thread] = static_cast<uint32_t>(numbers[thread ^ Distance]);
}

void lanes_part(Given given) {
  float value = 1.0f;
  if (thread_index() % 32 < 16) {
    value += from_lane_xor(value, 1);
  } else {
    value += from_lane_xor(value, 2);
  }
  given.out[thread_index()] = static_cast<uint32_t>(value);
}

void lane_leaves(Given) {
  if (thread_index() != 5) sync_warp();
}

void warp_skips_barrier(Given) {
  if (thread_index() / 32 != 1) sync_block();
}

void writes_past_shared_memory(Given) { shared_memory()[512] = 1; }

void reads_past_shared_memory(Given given) {
  uint32_t m[4];
  load_matrices(m, 512 - 64 + static_cast<uint32_t>(thread_index() % 8) * 16);
  given.out[thread_index()] = m[0];
}

void conflicts(Given) {
  uint32_t m[4];
  load_matrices(m, static_cast<uint32_t>(thread_index() % 32 % 4) * 128);
}

// Rows of 16 bytes from global memory, and back. `Wait` groups may still be on their way.
template <bool Commit, int Wait, bool Barrier>
void copies(Given given) {
  const int thread = thread_index();
  copy_async(static_cast<uint32_t>(thread) * 16, given.in + thread * 4, 16);
  if (Commit) commit_copies();
  wait_copies<Wait>();
  if (Barrier) sync_block();
  given.out[thread] =
      reinterpret_cast<const uint32_t*>(shared_memory())[(thread ^ 32) * 4];
  wait_copies<0>();
}

// A second copy comes to lie where the first is still read, unless there is a barrier between.
template <bool Barrier>
void overwrites(Given given) {
  const int thread = thread_index();
  copy_async(static_cast<uint32_t>(thread) * 16, given.in + thread * 4, 16);
  commit_copies();
  wait_copies<0>();
  sync_block();
  given.out[thread] = reinterpret_cast<const uint32_t*>(shared_memory())[(thread ^ 32) * 4];
  if (Barrier) sync_block();
  copy_async(static_cast<uint32_t>(thread) * 16, given.in, 16);
  commit_copies();
  wait_copies<0>();
}

void unaligned_copy(Given given) { copy_async(0, given.in + 1, 16); }

const struct {
  const char* name;
  void (*kernel)(Given);
} kKernels[] = {
    {"block barrier", exchange<32, false, true>},
    {"no block barrier", exchange<32, true, false>},
    {"warp barrier", exchange<1, true, false>},
    {"no warp barrier", exchange<1, false, false>},
    {"lanes part", lanes_part},
    {"a lane leaves", lane_leaves},
    {"a warp skips a barrier", warp_skips_barrier},
    {"writes past shared memory", writes_past_shared_memory},
    {"reads past shared memory", reads_past_shared_memory},
    {"bank conflict", conflicts},
    {"waited for", copies<true, 0, true>},
    {"not committed", copies<false, 0, true>},
    {"not waited for", copies<true, 1, true>},
    {"others not waited for", copies<true, 0, false>},
    {"overwritten after a barrier", overwrites<true>},
    {"overwritten", overwrites<false>},
    {"copy not aligned", unaligned_copy},
};

}  // namespace
}  // namespace mmedge::cuda

// Runs one of these with 64 threads and 512 or, for copies, 1024 bytes of shared memory: 0, or what
// the emulator said. `in` has 256 words, `out` 64.
extern "C" __attribute__((visibility("default"))) const char* emulator_run_fault(
    const char* name, const uint32_t* in, uint32_t* out, int shared) {
  for (const auto& one : mmedge::cuda::kKernels) {
    if (std::strcmp(one.name, name) != 0) continue;
    mmedge::cuda::Given given{in, out};
    void* arguments[] = {&given};
    const cudaError_t error = cudaLaunchKernel(one.kernel, dim3(), dim3(64), arguments,
                                               static_cast<size_t>(shared), nullptr);
    return error == cudaSuccess ? nullptr : emulator::last_error();
  }
  return "there is no such kernel";
}
