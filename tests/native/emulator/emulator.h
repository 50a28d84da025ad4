// Runs CUDA kernels on the CPU, to find what is wrong with them.
//
// Each thread of a block is a fiber. Warp-wide instructions and barriers are meeting points: a
// fiber waits there until the others have come, and lanes of a warp that meet at different places
// are an error. Three blocks run at a time; they, their warps and lanes take turns in an order that
// is drawn from a seed, and a lane runs on alone until its next meeting point, so that a missing
// barrier shows as wrong data. Shared memory starts as NaN, and what is written past its end is
// found. Asynchronous copies happen as late as they may, or at once, or either, by chance: what
// does not wait for them, or overwrites what is still read, gives wrong data in one of these.
//
// What it cannot find: a missing fence between blocks (memory is always consistent here), and
// whatever depends on timing.
//
// Global memory is that of the process: build with AddressSanitizer to find accesses out of bounds.
#ifndef EMULATOR_EMULATOR_H_
#define EMULATOR_EMULATOR_H_

#include <cstddef>
#include <cstdint>

#include "cuda_runtime_api.h"

namespace emulator {

enum class Copies { kLate, kEarly, kRandom };

struct Settings {
  uint64_t seed = 1;
  Copies copies = Copies::kLate;
  int multiprocessors = 132;
  int shared_per_sm = 233472;
  int shared_per_block = 232448;
};
Settings& settings();

// Since they were last read.
struct Counts {
  uint64_t blocks;
  uint64_t copied_bytes;  // that asynchronous copies read from global memory
};
Counts take_counts();

const char* last_error();

cudaError_t allow_shared(const void* kernel, int bytes);
cudaError_t launch(const void* kernel, dim3 grid, dim3 block, size_t shared, void (*run)(void*),
                   void* argument);

// ---- For code that runs in a fiber.

int thread_index();
dim3 block_index();
dim3 grid_size();
unsigned char* shared_memory();

// Ends the launch with an error.
[[noreturn]] void fail(const char* format, ...);

// Waits for the other lanes of the warp, which must come to the same place; then `run` is called
// once with the arguments of all 32.
void meet_warp(const char* name, int line, void (*run)(void* const* lanes), void* argument);
void meet_block(int line);

void copy_async(uint32_t to, const void* from, int bytes);
void commit_copies();
void wait_copies(int allowed);

// `bytes` of shared memory at an address, checked.
unsigned char* shared_at(uint32_t address, size_t bytes, size_t alignment);

}  // namespace emulator

#endif  // EMULATOR_EMULATOR_H_
