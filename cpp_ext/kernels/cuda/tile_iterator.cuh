// Goes over the tiles of keys of all segments.
//
// A tile belongs to one segment: the last one of a segment may be partly empty. Lengths are read on
// the device; segments that are absent, or that gates drop, have no tiles and cost nothing.
#ifndef MMEDGE_KERNELS_CUDA_TILE_ITERATOR_CUH_
#define MMEDGE_KERNELS_CUDA_TILE_ITERATOR_CUH_

#include "work_tile.cuh"

namespace mmedge::cuda {

// Keys of a segment that count for some row of the group.
__device__ __forceinline__ int count_keys(const Params& p, const WorkTile& work_tile, int segment) {
  const mmedge_segment& s = p.call.segment[segment];
  int length = static_cast<int>(s.length);
  if (s.lens != nullptr) {
    const int given = s.lens[work_tile.batch];
    length = given < 0 ? 0 : given < length ? given : length;
  }
  if (p.call.seg_bias != nullptr) {
    const float* gate = p.call.seg_bias + work_tile.batch * p.call.seg_bias_stride[0] +
                        work_tile.kv_head * p.group * p.call.seg_bias_stride[1] + segment;
    const int heads = p.call.seg_bias_stride[1] == 0 ? 1 : p.group;
    bool dropped = true;
    for (int h = 0; h < heads && dropped; ++h) {
      dropped = gate[h * p.call.seg_bias_stride[1]] == -kInfinity;
    }
    if (dropped) length = 0;
  }
  return length;
}

template <int Keys>
__device__ __forceinline__ int tiles_of(int length) {
  return (length + Keys - 1) / Keys;
}

// One tile after the other. `lengths` is what count_keys() gave of each segment.
template <int Keys>
class TileIterator {
 public:
  // Starts at a tile, numbered over all segments.
  __device__ __forceinline__ TileIterator(const int* lengths, int segments, int tile)
      : lengths_(lengths), segments_(segments), segment_(0), length_(lengths[0]) {
    int tiles = tiles_of<Keys>(length_);
    while (tile >= tiles && segment_ + 1 < segments_) {
      tile -= tiles;
      length_ = lengths_[++segment_];
      tiles = tiles_of<Keys>(length_);
    }
    key_ = tile * Keys;
  }

  // True where the next tile is of another segment; after the last tile of all, of none.
  __device__ __forceinline__ bool next() {
    key_ += Keys;
    if (key_ < length_) return false;
    key_ = 0;
    length_ = 0;
    while (length_ == 0 && ++segment_ < segments_) length_ = lengths_[segment_];
    return true;
  }

  __device__ __forceinline__ bool done() const { return segment_ >= segments_; }
  __device__ __forceinline__ int segment() const { return segment_; }
  // The tile's first key, and the segment's keys.
  __device__ __forceinline__ int key() const { return key_; }
  __device__ __forceinline__ int length() const { return length_; }

 private:
  const int* lengths_;
  int segments_;
  int segment_;
  int length_;
  int key_;
};

}  // namespace mmedge::cuda

#endif  // MMEDGE_KERNELS_CUDA_TILE_ITERATOR_CUH_
