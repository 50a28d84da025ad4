#include "emulator.h"

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "fiber.h"

namespace emulator {
namespace {

constexpr int kLanes = 32;
constexpr int kSharedByDefault = 48 * 1024;

// Bytes around shared memory that nothing may change, and what they hold.
constexpr size_t kFence = 1024;
constexpr unsigned char kFenceByte = 0xA5;

struct Copy {
  uint32_t to;
  const void* from;
  int bytes;
  int group;
};

enum class Doing { kReady, kAtWarp, kAtBlock, kEnded, kFailed };

struct Block;

struct Thread {
  Fiber fiber;
  Block* block = nullptr;
  int index = 0;
  Doing doing = Doing::kReady;
  const char* name = "";  // of the meeting point
  int line = 0;
  void (*run)(void* const*) = nullptr;
  void* argument = nullptr;
  std::vector<Copy> copies;  // that have not happened
  int groups = 0;            // committed
};

struct Kernel {
  dim3 grid;
  size_t shared;
  void (*run)(void*);
  void* argument;
};

// Blocks that are on the GPU at once.
constexpr size_t kResident = 3;

struct Block {
  dim3 index;
  std::vector<unsigned char> memory;  // fence, shared memory, fence
  std::vector<std::unique_ptr<Thread>> threads;
  std::vector<int> ready;  // first threads of warps that can run
  bool busy = false;
};

Kernel kernel_of_launch;
Block resident[kResident];
Thread* self = nullptr;
std::mt19937_64 draw;
std::string error_text;
std::map<const void*, int> allowed;
Counts counts{};
std::mutex turn;  // one launch at a time

std::string where(const Thread& thread) {
  const dim3& block = thread.block->index;
  char text[160];
  std::snprintf(text, sizeof text, "block (%u, %u, %u), thread %d, %s at line %d", block.x, block.y,
                block.z, thread.index, thread.name, thread.line);
  return text;
}

void do_copy(const Copy& copy) {
  unsigned char* to = self->block->memory.data() + kFence + copy.to;
  std::memcpy(to, copy.from, static_cast<size_t>(copy.bytes));
  std::memset(to + copy.bytes, 0, static_cast<size_t>(16 - copy.bytes));
}

void run_thread(void* given) {
  Thread& thread = *static_cast<Thread*>(given);
  kernel_of_launch.run(kernel_of_launch.argument);
  thread.doing = Doing::kEnded;
  thread.name = "the end";
  thread.fiber.pause();
}

// Runs a warp until all its lanes are at a barrier of the block or at the end.
void run_warp(Block& block, int first) {
  int order[kLanes];
  std::iota(order, order + kLanes, first);
  while (true) {
    std::shuffle(order, order + kLanes, draw);
    for (const int i : order) {
      Thread& thread = *block.threads[i];
      if (thread.doing != Doing::kReady) continue;
      self = &thread;
      thread.fiber.resume();
      if (thread.doing == Doing::kFailed) {
        throw std::runtime_error(error_text + ": " + where(thread));
      }
    }
    Thread& lead = *block.threads[first];
    void* arguments[kLanes];
    for (int i = 0; i < kLanes; ++i) {
      const Thread& thread = *block.threads[first + i];
      if (thread.doing != lead.doing || thread.line != lead.line || thread.run != lead.run) {
        throw std::runtime_error("lanes of a warp are at different places: " + where(lead) +
                                 "; " + where(thread));
      }
      arguments[i] = thread.argument;
    }
    if (lead.doing == Doing::kEnded || lead.doing == Doing::kAtBlock) return;
    self = &lead;
    if (lead.run != nullptr) lead.run(arguments);
    for (int i = 0; i < kLanes; ++i) block.threads[first + i]->doing = Doing::kReady;
  }
}

void all_warps_ready(Block& block) {
  block.ready.clear();
  for (size_t i = 0; i < block.threads.size(); i += kLanes) {
    block.ready.push_back(static_cast<int>(i));
  }
}

void start(Block& block, dim3 index, size_t thread_count) {
  block.index = index;
  block.busy = true;
  block.memory.assign(kernel_of_launch.shared + 2 * kFence, kFenceByte);
  std::memset(block.memory.data() + kFence, 0xFF, kernel_of_launch.shared);
  block.threads.resize(thread_count);
  for (size_t i = 0; i < thread_count; ++i) {
    if (block.threads[i] == nullptr) block.threads[i] = std::make_unique<Thread>();
    Thread& thread = *block.threads[i];
    thread.block = &block;
    thread.index = static_cast<int>(i);
    thread.doing = Doing::kReady;
    thread.name = "the start";
    thread.line = 0;
    thread.run = nullptr;
    thread.copies.clear();
    thread.groups = 0;
    thread.fiber.start(run_thread, &thread);
  }
  all_warps_ready(block);
}

void finish(Block& block) {
  for (const auto& thread : block.threads) {
    if (!thread->copies.empty()) {
      throw std::runtime_error("copies were not waited for: " + where(*thread));
    }
  }
  for (size_t i = 0; i < kFence; ++i) {
    if (block.memory[i] != kFenceByte ||
        block.memory[kFence + kernel_of_launch.shared + i] != kFenceByte) {
      throw std::runtime_error("shared memory was written outside its " +
                               std::to_string(kernel_of_launch.shared) + " bytes");
    }
  }
  block.busy = false;
  ++counts.blocks;
}

// Runs one warp of a block up to the next barrier; when all are there, they may go on.
void advance(Block& block) {
  const size_t chosen = draw() % block.ready.size();
  run_warp(block, block.ready[chosen]);
  block.ready.erase(block.ready.begin() + static_cast<ptrdiff_t>(chosen));
  if (!block.ready.empty()) return;
  const Thread& lead = *block.threads[0];
  for (const auto& thread : block.threads) {
    if (thread->doing != lead.doing || thread->line != lead.line) {
      throw std::runtime_error("threads of a block are at different barriers: " + where(lead) +
                               "; " + where(*thread));
    }
  }
  if (lead.doing == Doing::kEnded) {
    finish(block);
    return;
  }
  for (const auto& thread : block.threads) thread->doing = Doing::kReady;
  all_warps_ready(block);
}

void run_blocks(size_t thread_count) {
  const dim3 grid = kernel_of_launch.grid;
  const size_t count = size_t{grid.x} * grid.y * grid.z;
  std::vector<size_t> order(count);
  std::iota(order.begin(), order.end(), size_t{0});
  std::shuffle(order.begin(), order.end(), draw);
  size_t next = 0, chosen = 0;
  for (Block& block : resident) block.busy = false;
  while (true) {
    // A block runs on for a while, so that others now and then fall far behind.
    if (draw() % 8 == 0 || !resident[chosen].busy) chosen = draw() % kResident;
    Block& block = resident[chosen];
    if (block.busy) {
      advance(block);
    } else if (next < count) {
      const size_t i = order[next++];
      start(block,
            dim3(static_cast<unsigned>(i % grid.x), static_cast<unsigned>(i / grid.x % grid.y),
                 static_cast<unsigned>(i / grid.x / grid.y)),
            thread_count);
    } else if (std::none_of(resident, resident + kResident, [](auto& b) { return b.busy; })) {
      return;
    }
  }
}

void wait_at(Doing doing, const char* name, int line, void (*run)(void* const*), void* argument) {
  self->doing = doing;
  self->name = name;
  self->line = line;
  self->run = run;
  self->argument = argument;
  self->fiber.pause();
}

}  // namespace

Settings& settings() {
  static Settings found;
  return found;
}

Counts take_counts() {
  const Counts found = counts;
  counts = {};
  return found;
}

const char* last_error() { return error_text.c_str(); }

cudaError_t allow_shared(const void* kernel, int bytes) {
  if (bytes > settings().shared_per_block) return cudaErrorInvalidValue;
  allowed[kernel] = bytes;
  return cudaSuccess;
}

cudaError_t launch(const void* kernel, dim3 grid, dim3 size, size_t shared, void (*run)(void*),
                   void* argument) {
  const std::lock_guard<std::mutex> hold(turn);
  const auto found = allowed.find(kernel);
  const int most = found == allowed.end() ? kSharedByDefault : found->second;
  const size_t count = size_t{grid.x} * grid.y * grid.z;
  if (shared > static_cast<size_t>(most) || count == 0 || grid.y > 65535 || grid.z > 65535 ||
      size.x == 0 || size.x % kLanes != 0 || size.y != 1 || size.z != 1) {
    error_text = "invalid launch";
    return cudaErrorInvalidValue;
  }
  draw.seed(settings().seed);
  kernel_of_launch = {grid, shared, run, argument};
  try {
    run_blocks(size.x);
  } catch (const std::runtime_error& error) {
    error_text = error.what();
    return cudaErrorLaunchFailure;
  }
  return cudaSuccess;
}

int thread_index() { return self->index; }
dim3 block_index() { return self->block->index; }
dim3 grid_size() { return kernel_of_launch.grid; }
unsigned char* shared_memory() { return self->block->memory.data() + kFence; }

void fail(const char* format, ...) {
  char text[256];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  error_text = text;
  // In a meeting point it is the scheduler that runs; inside a fiber, the scheduler must be told.
  if (self->doing != Doing::kReady) throw std::runtime_error(error_text + ": " + where(*self));
  self->doing = Doing::kFailed;
  self->fiber.pause();
  std::abort();
}

void meet_warp(const char* name, int line, void (*run)(void* const*), void* argument) {
  wait_at(Doing::kAtWarp, name, line, run, argument);
}

void meet_block(int line) { wait_at(Doing::kAtBlock, "sync_block", line, nullptr, nullptr); }

void copy_async(uint32_t to, const void* from, int bytes) {
  shared_at(to, 16, 16);
  if (bytes < 0 || bytes > 16) fail("a copy of %d bytes", bytes);
  if (bytes > 0 && reinterpret_cast<uintptr_t>(from) % 16 != 0) {
    fail("a copy from %p, which is not aligned", from);
  }
  counts.copied_bytes += static_cast<uint64_t>(bytes);
  const Copy copy{to, from, bytes, self->groups};
  const bool early = settings().copies == Copies::kEarly ||
                     (settings().copies == Copies::kRandom && draw() % 2 == 0);
  if (early) do_copy(copy);
  self->copies.push_back(early ? Copy{to, nullptr, -1, self->groups} : copy);
}

void commit_copies() { ++self->groups; }

void wait_copies(int allowed_groups) {
  auto& copies = self->copies;
  size_t done = 0;
  while (done < copies.size() && copies[done].group < self->groups - allowed_groups) {
    if (copies[done].bytes >= 0) do_copy(copies[done]);
    ++done;
  }
  copies.erase(copies.begin(), copies.begin() + static_cast<ptrdiff_t>(done));
}

unsigned char* shared_at(uint32_t address, size_t bytes, size_t alignment) {
  if (address % alignment != 0 || address + bytes > kernel_of_launch.shared) {
    fail("%zu bytes at %u of %zu bytes of shared memory", bytes, address, kernel_of_launch.shared);
  }
  return shared_memory() + address;
}

}  // namespace emulator

const char* cudaGetErrorString(cudaError_t) { return emulator::last_error(); }
const char* cudaGetErrorName(cudaError_t) { return "emulator"; }

cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return emulator::settings().multiprocessors > 0 ? cudaSuccess : cudaErrorNoDevice;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  const emulator::Settings& s = emulator::settings();
  switch (attribute) {
    case cudaDevAttrMultiProcessorCount: *value = s.multiprocessors; break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: *value = s.shared_per_sm; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = s.shared_per_block; break;
  }
  return cudaSuccess;
}
