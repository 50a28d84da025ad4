// One tile of segmented attention on vectors of an instruction set `V` (simd_*.h).
//
// Two ways through, by how many query rows there are:
//
// - lanes: a vector holds one score of each of several query rows. Scores of a block are kept as
//   [key][row], so that keys and values are read where they lie, element by element and row by row,
//   and nothing is transposed but the queries, once.
// - dots: with fewer rows than lanes, a vector holds elements of one key instead, and scores are
//   [row][key].
//
// Softmax is online, with base 2: log2 e is part of the scale of the queries. A score that is NaN is
// passed over by the maximum and makes its row NaN through its weight.
#ifndef MMEDGE_KERNELS_CPU_ATTEND_H_
#define MMEDGE_KERNELS_CPU_ATTEND_H_

#include "keys.h"
#include "tile.h"

namespace mmedge::cpu {
namespace {

constexpr float kInf = __builtin_inff();

alignas(64) constexpr float kZeros[kMostDim] = {};

template <class V>
class Attend {
  using F = typename V::F;
  static constexpr int W = V::kWidth;
  static constexpr int Q = V::kQueries;  // vectors of query rows in a tile
  static constexpr int T = W * Q;        // query rows in a tile
  static_assert(T <= kMostRows);

 public:
  static void run(const Tile& tile) {
    Attend self(tile);
    self.run();
  }

 private:
  explicit Attend(const Tile& tile) : tile_(tile), call_(*tile.call), count_(tile.count) {
    lanes_ = count_ > V::most_dots(call_.dim);
    vectors_ = (count_ + W - 1) / W;
    key_step_ = lanes_ ? T : 1;
    row_step_ = lanes_ ? 1 : kBlock;
    wide_ = (call_.dim_v + W - 1) / W * W;
  }

  void run() {
    load_queries();
    if (call_.mode == MMEDGE_JOINT) {
      attend(0, call_.segments);
      if (tile_.partial == nullptr) {
        write();
      } else {
        leave();
      }
      return;
    }
    bool any[T] = {};
    for (int r = 0; r < count_; ++r) {
      float* out = output(r);
      for (int c = 0; c < call_.dim_v; ++c) out[c] = 0.0f;
    }
    for (int segment = 0; segment < call_.segments; ++segment) {
      attend(segment, segment + 1);
      for (int r = 0; r < count_; ++r) {
        if (l_[r] == 0.0f) continue;
        any[r] = true;
        const int64_t head = tile_.head + (tile_.row + r) / call_.rows;
        const float gamma =
            call_.gamma == nullptr
                ? 1.0f
                : call_.gamma[tile_.batch * call_.gamma_stride[0] + head * call_.gamma_stride[1] +
                              segment];
        const float factor = gamma / l_[r];
        float* out = output(r);
        for (int c = 0; c < call_.dim_v; ++c) out[c] += factor * o_[r * kMostDim + c];
      }
    }
    for (int r = 0; r < count_ && call_.empty_is_nan; ++r) {
      float* out = output(r);
      for (int c = 0; c < call_.dim_v && !any[r]; ++c) out[c] = __builtin_nanf("");
    }
  }

  // Rows of the tile: query, output.

  void place(int r, int64_t& head, int64_t& query) const {
    const int64_t row = tile_.row + r;
    head = tile_.head + row / call_.rows;
    query = row % call_.rows;
  }

  float* output(int r) const {
    int64_t head, query;
    place(r, head, query);
    return static_cast<float*>(call_.out) + tile_.batch * call_.out_stride[0] +
           query * call_.out_stride[1] + head * call_.out_stride[2];
  }

  const float* query(int r) const {
    int64_t head, query;
    place(r, head, query);
    return static_cast<const float*>(call_.q) + tile_.batch * call_.q_stride[0] +
           query * call_.q_stride[1] + head * call_.q_stride[2];
  }

  // Queries times the scale; for lanes transposed, with rows of 0 up to a whole vector.
  void load_queries() {
    const float factor = call_.scale * kLog2e;
    const int dim = call_.dim;
    if (!lanes_) {
      for (int r = 0; r < count_; ++r) {
        const float* q = query(r);
        float* to = q_ + r * kMostDim;
        for (int d = 0; d < dim; ++d) to[d] = factor * q[d];
        for (int d = dim; d < (dim + W - 1) / W * W; ++d) to[d] = 0.0f;
      }
      return;
    }
    for (int first = 0; first < vectors_ * W; first += W) {
      const float* rows[W];
      for (int i = 0; i < W; ++i) rows[i] = first + i < count_ ? query(first + i) : kZeros;
      int d = 0;
      for (; d + W <= dim; d += W) V::transpose(rows, d, factor, q_ + d * T + first, T);
      for (; d < dim; ++d) {
        for (int i = 0; i < W; ++i) q_[d * T + first + i] = factor * rows[i][d];
      }
    }
  }

  // Maximum, sum and output over the keys of some segments.
  void attend(int begin, int end) {
    for (int r = 0; r < T; ++r) {
      m_[r] = -kInf;
      l_[r] = 0.0f;
    }
    for (int r = 0; r < (lanes_ ? vectors_ * W : count_); ++r) {
      for (int c = 0; c < wide_; ++c) o_[r * kMostDim + c] = 0.0f;
    }
    Keys<V> keys(tile_, begin, end);
    if (lanes_) {
      // The multiplications take longer than the loads.
      while (keys.next(blocks_[0])) step(blocks_[0]);
      return;
    }
    Block* block = &blocks_[0];
    Block* next = &blocks_[1];
    bool more = keys.next(*block);
    while (more) {
      more = keys.next(*next);
      if (next->gaps) fetch(*next);
      step(*block);
      Block* done = block;
      block = next;
      next = done;
    }
  }

  // One step of the online softmax.
  void step(Block& block) {
    if (lanes_) {
      switch (vectors_) {
        case 1: score_lanes<1>(block); break;
        case 2: score_lanes<2>(block); break;
        case 3: score_lanes<(Q > 2 ? 3 : 1)>(block); break;
        default: score_lanes<(Q > 3 ? 4 : 1)>(block); break;
      }
    } else {
      score_dots(block);
    }
    if (block.by_row) add_bias(block);
    if (lanes_) {
      soften_lanes(block.count);
    } else {
      soften_dots(block.count);
    }
    const int count = block.by_row ? set_aside_nonfinite_values(block) : 0;
    multiply_values(block);
    for (int i = 0; i < count; ++i) add_nonfinite_value(i);
  }

  // Ask for the rows of a block whose rows the processor cannot guess.
  void fetch(const Block& block) const {
    for (int j = 0; j < block.count; ++j) {
      for (int d = 0; d < call_.dim; d += 16) __builtin_prefetch(block.k[j] + d);
      for (int d = 0; d < call_.dim_v; d += 16) __builtin_prefetch(block.v[j] + d);
    }
  }

  // Scores.

  template <int N>
  void score_lanes(Block& block) {
    constexpr int K = V::template kKeys<N>;
    static_assert(K <= kMostKeys);
    const int count = block.count;
    for (int j = count; j < (count + K - 1) / K * K; ++j) block.k[j] = block.k[count - 1];
    for (int j = count; j < (count + K - 1) / K * K; ++j) block.add[j] = block.add[count - 1];
    const int dim = call_.dim;
    F top[N];
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) top[n] = V::all(-kInf);
    for (int j = 0; j < count; j += K) {
      const float* k[K];
      F sum[K][N];
#pragma GCC unroll 16
      for (int i = 0; i < K; ++i) {
        k[i] = block.k[j + i];
        const F add = V::all(block.add[j + i]);
#pragma GCC unroll 4
        for (int n = 0; n < N; ++n) sum[i][n] = add;
      }
      const float* q = q_;
      for (int d = 0; d < dim; ++d, q += T) {
        F query[N];
#pragma GCC unroll 4
        for (int n = 0; n < N; ++n) query[n] = V::load(q + n * W);
#pragma GCC unroll 16
        for (int i = 0; i < K; ++i) {
          const F key = V::all(k[i][d]);
#pragma GCC unroll 4
          for (int n = 0; n < N; ++n) sum[i][n] = V::fma(key, query[n], sum[i][n]);
        }
      }
#pragma GCC unroll 16
      for (int i = 0; i < K; ++i) {
        // What is behind the last key repeats it, and is written where nobody reads.
#pragma GCC unroll 4
        for (int n = 0; n < N; ++n) {
          V::store(s_ + (j + i) * T + n * W, sum[i][n]);
          top[n] = V::max(sum[i][n], top[n]);
        }
      }
    }
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) V::store(top_ + n * W, top[n]);
  }

  void score_dots(Block& block) {
    const int count = block.count;
    for (int j = count; j < (count + 3) / 4 * 4; ++j) block.k[j] = block.k[count - 1];
    int r = 0;
    for (; r + 4 <= count_; r += 4) score_dot_rows<4>(block, r);
    if (r + 2 <= count_) {
      score_dot_rows<2>(block, r);
      r += 2;
    }
    if (r < count_) score_dot_rows<1>(block, r);
    for (r = 0; r < count_; ++r) {
      float* s = s_ + r * kBlock;
      for (int j = 0; j < count; ++j) s[j] += block.add[j];
      for (int j = count; j < (count + W - 1) / W * W; ++j) s[j] = -kInf;
    }
  }

  template <int R>
  void score_dot_rows(const Block& block, int r) {
    const int whole = call_.dim / W * W, rest = call_.dim - whole;
    const float* q = q_ + r * kMostDim;
    for (int j = 0; j < block.count; j += 4) {
      F sum[R][4];
#pragma GCC unroll 4
      for (int i = 0; i < R; ++i) {
#pragma GCC unroll 4
        for (int n = 0; n < 4; ++n) sum[i][n] = V::zero();
      }
      const float* k[4] = {block.k[j], block.k[j + 1], block.k[j + 2], block.k[j + 3]};
      for (int d = 0; d < whole; d += W) {
        F key[4];
#pragma GCC unroll 4
        for (int n = 0; n < 4; ++n) key[n] = V::load(k[n] + d);
#pragma GCC unroll 4
        for (int i = 0; i < R; ++i) {
          const F query = V::load(q + i * kMostDim + d);
#pragma GCC unroll 4
          for (int n = 0; n < 4; ++n) sum[i][n] = V::fma(key[n], query, sum[i][n]);
        }
      }
      if (rest > 0) {
#pragma GCC unroll 4
        for (int i = 0; i < R; ++i) {
          const F query = V::load(q + i * kMostDim + whole);
#pragma GCC unroll 4
          for (int n = 0; n < 4; ++n) {
            sum[i][n] = V::fma(V::load_part(k[n] + whole, rest), query, sum[i][n]);
          }
        }
      }
#pragma GCC unroll 4
      for (int i = 0; i < R; ++i) V::store_sums(s_ + (r + i) * kBlock + j, sum[i]);
    }
  }

  // Biases that differ by row. Minus infinity hides a key from a row whatever its score is.
  void add_bias(const Block& block) {
    for (int r = 0; r < count_; ++r) {
      const int64_t query = (tile_.row + r) % call_.rows;
      for (int j = 0; j < block.count; ++j) {
        if (block.bias[j] == nullptr) continue;
        const float bias = block.bias[j][query * block.bias_step[j]];
        float& s = s_[j * key_step_ + r * row_step_];
        s = bias == -kInf ? -kInf : s + bias * kLog2e;
      }
    }
    for (int n = 0; n < vectors_ && lanes_; ++n) {
      F top = V::all(-kInf);
      for (int j = 0; j < block.count; ++j) top = V::max(V::load(s_ + j * T + n * W), top);
      V::store(top_ + n * W, top);
    }
  }

  // Softmax: scores become weights; `scale_` is what the output so far is to be multiplied by.

  void soften_lanes(int count) {
    for (int n = 0; n < vectors_; ++n) {
      float* s = s_ + n * W;
      const F before = V::load(m_ + n * W);
      const F top = V::max(before, V::load(top_ + n * W));
      const F base = V::zero_where_minus_inf(top);
      const F scale = V::exp2(V::sub(before, base));
      F sum = V::zero();
      for (int j = 0; j < count; ++j) {
        const F weight = V::exp2(V::sub(V::load(s + j * T), base));
        sum = V::add(sum, weight);
        V::store(s + j * T, weight);
      }
      V::store(m_ + n * W, top);
      V::store(l_ + n * W, V::fma(V::load(l_ + n * W), scale, sum));
      V::store(scale_ + n * W, scale);
    }
  }

  void soften_dots(int count) {
    const int vectors = (count + W - 1) / W;
    for (int r = 0; r < count_; ++r) {
      float* s = s_ + r * kBlock;
      F top = V::all(-kInf);
      for (int n = 0; n < vectors; ++n) top = V::max(V::load(s + n * W), top);
      float highest = V::highest(top);
      highest = highest > m_[r] ? highest : m_[r];
      const F base = V::all(highest == -kInf ? 0.0f : highest);
      F sum = V::zero();
      for (int n = 0; n < vectors; ++n) {
        const F weight = V::exp2(V::sub(V::load(s + n * W), base));
        sum = V::add(sum, weight);
        V::store(s + n * W, weight);
      }
      scale_[r] = V::first(V::exp2(V::sub(V::all(m_[r]), base)));
      m_[r] = highest;
      l_[r] = l_[r] * scale_[r] + V::total(sum);
    }
  }

  // Values that are not finite belong to a row only where its weight is not 0: 0 * NaN is NaN.
  // They are looked for only where a bias can hide a key from some rows and not from others.
  int set_aside_nonfinite_values(Block& block) {
    int count = 0;
    for (int j = 0; j < block.count; ++j) {
      if (block.bias[j] == nullptr) continue;
      const float* v = block.v[j];
      F sum = V::zero();
      int c = 0;
      for (; c + W <= call_.dim_v; c += W) sum = V::fma(V::load(v + c), V::zero(), sum);
      if (c < call_.dim_v) sum = V::fma(V::load_part(v + c, call_.dim_v - c), V::zero(), sum);
      if (V::total(sum) != 0.0f) nonfinite_[count++] = j;
    }
    for (int i = 0; i < count; ++i) {
      nonfinite_values_[i] = block.v[nonfinite_[i]];
      block.v[nonfinite_[i]] = kZeros;
    }
    return count;
  }

  void add_nonfinite_value(int i) {
    for (int r = 0; r < count_; ++r) {
      const float weight = s_[nonfinite_[i] * key_step_ + r * row_step_];
      if (weight == 0.0f) continue;
      for (int c = 0; c < call_.dim_v; ++c) {
        o_[r * kMostDim + c] += weight * nonfinite_values_[i][c];
      }
    }
  }

  // Output: o = scale * o + weights . values, by strips of columns.
  void multiply_values(const Block& block) {
    constexpr int Wide = V::kColumns;
    const int columns = call_.dim_v;
    int c = 0;
    for (; c + Wide * W <= columns; c += Wide * W) multiply_strip<Wide, false>(block, c, 0);
    if (Wide > 2 && c + 2 * W <= columns) {
      multiply_strip<(Wide > 2 ? 2 : 1), false>(block, c, 0);
      c += (Wide > 2 ? 2 : 1) * W;
    }
    for (; c + W <= columns; c += W) multiply_strip<1, false>(block, c, 0);
    if (c < columns) multiply_strip<1, true>(block, c, columns - c);
  }

  template <int N, bool Part>
  void multiply_strip(const Block& block, int c, int rest) {
    constexpr int R = V::template kRows<N>;
    int r = 0;
    for (; r + R <= count_; r += R) multiply_rows<R, N, Part>(block, r, c, rest);
    if constexpr (R > 4) {
      for (; r + 4 <= count_; r += 4) multiply_rows<4, N, Part>(block, r, c, rest);
    }
    if (r + 2 <= count_) {
      multiply_rows<2, N, Part>(block, r, c, rest);
      r += 2;
      if (r + 2 <= count_) {
        multiply_rows<2, N, Part>(block, r, c, rest);
        r += 2;
      }
    }
    if (r < count_) multiply_one_row<N, Part>(block, r, c, rest);
  }

  template <int R, int N, bool Part>
  void multiply_rows(const Block& block, int r, int c, int rest) {
    F sum[R][N];
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i) {
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n) sum[i][n] = V::zero();
    }
    const float* s = s_ + r * row_step_;
    for (int j = 0; j < block.count; ++j, s += key_step_) {
      const float* v = block.v[j] + c;
      F value[N];
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n) value[n] = Part ? V::load_part(v, rest) : V::load(v + n * W);
#pragma GCC unroll 16
      for (int i = 0; i < R; ++i) {
        const F weight = V::all(s[i * row_step_]);
#pragma GCC unroll 8
        for (int n = 0; n < N; ++n) sum[i][n] = V::fma(weight, value[n], sum[i][n]);
      }
    }
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i) {
      const F scale = V::all(scale_[r + i]);
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n) {
        float* o = o_ + (r + i) * kMostDim + c + n * W;
        V::store(o, V::fma(V::load(o), scale, sum[i][n]));
      }
    }
  }

  // One row has too few sums to keep the multipliers busy: every second key gets sums of its own.
  template <int N, bool Part>
  void multiply_one_row(const Block& block, int r, int c, int rest) {
    F even[N], odd[N];
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) even[n] = odd[n] = V::zero();
    const float* s = s_ + r * row_step_;
    int j = 0;
    for (; j + 2 <= block.count; j += 2, s += 2 * key_step_) {
      const float *v = block.v[j] + c, *w = block.v[j + 1] + c;
      const F first = V::all(s[0]), second = V::all(s[key_step_]);
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n) {
        even[n] = V::fma(first, Part ? V::load_part(v, rest) : V::load(v + n * W), even[n]);
        odd[n] = V::fma(second, Part ? V::load_part(w, rest) : V::load(w + n * W), odd[n]);
      }
    }
    if (j < block.count) {
      const float* v = block.v[j] + c;
      const F weight = V::all(s[0]);
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n) {
        even[n] = V::fma(weight, Part ? V::load_part(v, rest) : V::load(v + n * W), even[n]);
      }
    }
    const F scale = V::all(scale_[r]);
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) {
      float* o = o_ + r * kMostDim + c + n * W;
      V::store(o, V::fma(V::load(o), scale, V::add(even[n], odd[n])));
    }
  }

  // What is left behind.

  void write() {
    const float nothing = call_.empty_is_nan ? __builtin_nanf("") : 0.0f;
    for (int r = 0; r < count_; ++r) {
      float* out = output(r);
      const bool empty = l_[r] == 0.0f;
      const float factor = 1.0f / l_[r];
      const float* o = o_ + r * kMostDim;
      for (int c = 0; c < call_.dim_v; ++c) out[c] = empty ? nothing : o[c] * factor;
      if (call_.lse != nullptr) {
        int64_t head, query;
        place(r, head, query);
        call_.lse[(tile_.batch * call_.heads + head) * call_.rows + query] =
            empty ? -kInf : (m_[r] + __builtin_log2f(l_[r])) * (1.0f / kLog2e);
      }
    }
  }

  void leave() const {
    for (int r = 0; r < count_; ++r) {
      tile_.partial->m[r] = m_[r];
      tile_.partial->l[r] = l_[r];
      for (int c = 0; c < call_.dim_v; ++c) {
        tile_.partial->o[r * call_.dim_v + c] = o_[r * kMostDim + c];
      }
    }
  }

  const Tile& tile_;
  const mmedge_segattn& call_;
  const int count_;
  bool lanes_;
  int vectors_;
  int key_step_, row_step_;
  int wide_;
  int nonfinite_[kBlock];
  const float* nonfinite_values_[kBlock];
  Block blocks_[2];
  alignas(64) float q_[T * kMostDim];
  alignas(64) float s_[(kBlock + kMostKeys) * T];
  alignas(64) float o_[T * kMostDim];
  alignas(64) float top_[T];  // of the block's scores
  alignas(64) float m_[T];
  alignas(64) float l_[T];
  alignas(64) float scale_[T];
};

}  // namespace
}  // namespace mmedge::cpu

#endif  // MMEDGE_KERNELS_CPU_ATTEND_H_
