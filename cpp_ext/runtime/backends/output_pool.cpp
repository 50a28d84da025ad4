// Buffers for outputs, used in turn.
#include "output_pool.h"

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <new>

namespace mmedge::runtime {
namespace {

constexpr size_t kAlignment = 64;
// Stands for "no engine" in a Value: every engine takes such a tensor where it lies.
constexpr char kTag = 0;

enum State : int { kFree, kHeld, kOrphaned };

}  // namespace

// The elements follow it in the same block.
struct alignas(kAlignment) OutputPool::Buffer {
  std::atomic<int> state;
  size_t room;

  uint8_t* data() noexcept { return reinterpret_cast<uint8_t*>(this + 1); }
};

void OutputPool::free(Buffer* buffer) noexcept {
  buffer->~Buffer();
  std::free(buffer);
}

OutputPool::~OutputPool() {
  for (Buffer* buffer : buffers_) {
    // What a Value holds goes with it.
    if (buffer->state.exchange(kOrphaned, std::memory_order_acq_rel) == kFree) free(buffer);
  }
}

void OutputPool::release(const void*, void* held) noexcept {
  auto* buffer = static_cast<Buffer*>(held);
  int expected = kHeld;
  if (!buffer->state.compare_exchange_strong(expected, kFree, std::memory_order_acq_rel)) {
    free(buffer);
  }
}

Value OutputPool::copy(const TensorView& tensor) noexcept {
  const size_t bytes = tensor.bytes();
  Buffer** place = nullptr;
  for (Buffer*& each : buffers_) {
    if (each->state.load(std::memory_order_acquire) != kFree) continue;
    place = &each;
    if (each->room >= bytes) break;
  }
  if (place == nullptr || (*place)->room < bytes) {
    // A state that grows with each step would otherwise need another one each time.
    const size_t room = (bytes + bytes / 2 + kAlignment) / kAlignment * kAlignment;
    void* memory = std::aligned_alloc(kAlignment, sizeof(Buffer) + room);
    if (memory == nullptr) return Value();
    auto* made = new (memory) Buffer{{kFree}, room};
    if (place != nullptr) {
      free(*place);
      *place = made;
    } else {
      try {
        buffers_.push_back(made);
      } catch (const std::bad_alloc&) {
        free(made);
        return Value();
      }
      place = &buffers_.back();
    }
  }
  Buffer* buffer = *place;
  buffer->state.store(kHeld, std::memory_order_relaxed);
  if (bytes > 0 && tensor.data != nullptr) std::memcpy(buffer->data(), tensor.data, bytes);
  TensorView view = tensor;
  view.data = buffer->data();
  return {&kTag, buffer, release, view};
}

}  // namespace mmedge::runtime
