// Memory for outputs that are kept across runs, of engines that write theirs to one place.
#ifndef MMEDGE_RUNTIME_BACKENDS_OUTPUT_POOL_H_
#define MMEDGE_RUNTIME_BACKENDS_OUTPUT_POOL_H_

#include <vector>

#include "backend.h"

namespace mmedge::runtime {

// Buffers that are used again when the Value that held one is gone. One thread copies at a time; a
// Value may end on any thread, and after the pool.
class OutputPool {
 public:
  OutputPool() = default;
  ~OutputPool();
  OutputPool(const OutputPool&) = delete;
  OutputPool& operator=(const OutputPool&) = delete;

  // A copy of a tensor, or room for one without data, at a multiple of 64 bytes. Allocates only where no free buffer is large
  // enough. Empty: memory is exhausted.
  Value copy(const TensorView& tensor) noexcept;

 private:
  struct Buffer;
  static void release(const void* engine, void* buffer) noexcept;
  static void free(Buffer* buffer) noexcept;

  std::vector<Buffer*> buffers_;
};

}  // namespace mmedge::runtime

#endif  // MMEDGE_RUNTIME_BACKENDS_OUTPUT_POOL_H_
