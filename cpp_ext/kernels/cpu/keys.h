// Walks over the keys that take part, of all segments, in blocks of pointers.
//
// A key that is hidden costs a look at its mask and no more: what is not in a block is neither
// loaded nor multiplied. So a block may hold keys of several segments, and cutting a segment in two
// changes nothing, not even rounding.
#ifndef MMEDGE_KERNELS_CPU_KEYS_H_
#define MMEDGE_KERNELS_CPU_KEYS_H_

#include "tile.h"

namespace mmedge::cpu {
namespace {

// Keys to be attended to next. `add` is what is added to every row's score, times log2 e. `bias` is
// the first row's bias of keys whose bias differs by row, else null.
struct Block {
  int count;
  bool by_row;
  const float* k[kBlock + kMostKeys];  // kernels repeat the last key to the end of a group
  const float* v[kBlock];
  float add[kBlock];
  const float* bias[kBlock];
  int64_t bias_step[kBlock];
};

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
    while (segment_ < end_ && ordinal_ < tile_.last && block.count < kBlock) {
      if (key_ >= length_) {
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
    block.bias[at] = nullptr;
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
    const int count = static_cast<int>(least(room(block), length_ - key_));
    for (int i = 0; i < count; ++i) put(block, block.count + i, key_ + i, shift_);
    block.count += count;
    key_ += count;
    ordinal_ += count;
  }

  // Some may not. Each is put down and the next one put over it if it does not: a mask is as good as
  // random, and a branch on it costs more.
  void take_masked(Block& block) {
    const bool by_row = bias_ != nullptr && bias_step_ != 0;
    const float* bias = by_row ? nullptr : bias_;
    for (; ordinal_ < tile_.first && key_ < length_; ++key_) ordinal_ += takes(bias, key_);
    const int begin = block.count, end = begin + room(block);
    int at = begin;
    if (bias == nullptr && valid_ != nullptr && !by_row) {
      for (; key_ < length_ && at < end; ++key_) {
        put(block, at, key_, shift_);
        at += valid_[key_] != 0;
      }
    } else {
      for (; key_ < length_ && at < end; ++key_) {
        put(block, at, key_, bias == nullptr ? shift_ : shift_ + bias[key_] * kLog2e);
        if (by_row) {
          block.bias[at] = bias_ + key_;
          block.bias_step[at] = bias_step_;
        }
        at += takes(bias, key_);
      }
      block.by_row = block.by_row || (by_row && at > begin);
    }
    block.count = at;
    ordinal_ += at - begin;
  }

  bool takes(const float* bias, int64_t key) const {
    return (valid_ == nullptr || valid_[key] != 0) &&
           (bias == nullptr || bias[key] != -__builtin_inff());
  }

  static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

  const mmedge_segattn& call_;
  const Tile& tile_;
  int segment_;
  const int end_;
  int64_t ordinal_;  // of the next key among those that take part
  int64_t key_;      // of the segment
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
