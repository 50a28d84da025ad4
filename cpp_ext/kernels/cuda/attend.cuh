// The kernel: a block attends with one tile of rows to one part of their keys.
//
//   grid x: part of the keys    y: tile of rows    z: batch and head of keys
//
// Both roles of a block (tiling.h) are one source. Where there are few rows the warps share out the
// keys of each tile, go through their parts without waiting for each other, and merge their states
// at the end; where there are many, each warp has rows of its own.
//
// `Full` kernels have what is seldom needed and costs registers: masks, biases, 8-bit keys and
// values, INDEPENDENT segments.
#ifndef MMEDGE_KERNELS_CUDA_ATTEND_CUH_
#define MMEDGE_KERNELS_CUDA_ATTEND_CUH_

#include "dequantize.cuh"
#include "epilogue.cuh"
#include "loader.cuh"
#include "masks.cuh"
#include "merge_states.cuh"
#include "softmax.cuh"
#include "tile_iterator.cuh"

namespace mmedge::cuda {

template <class T, int Width, Role R, bool Full>
class Attention {
  using Sizes = Tiling<Width, R>;
  static constexpr bool kFew = R == Role::kFew;
  static constexpr int kRows = Sizes::kRows;
  static constexpr int kKeys = Sizes::kKeys;
  static constexpr int kWarpKeys = kFew ? 16 : kKeys;
  static constexpr int kStages = Sizes::kStages;
  static constexpr int kTileBytes = Sizes::kTileBytes;
  // Rows of scratch are 8 floats apart from each other's banks.
  static constexpr int kScratchRow = Width + 8;
  static constexpr int kGroup = kFew ? 32 : kThreads;  // threads that share tiles
  using Scores = float[kWarpKeys / 8][4];
  // At the end, 8 threads have a row where there are few, and 4 lanes where there are many.
  using RowEpilogue = Epilogue<T, Width, kRows, kFew ? 16 : 8>;

  static_assert(kWarps * 16 * (kScratchRow + 2) * 4 <= kStages * 2 * kTileBytes || !kFew);

 public:
  __device__ __forceinline__ explicit Attention(const Params& p)
      : p_(p), memory_(shared_memory()), warp_(thread_index() / 32), lane_(thread_index() % 32) {
    work_tile_.batch = block_z() / p.call.kv_heads;
    work_tile_.kv_head = block_z() - work_tile_.batch * p.call.kv_heads;
    work_tile_.first = block_y() * kRows;
    const int rest = p.group_rows - work_tile_.first;
    work_tile_.count = rest < kRows ? rest : kRows;
  }

  __device__ __forceinline__ void run() {
    // Queries are on their way while lengths and gates are read.
    load_queries<Width>(q_, p_, work_tile_, first_row(), lane_);
    prepare();
    // One pass over all keys of the part; or, where segments are INDEPENDENT, one over each of the
    // part's segments. A loop, so that the body is compiled once.
    int segment = -1;
    Tiles tiles = part();
    while (!independent() || next_segment(segment, tiles)) {
      attend(tiles);
      settle(segment);
      if (!independent()) break;
      sync_block();  // before other tiles come to lie where these did
    }
    if (independent()) settle_totals();
    if (p_.splits > 1) {
      const int tile = this->tile();
      if (arrive_last(p_, tile, lengths_memory() + MMEDGE_MAX_SEGMENTS)) {
        merge_states<T, Width, R>(p_, work_tile_, tile);
      }
    }
  }

 private:
  // ---- Shared memory

  __device__ __forceinline__ int* lengths_memory() const {
    return reinterpret_cast<int*>(memory_);
  }
  __device__ __forceinline__ const int* lengths() const { return lengths_memory(); }
  __device__ __forceinline__ float* gates() const {
    return reinterpret_cast<float*>(memory_ + p_.shared.gates);
  }
  __device__ __forceinline__ float* scratch() const {
    return reinterpret_cast<float*>(memory_ + p_.shared.tiles);
  }
  __device__ __forceinline__ float* added() const {
    return reinterpret_cast<float*>(memory_ + p_.shared.added);
  }
  __device__ __forceinline__ float* totals() const {
    return reinterpret_cast<float*>(memory_ + p_.shared.totals);
  }

  // ---- Places

  __device__ __forceinline__ bool independent() const {
    return Full && p_.call.mode == MMEDGE_INDEPENDENT;
  }
  // Of the tile: rows of the warp, and where its keys start.
  __device__ __forceinline__ int first_row() const { return kFew ? 0 : warp_ * 16; }
  __device__ __forceinline__ int first_key() const { return kFew ? warp_ * 16 : 0; }
  __device__ __forceinline__ int group_thread() const { return kFew ? lane_ : thread_index(); }
  __device__ __forceinline__ int tile() const { return block_z() * grid_y() + block_y(); }
  // Waits for the threads that share tiles.
  __device__ __forceinline__ void sync_group() const {
    if (kFew) {
      sync_warp();
    } else {
      sync_block();
    }
  }

  // ---- Which keys

  // Tiles [first, last), numbered over all segments.
  struct Tiles {
    int first;
    int last;
  };

  // The block's part of them: lengths are known here, so that all parts are of one size.
  __device__ __forceinline__ Tiles part() const {
    int total = 0;
    for (int s = 0; s < p_.call.segments; ++s) total += tiles_of<kKeys>(lengths()[s]);
    const int split = block_x();
    const int each = total / p_.splits, rest = total - each * p_.splits;
    const int first = split * each + (split < rest ? split : rest);
    return {first, first + each + (split < rest ? 1 : 0)};
  }

  // The next segment whose first tile falls into the part: these are its segments, whole.
  __device__ __forceinline__ bool next_segment(int& segment, Tiles& tiles) const {
    const Tiles mine = part();
    int end = 0;
    for (int s = 0; s < p_.call.segments; ++s) {
      const int begin = end;
      end += tiles_of<kKeys>(lengths()[s]);
      if (s > segment && begin < end && begin >= mine.first && begin < mine.last) {
        segment = s;
        tiles = {begin, end};
        return true;
      }
    }
    return false;
  }

  // ---- Steps

  // Lengths and gates are read once, by threads side by side: their latency is paid once.
  __device__ __forceinline__ void prepare() {
    const int thread = thread_index();
    if (thread < p_.call.segments) lengths_memory()[thread] = count_keys(p_, work_tile_, thread);
    if (p_.call.seg_bias != nullptr) {
      for (int i = thread; i < p_.call.segments * kRows; i += kThreads) {
        const Row row = row_of(p_, work_tile_, i % kRows);
        gates()[i] = kLog2e * p_.call.seg_bias[work_tile_.batch * p_.call.seg_bias_stride[0] +
                                               row.head * p_.call.seg_bias_stride[1] + i / kRows];
      }
    }
    if (independent()) {
      for (int i = thread; i < kRows * (Width + 1); i += kThreads) totals()[i] = 0.0f;
    }
    sync_block();
  }

  // Maxima, sums and outputs over some tiles.
  __device__ __forceinline__ void attend(const Tiles& tiles) {
    state_.reset();
    Loader<Width, R, Full> loader(p_, work_tile_, lengths(), first_key(), group_thread(),
                                  tiles.first);
    TileIterator<kKeys> iterator(lengths(), p_.call.segments, tiles.first);
    const int count = tiles.last - tiles.first;
    int load_stage = 0, stage = 0;
    // Passes before the first only load. One loop for all, so that loading is compiled once.
#pragma unroll 1
    for (int i = 1 - kStages; i < count; ++i) {
      if (i >= 0) {
        wait_copies<kStages - 2>();
        // The tile is here for all who share it, and all are done with the one before.
        sync_group();
      }
      if (i + kStages - 1 < count) {
        const uint32_t to = shared_address(memory_ + p_.shared.tiles) +
                            static_cast<uint32_t>(load_stage * 2 * kTileBytes);
        loader.load(to, to + kTileBytes);
        load_stage = load_stage + 1 == kStages ? 0 : load_stage + 1;
      }
      // An empty group keeps the count of groups that may be on their way.
      commit_copies();
      if (i >= 0) {
        attend_tile(iterator, stage);
        stage = stage + 1 == kStages ? 0 : stage + 1;
        iterator.next();
      }
    }
    wait_copies<0>();
    state_.total();
  }

  __device__ __forceinline__ void attend_tile(const TileIterator<kKeys>& iterator, int stage) {
    const mmedge_segment& segment = p_.call.segment[iterator.segment()];
    const bool is_int8 = Full && segment.dtype == MMEDGE_I8;
    const int at = p_.shared.tiles + stage * 2 * kTileBytes;
    const int keys = is_int8 ? p_.shared.dequantized : at;
    const int values = is_int8 ? p_.shared.dequantized : at + kTileBytes;
    const int key = iterator.key() + first_key();
    const bool active = key < iterator.length() && first_row() < work_tile_.count;
    // Addresses of fragments are kept in registers where there are enough.
    const int lane = Full ? anew(lane_) : lane_;
    Scores s;
    if (is_int8) dequantize_tile(at, 1.0f);
    if (Full) {
      load_added<T, kRows, kKeys, kWarpKeys, kGroup>(added(), p_, work_tile_, segment,
                                                     iterator.key(), iterator.length(), first_key(),
                                                     group_thread());
      sync_group();
    }
    if (active) {
      state_.multiply_keys(s, q_, shared_address(memory_ + keys), first_key(), lane);
      weigh(s, iterator.segment(), key, iterator.length(), is_int8);
    }
    if (is_int8) {
      sync_group();
      dequantize_tile(at + kTileBytes, segment.v_scale);
      sync_group();
    }
    if (active) {
      state_.template multiply_values<Full>(s, shared_address(memory_ + values), first_key(), lane);
    }
  }

  __device__ __forceinline__ void dequantize_tile(int from, float factor) const {
    dequantize<T, Width, kFew ? 16 : kKeys, kGroup>(
        memory_ + from, memory_ + p_.shared.dequantized, first_key(), group_thread(), factor);
  }

  __device__ __forceinline__ void weigh(Scores& s, int number, int key, int length, bool is_int8) {
    float gate[2] = {0.0f, 0.0f};
    const int row = first_row() + lane_ / 4;
    if (p_.call.seg_bias != nullptr) {
      gate[0] = gates()[number * kRows + row];
      gate[1] = gates()[number * kRows + row + 8];
    }
    if constexpr (Full) {
      const mmedge_segment& segment = p_.call.segment[number];
      const float scale = is_int8 ? p_.scale * segment.k_scale : p_.scale;
      const int step = differs_by_row(p_, segment) ? kAddedRow<kKeys> : 0;
      mask(s, added() + first_row() * step + first_key(), step, scale, gate, lane_);
      const float none[2] = {0.0f, 0.0f};
      state_.weigh(s, 1.0f, none);
    } else {
      if (key + kWarpKeys > length) {
#pragma unroll
        for (int j = 0; j < kWarpKeys / 8; ++j) {
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            if (key + 8 * j + lane_ % 4 * 2 + i % 2 >= length) s[j][i] = -kInfinity;
          }
        }
      }
      state_.weigh(s, p_.scale, gate);
    }
  }

  // ---- Results

  // Of the keys that attend() went over; `segment` is theirs where segments are INDEPENDENT.
  __device__ __forceinline__ void settle(int segment) {
    if constexpr (kFew) {
      settle_few(segment);
    } else {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float x[RowEpilogue::kPairs][2];
#pragma unroll
        for (int j = 0; j < Width / 8; ++j) {
          x[j][0] = state_.o[j][2 * half];
          x[j][1] = state_.o[j][2 * half + 1];
        }
        settle_row(segment, first_row() + lane_ / 4 + 8 * half, lane_ % 4, state_.m[half],
                   state_.l[half], x);
      }
    }
  }

  // The states of the warps' parts of the keys, merged in their order.
  __device__ __forceinline__ void settle_few(int segment) {
    float* outputs = scratch();
    float* maxima = outputs + kWarps * 16 * kScratchRow;
    float* sums = maxima + kWarps * 16;
    sync_block();  // all are done with the tiles that lay there
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = warp_ * 16 + lane_ / 4 + 8 * half;
#pragma unroll
      for (int j = 0; j < Width / 8; ++j) {
        *reinterpret_cast<float2*>(outputs + row * kScratchRow + 8 * j + lane_ % 4 * 2) =
            make_float2(state_.o[j][2 * half], state_.o[j][2 * half + 1]);
      }
      if (lane_ % 4 == 0) {
        maxima[row] = state_.m[half];
        sums[row] = state_.l[half];
      }
    }
    sync_block();
    const int row = thread_index() / 8, piece = thread_index() % 8;
    float m = -kInfinity;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) m = fmaxf(m, maxima[w * 16 + row]);
    const float base = base_of(m);
    float l = 0.0f;
    float x[RowEpilogue::kPairs][2] = {};
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      const float weight = exp2_fast(maxima[w * 16 + row] - base);
      l = fmaf(weight, sums[w * 16 + row], l);
      const float* from = outputs + (w * 16 + row) * kScratchRow + piece * 2;
#pragma unroll
      for (int j = 0; j < Width / 16; ++j) {
        const float2 part = *reinterpret_cast<const float2*>(from + 16 * j);
        x[j][0] = fmaf(weight, part.x, x[j][0]);
        x[j][1] = fmaf(weight, part.y, x[j][1]);
      }
    }
    settle_row(segment, row, piece, m, l, x);
  }

  // `piece` is which of the row's threads this one is.
  __device__ __forceinline__ void settle_row(int segment, int row, int piece, float m, float l,
                                             const float (&x)[RowEpilogue::kPairs][2]) {
    const bool empty = l == 0.0f;
    if (independent()) {
      float factor = reciprocal(l);
      if (p_.call.gamma != nullptr) {
        factor *= p_.call.gamma[work_tile_.batch * p_.call.gamma_stride[0] +
                                row_of(p_, work_tile_, row).head * p_.call.gamma_stride[1] +
                                segment];
      }
      RowEpilogue::add(totals(), row, piece * 2, piece == 0, factor, empty, x);
    } else if (p_.splits > 1) {
      RowEpilogue::leave(partial(), row, piece * 2, piece == 0, m, l, x);
    } else {
      RowEpilogue::write(p_, work_tile_, row, piece * 2, reciprocal(l), empty, x);
      if (piece == 0 && row < work_tile_.count) {
        write_lse(p_, work_tile_, row_of(p_, work_tile_, row), m, l);
      }
    }
  }

  __device__ __forceinline__ void settle_totals() {
    sync_block();
    const int pieces = kFew ? 8 : 4;
    const int row = kFew ? thread_index() / 8 : first_row() + lane_ / 4;
    const int piece = thread_index() % pieces;
#pragma unroll
    for (int half = 0; half < (kFew ? 1 : 2); ++half) {
      float x[RowEpilogue::kPairs][2];
      RowEpilogue::take(totals(), row + 8 * half, piece * 2, x);
      const float any = totals()[kRows * Width + row + 8 * half];
      if (p_.splits > 1) {
        RowEpilogue::leave(partial(), row + 8 * half, piece * 2, piece == 0,
                      any == 0.0f ? -kInfinity : 0.0f, any, x);
      } else {
        RowEpilogue::write(p_, work_tile_, row + 8 * half, piece * 2, 1.0f, any == 0.0f, x);
      }
    }
  }

  __device__ __forceinline__ float* partial() const {
    return partial_of(p_, tile(), block_x(), Sizes::kPartialFloats);
  }

  const Params& p_;
  unsigned char* const memory_;
  const int warp_;
  const int lane_;
  WorkTile work_tile_;
  uint32_t q_[Width / 16][4];
  Softmax<T, Width, kWarpKeys> state_;
};

template <class T, int Width, Role R, bool Full>
__global__ void __launch_bounds__(kThreads, blocks_per_sm(R, Width, Full))
    attend(const __grid_constant__ Params p) {
  Attention<T, Width, R, Full>(p).run();
}

}  // namespace mmedge::cuda

#endif  // MMEDGE_KERNELS_CUDA_ATTEND_CUH_
