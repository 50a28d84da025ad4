// Sizes that the host's plan and the kernels agree on.
//
// The tiles were chosen so that every kernel compiles without spilling on sm_80 to sm_120, and so
// that they fit the 99 KiB of shared memory that a block of sm_86, sm_89 or sm_120 can have.
#ifndef MMEDGE_KERNELS_CUDA_TILING_H_
#define MMEDGE_KERNELS_CUDA_TILING_H_

#include <cstddef>
#include <cstdint>

#include "mmedge/kernels.h"

namespace mmedge::cuda {

// Few rows: a tile of 16, whose keys the four warps share out. Many: each warp has 16 rows of 64
// and all of the keys.
enum class Role { kFew, kMany };

constexpr int kWarps = 4;
constexpr int kThreads = 32 * kWarps;

// Most parts into which the keys of one tile of rows are cut.
constexpr int kMostSplits = 32;

// Tiles of rows that can be cut at once, each with a counter in the workspace. The counters have a
// place of their own whatever the shape, so that calls of different shapes may take turns with one
// workspace: partial results never lie where another call's counters are.
constexpr int kCounters = 4096;

// Up to 32 rows share keys: a tile of 64 would be at most half full.
constexpr Role role_of(int64_t group_rows) { return group_rows <= 32 ? Role::kFew : Role::kMany; }

constexpr int rows_per_tile(Role role) { return role == Role::kFew ? 16 : 64; }

// Heads are filled up with zeros to one of these widths; 0 where none is wide enough.
constexpr int width_of(int dim) {
  return dim <= 32 ? 32 : dim <= 64 ? 64 : dim <= 96 ? 96 : dim <= 128 ? 128 : 0;
}

constexpr int keys_per_tile(Role role, int width) {
  return role == Role::kFew || width <= 64 ? 64 : 32;
}

// Tiles of keys in shared memory, of which all but one are on their way.
constexpr int stages(Role role, int width) { return role == Role::kFew && width <= 64 ? 3 : 2; }

// Blocks that a multiprocessor's registers are kept free for. `full` kernels need more of them.
constexpr int blocks_per_sm(Role role, int width, bool full) {
  if (role == Role::kMany && !full && width == 32) return 4;
  if (role == Role::kMany || width == 128) return 2;
  return (width <= 64 ? 4 : 3) - (full ? 1 : 0);
}

// Shared memory of a block, in bytes from its start:
//   lengths   int[MMEDGE_MAX_SEGMENTS]        keys of each segment, after lens and gates
//   last      int                             whether this block is the last one of its tile
//   gates     float[MMEDGE_MAX_SEGMENTS][rows]
//   tiles     stages x (keys, values); scratch of the end of a part or call
//   added     float[rows][keys of a tile + 8]: full kernels alone
//   dequantized  one tile, where some keys and values have 8 bits
//   totals    float[rows][width], float[rows]: INDEPENDENT alone
struct SharedLayout {
  int gates;
  int tiles;
  int added;
  int dequantized;
  int totals;
  int bytes;
};

constexpr SharedLayout shared_layout(Role role, int width, bool full, bool has_8_bit,
                                     bool independent) {
  const int rows = rows_per_tile(role);
  const int tile = keys_per_tile(role, width) * width * 2;
  SharedLayout at{};
  at.gates = 64;
  at.tiles = (at.gates + MMEDGE_MAX_SEGMENTS * rows * 4 + 127) / 128 * 128;
  at.added = at.tiles + stages(role, width) * 2 * tile;
  at.dequantized = at.added + (full ? rows * (keys_per_tile(role, width) + 8) * 4 : 0);
  at.totals = at.dequantized + (has_8_bit ? tile : 0);
  at.bytes = at.totals + (independent ? rows * (width + 1) * 4 : 0);
  return at;
}

// Floats of what one part of a tile leaves in the workspace: outputs [rows][width], then maxima
// and sums [rows].
constexpr size_t partial_floats(Role role, int width) {
  return static_cast<size_t>(rows_per_tile(role)) * static_cast<size_t>(width + 2);
}

// The same as constants, for device code, which may not call these functions.
template <int Width, Role R>
struct Tiling {
  static constexpr int kRows = rows_per_tile(R);
  static constexpr int kKeys = keys_per_tile(R, Width);
  static constexpr int kStages = stages(R, Width);
  static constexpr int kTileBytes = kKeys * Width * 2;
  static constexpr size_t kPartialFloats = partial_floats(R, Width);
};

}  // namespace mmedge::cuda

#endif  // MMEDGE_KERNELS_CUDA_TILING_H_
