// What passes between the plan of a call and the kernels of one instruction set.
#ifndef MMEDGE_KERNELS_CPU_TILE_H_
#define MMEDGE_KERNELS_CPU_TILE_H_

#include <cstddef>
#include <cstdint>

#include "mmedge/kernels.h"

namespace mmedge::cpu {

// Keys of one step of the online softmax: their scores, keys and values stay in the first cache.
constexpr int kBlock = 64;

// Most keys whose scores are computed at once, for all instruction sets.
constexpr int kMostKeys = 8;

// The widest head. What a tile works on lies on the stack: at this width 78 KiB with AVX-512.
constexpr int kMostDim = MMEDGE_MAX_DIM_CPU;

// Most query rows of a tile, for all instruction sets.
constexpr int kMostRows = 32;

constexpr float kLog2e = 1.44269504088896341f;

// Running maximum (of scores times log2 e), sum and unnormalised output of a tile's rows over some
// of the keys. `o` has `dim_v` columns.
struct Partial {
  float* m;
  float* l;
  float* o;
};

// Query rows that share their keys. Rows of a group are numbered head by head where the heads of
// one key-value head are packed into it: row r is query r % rows of head `head + r / rows`.
struct Tile {
  const mmedge_segattn* call;
  int64_t batch;
  int64_t head;     // first head of the group
  int64_t kv_head;
  int64_t row;      // first row of the tile in its group
  int count;        // rows
  int64_t first;    // keys of the tile: ordinals [first, last) among those that take part
  int64_t last;
  const Partial* partial;  // where to leave what this part of the keys gives; null: write outputs
};

// Kernels compiled for one instruction set.
struct Isa {
  const char* name;
  bool (*usable)();
  int tile_rows;
  void (*run)(const Tile&);
};

extern const Isa kAvx512;
extern const Isa kAvx2;
extern const Isa kNeon;
extern const Isa kPortable;

}  // namespace mmedge::cpu

#endif  // MMEDGE_KERNELS_CPU_TILE_H_
