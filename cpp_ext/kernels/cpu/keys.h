// Goes over the keys that take part, of all segments, in blocks of pointers.
//
// A key that is hidden costs a look at its mask and no more: what is not in a block is neither
// loaded nor multiplied. So a block may hold keys of several segments, and cutting a segment in two
// changes nothing, not even rounding.
#ifndef MMEDGE_KERNELS_CPU_KEYS_H_
#define MMEDGE_KERNELS_CPU_KEYS_H_

#include "tile.h"

namespace mmedge::cpu {
namespace {

// Keys to be attended to next. `add` is what is added to every row's score, times log2 e. Where
// `by_row`, `bias` is the first row's bias of keys whose bias differs by row, else null.
struct Block {
  int count;
  bool by_row;
  bool gaps;  // keys were left out, so that rows do not follow one another in memory
  const float* k[kBlock + kMostKeys];  // kernels repeat the last key to the end of a group
  const float* v[kBlock];
  float add[kBlock + kMostKeys];
  const float* bias[kBlock];
  int64_t bias_step[kBlock];
};

template <class V>
class Keys {
 public:
  // Keys of segments [begin, end).
  Keys(const Tile& tile, int begin, int end)
      : call_(*tile.call), tile_(tile), segment_(begin), end_(end), ordinal_(0), key_(0) {
    enter();
  }

  // Fill `block` with the next keys of the tile's part; false when there are none left.
  bool next(Block& block) {
    block.count = 0;
    block.by_row = false;
    block.gaps = false;
    while (segment_ < end_ && ordinal_ < tile_.last && block.count < kBlock) {
      if (key_ >= length_ && mask_ == 0) {
        ++segment_;
        key_ = 0;
        enter();
      } else if (valid_ == nullptr && bias_ == nullptr) {
        take_run(block);
      } else {
        take_masked(block);
      }
    }
    return block.count > 0;
  }

 private:
  void enter() {
    for (; segment_ < end_; ++segment_) {
      const mmedge_segment& s = call_.segment[segment_];
      length_ = s.length;
      if (s.lens != nullptr) {
        const int64_t given = s.lens[tile_.batch];
        length_ = given < 0 ? 0 : given < length_ ? given : length_;
      }
      shift_ = 0.0f;
      if (call_.seg_bias != nullptr) {
        const float given = call_.seg_bias[tile_.batch * call_.seg_bias_stride[0] +
                                           tile_.head * call_.seg_bias_stride[1] + segment_];
        if (given == -__builtin_inff()) continue;
        shift_ = given * kLog2e;
      }
      if (length_ == 0) continue;
      k_ = static_cast<const float*>(s.k) + tile_.batch * s.k_stride[0] +
           tile_.kv_head * s.k_stride[2];
      v_ = static_cast<const float*>(s.v) + tile_.batch * s.v_stride[0] +
           tile_.kv_head * s.v_stride[2];
      k_step_ = s.k_stride[1];
      v_step_ = s.v_stride[1];
      valid_ = s.key_valid == nullptr ? nullptr
                                      : s.key_valid + tile_.batch * s.key_valid_stride;
      bias_ = s.bias == nullptr ? nullptr
                                : static_cast<const float*>(s.bias) +
                                      tile_.batch * s.bias_stride[0] +
                                      tile_.head * s.bias_stride[1];
      // One query row has nothing to differ from.
      bias_step_ = call_.rows > 1 ? s.bias_stride[2] : 0;
      return;
    }
  }

  void put(Block& block, int at, int64_t key, float add) const {
    block.k[at] = k_ + key * k_step_;
    block.v[at] = v_ + key * v_step_;
    block.add[at] = add;
  }

  // Most keys that the block and the tile's part have room for.
  int room(const Block& block) const {
    return static_cast<int>(least(kBlock - block.count, tile_.last - ordinal_));
  }

  // All keys take part: as many as there is room for.
  void take_run(Block& block) {
    if (ordinal_ < tile_.first) {
      const int64_t skipped = least(tile_.first - ordinal_, length_ - key_);
      ordinal_ += skipped;
      key_ += skipped;
      return;
    }
    const int begin = block.count, count = static_cast<int>(least(room(block), length_ - key_));
    for (int i = 0; i < count; ++i) put(block, begin + i, key_ + i, shift_);
    for (int i = 0; i < count && block.by_row; ++i) block.bias[begin + i] = nullptr;
    block.count += count;
    key_ += count;
    ordinal_ += count;
  }

  // Some may not: 64 at a time become bits, and what is left out costs nothing more.
  void take_masked(Block& block) {
    const bool by_row = bias_ != nullptr && bias_step_ != 0;
    if (mask_ == 0) {
      read_mask(by_row ? nullptr : bias_);
      skip();
    }
    if (mask_ == 0) return;
    const int begin = block.count, end = begin + room(block);
    int at = begin;
    block.gaps = block.gaps || mask_ != ~uint64_t{0};
    for (; mask_ != 0 && at < end; mask_ &= mask_ - 1, ++at) {
      const int64_t key = chunk_ + __builtin_ctzll(mask_);
      put(block, at, key, bias_ == nullptr || by_row ? shift_ : shift_ + bias_[key] * kLog2e);
      if (by_row) {
        block.bias[at] = bias_ + key;
        block.bias_step[at] = bias_step_;
      } else {
        block.bias[at] = nullptr;
      }
    }
    if (by_row && !block.by_row) {
      for (int i = 0; i < begin; ++i) block.bias[i] = nullptr;
      block.by_row = true;
    }
    block.count = at;
    ordinal_ += at - begin;
  }

  // Which of the next 64 keys take part.
  void read_mask(const float* bias) {
    chunk_ = key_;
    const int count = static_cast<int>(least(64, length_ - key_));
    mask_ = ~uint64_t{0};
    if (count < 64) mask_ = (uint64_t{1} << count) - 1;
    if (valid_ != nullptr) {
      uint8_t part[64] = {};
      for (int i = 0; i < count && count < 64; ++i) part[i] = valid_[key_ + i];
      mask_ &= V::mask_of(count < 64 ? part : valid_ + key_);
    }
    for (int i = 0; i < count && bias != nullptr; i += V::kWidth) {
      float part[V::kWidth];
      const float* from = bias + key_ + i;
      if (i + V::kWidth > count) {
        for (int j = 0; j < V::kWidth; ++j) part[j] = i + j < count ? from[j] : 0.0f;
        from = part;
      }
      mask_ &= ~(static_cast<uint64_t>(V::lost_of(V::load(from))) << i);
    }
    key_ += count;
  }

  // Leave out what comes before the tile's part.
  void skip() {
    int64_t left = tile_.first - ordinal_;
    if (left <= 0) return;
    const int64_t count = __builtin_popcountll(mask_);
    if (count <= left) {
      mask_ = 0;
      ordinal_ += count;
      return;
    }
    ordinal_ += left;
    for (; left > 0; --left) mask_ &= mask_ - 1;
  }

  static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

  const mmedge_segattn& call_;
  const Tile& tile_;
  int segment_;
  const int end_;
  int64_t ordinal_;  // of the next key among those that take part
  int64_t key_;      // of the segment
  int64_t chunk_ = 0;  // first key that `mask_` is of
  uint64_t mask_ = 0;  // keys that take part and are still to be put into a block
  int64_t length_ = 0;
  float shift_ = 0.0f;
  const float* k_ = nullptr;
  const float* v_ = nullptr;
  int64_t k_step_ = 0;
  int64_t v_step_ = 0;
  const uint8_t* valid_ = nullptr;
  const float* bias_ = nullptr;
  int64_t bias_step_ = 0;
};

}  // namespace
}  // namespace mmedge::cpu

#endif  // MMEDGE_KERNELS_CPU_KEYS_H_
