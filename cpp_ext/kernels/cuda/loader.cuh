// Brings tiles of keys and values to shared memory, ahead of their use.
//
// Threads that use the same rows load them together: the warp its 16 where the warps share the keys
// of a tile out, so that it waits for nobody else; else the block all of them. What is past the
// segment's length or the head's width is not read and becomes 0, so that it cannot be NaN.
#ifndef MMEDGE_KERNELS_CUDA_LOADER_CUH_
#define MMEDGE_KERNELS_CUDA_LOADER_CUH_

#include "layout.cuh"
#include "tile_iterator.cuh"

namespace mmedge::cuda {

template <int Width, Role R, bool Full>
class Loader {
  using Layout = TileLayout<Width>;
  static constexpr int kKeys = Tiling<Width, R>::kKeys;
  static constexpr int kThreadsEach = R == Role::kFew ? 32 : kThreads;
  static constexpr int kRows = R == Role::kFew ? 16 : kKeys;
  // Threads side by side take neighbouring chunks of a row.
  static constexpr int kAcross = Layout::kChunks % 8 == 0 ? 8 : 4;
  static constexpr int kRowsAtOnce = kThreadsEach / kAcross;
  static_assert(kRows % kRowsAtOnce == 0);

 public:
  // `first` is the first row of a tile that these threads load, `thread` this one's number among
  // them, `tile` the tile to start with.
  __device__ __forceinline__ Loader(const Params& p, const WorkTile& work_tile, const int* lengths,
                                    int first, int thread, int tile)
      : p_(p),
        work_tile_(work_tile),
        iterator_(lengths, p.call.segments, tile),
        first_(first),
        thread_(thread) {
    if (!Full) enter();
  }

  // Starts to load the next tile to these addresses. Not past the last tile.
  __device__ __forceinline__ void load(uint32_t keys, uint32_t values) {
    // Full kernels have no registers left to keep addresses in from one tile to the next.
    if (Full) enter();
    const int rows = iterator_.length() - iterator_.key() - first_;
    if (Full && bytes_ == 1) {
      load_8_bit(k_, k_step_, keys, rows);
      load_8_bit(v_, v_step_, values, rows);
    } else {
      load_16_bit(k_, k_step_, keys, rows);
      load_16_bit(v_, v_step_, values, rows);
    }
    if (iterator_.next()) {
      if (!Full) enter();
    } else {
      k_ += kKeys * k_step_;
      v_ += kKeys * v_step_;
    }
  }

 private:
  // Addresses of this thread's group's first row of the tile.
  __device__ __forceinline__ void enter() {
    if (iterator_.done()) return;
    const mmedge_segment& s = p_.call.segment[iterator_.segment()];
    bytes_ = Full && s.dtype == MMEDGE_I8 ? 1 : 2;
    const int key = iterator_.key() + first_;
    k_step_ = s.k_stride[1] * bytes_;
    v_step_ = s.v_stride[1] * bytes_;
    k_ = static_cast<const unsigned char*>(s.k) +
         (work_tile_.batch * s.k_stride[0] + work_tile_.kv_head * s.k_stride[2]) * bytes_ +
         key * k_step_;
    v_ = static_cast<const unsigned char*>(s.v) +
         (work_tile_.batch * s.v_stride[0] + work_tile_.kv_head * s.v_stride[2]) * bytes_ +
         key * v_step_;
  }

  __device__ __forceinline__ void load_16_bit(const unsigned char* from, int64_t step, uint32_t to,
                                              int rows) const {
    const int thread = Full ? anew(thread_) : thread_;
    const int chunk = thread % kAcross;
    const int row = thread / kAcross;
    const int chunks = p_.call.dim / 8;
    from += row * step + chunk * 16;
#pragma unroll
    for (int i = 0; i < kRows; i += kRowsAtOnce) {
#pragma unroll
      for (int c = 0; c < Layout::kChunks; c += kAcross) {
        const bool inside = row + i < rows && chunk + c < chunks;
        copy_async(to + static_cast<uint32_t>(Layout::offset(first_ + row + i, chunk + c)),
                   from + i * step + c * 16, inside ? 16 : 0);
      }
    }
  }

  // 8-bit elements lie as in global memory, Width bytes a row: dequantize() makes a tile of them.
  __device__ __forceinline__ void load_8_bit(const unsigned char* from, int64_t step, uint32_t to,
                                             int rows) const {
    constexpr int kChunks = Width / 16;
    const int thread = anew(thread_);
#pragma unroll
    for (int i = 0; i < kRows * kChunks; i += kThreadsEach) {
      const int row = (i + thread) / kChunks;
      const int column = (i + thread) % kChunks * 16;
      if (row < kRows) {
        const int left = row < rows ? p_.call.dim - column : 0;
        copy_async(to + static_cast<uint32_t>((first_ + row) * Width + column),
                   from + row * step + column, left < 0 ? 0 : left < 16 ? left : 16);
      }
    }
  }

  const Params& p_;
  const WorkTile& work_tile_;
  TileIterator<kKeys> iterator_;
  const int first_;
  const int thread_;
  int bytes_ = 2;  // of an element
  int64_t k_step_ = 0;  // bytes from one row to the next
  int64_t v_step_ = 0;
  const unsigned char* k_ = nullptr;
  const unsigned char* v_ = nullptr;
};

}  // namespace mmedge::cuda

#endif  // MMEDGE_KERNELS_CUDA_LOADER_CUH_
