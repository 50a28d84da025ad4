// The plan of a call on the CPU: groups, tiles of rows, parts of the keys, and their merging.
#include "segattn.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "tile.h"

namespace mmedge::cpu {
namespace {

// Few tiles leave threads without work, so their keys are cut as well: until there are this many
// parts, and none has fewer keys than this. Both are constants and not the number of threads,
// because what is computed must not depend on that.
constexpr int64_t kParts = 16;
constexpr int64_t kLeastKeys = 512;

// How a call is cut: groups (a head of a batch, or the packed heads of one key-value head) x tiles
// of rows x parts of the keys. It depends on the shape alone.
struct Plan {
  bool packed;  // heads of one key-value head form one group
  int64_t groups_per_batch;
  int64_t rows;  // of a group
  int64_t tiles;
  int tile_rows;
  int64_t splits;
  int64_t group_count;

  int64_t part_floats(const mmedge_segattn& call) const {
    return tile_rows * (2 + static_cast<int64_t>(call.dim_v));
  }
};

Plan make_plan(const mmedge_segattn& call, const Isa& isa) {
  Plan plan{};
  plan.packed = call.heads != call.kv_heads;
  int64_t keys = 0;
  for (int s = 0; s < call.segments; ++s) {
    keys += call.segment[s].length;
    // Rows of a group share what is added to a key; what differs by head keeps heads apart.
    if (call.segment[s].bias != nullptr && call.segment[s].bias_stride[1] != 0) {
      plan.packed = false;
    }
  }
  if (call.seg_bias != nullptr && call.seg_bias_stride[1] != 0) plan.packed = false;
  const int64_t group_heads = call.heads / call.kv_heads;
  plan.groups_per_batch = plan.packed ? call.kv_heads : call.heads;
  plan.rows = plan.packed ? group_heads * call.rows : call.rows;
  plan.tile_rows = isa.tile_rows;
  plan.tiles = (plan.rows + plan.tile_rows - 1) / plan.tile_rows;
  plan.group_count = plan.groups_per_batch * call.batch;
  plan.splits = 1;
  if (call.mode == MMEDGE_JOINT) {
    if (call.num_splits > 0) {
      plan.splits = call.num_splits;
    } else {
      const int64_t wanted = kParts / std::max<int64_t>(1, plan.group_count * plan.tiles);
      plan.splits = std::max<int64_t>(1, std::min(wanted, keys / kLeastKeys));
    }
  }
  return plan;
}

// Keys of a group that take part: as mmedge::cpu::Keys finds them.
int64_t count_keys(const mmedge_segattn& call, int64_t batch, int64_t head) {
  constexpr float kLost = -std::numeric_limits<float>::infinity();
  int64_t count = 0;
  for (int s = 0; s < call.segments; ++s) {
    const mmedge_segment& segment = call.segment[s];
    int64_t length = segment.length;
    if (segment.lens != nullptr) {
      length = std::clamp<int64_t>(segment.lens[batch], 0, length);
    }
    if (call.seg_bias != nullptr &&
        call.seg_bias[batch * call.seg_bias_stride[0] + head * call.seg_bias_stride[1] + s] ==
            kLost) {
      continue;
    }
    const uint8_t* valid = segment.key_valid == nullptr
                               ? nullptr
                               : segment.key_valid + batch * segment.key_valid_stride;
    const bool by_row = call.rows > 1 && segment.bias_stride[2] != 0;
    const float* bias = segment.bias == nullptr || by_row
                            ? nullptr
                            : static_cast<const float*>(segment.bias) +
                                  batch * segment.bias_stride[0] + head * segment.bias_stride[1];
    if (valid == nullptr && bias == nullptr) {
      count += length;
      continue;
    }
    for (int64_t key = 0; key < length; ++key) {
      count += (valid == nullptr || valid[key] != 0) && (bias == nullptr || bias[key] != kLost);
    }
  }
  return count;
}

struct Job {
  const mmedge_segattn* call;
  const Isa* isa;
  Plan plan;
  float* workspace;

  Partial part(int64_t tile, int64_t split) const {
    const int64_t size = plan.part_floats(*call);
    float* at = workspace + (tile * plan.splits + split) * size;
    return {at, at + plan.tile_rows, at + 2 * plan.tile_rows};
  }

  Tile tile(int64_t index) const {
    const int64_t group = index / plan.tiles;
    Tile tile{};
    tile.call = call;
    tile.batch = group / plan.groups_per_batch;
    const int64_t at = group % plan.groups_per_batch;
    const int64_t group_heads = call->heads / call->kv_heads;
    tile.kv_head = plan.packed ? at : at / group_heads;
    tile.head = plan.packed ? at * group_heads : at;
    tile.row = index % plan.tiles * plan.tile_rows;
    tile.count = static_cast<int>(std::min<int64_t>(plan.tile_rows, plan.rows - tile.row));
    tile.first = 0;
    tile.last = std::numeric_limits<int64_t>::max();
    return tile;
  }
};

void run_tile(void* arg, size_t index) {
  const Job& job = *static_cast<const Job*>(arg);
  const int64_t splits = job.plan.splits;
  Tile tile = job.tile(static_cast<int64_t>(index) / splits);
  if (splits == 1) {
    job.isa->run(tile);
    return;
  }
  const int64_t split = static_cast<int64_t>(index) % splits;
  const int64_t keys = count_keys(*job.call, tile.batch, tile.head);
  const int64_t each = (keys + splits - 1) / splits;
  // Whole blocks, so that only the last one of all is not full.
  const int64_t step = (each + kBlock - 1) / kBlock * kBlock;
  tile.first = std::min(keys, split * step);
  tile.last = std::min(keys, tile.first + step);
  const Partial part = job.part(static_cast<int64_t>(index) / splits, split);
  tile.partial = &part;
  job.isa->run(tile);
}

// Put the parts of one tile together, in the order of their keys.
void merge_states(void* arg, size_t index) {
  const Job& job = *static_cast<const Job*>(arg);
  const mmedge_segattn& call = *job.call;
  const Tile tile = job.tile(static_cast<int64_t>(index));
  const float lost = -std::numeric_limits<float>::infinity();
  for (int r = 0; r < tile.count; ++r) {
    const int64_t head = tile.head + (tile.row + r) / call.rows;
    const int64_t query = (tile.row + r) % call.rows;
    float* out = static_cast<float*>(call.out) + tile.batch * call.out_stride[0] +
                 query * call.out_stride[1] + head * call.out_stride[2];
    float top = lost;
    for (int64_t s = 0; s < job.plan.splits; ++s) {
      const float m = job.part(static_cast<int64_t>(index), s).m[r];
      top = m > top ? m : top;
    }
    const float base = top == lost ? 0.0f : top;
    float sum = 0.0f;
    float row[kMostDim] = {};
    for (int64_t s = 0; s < job.plan.splits; ++s) {
      const Partial part = job.part(static_cast<int64_t>(index), s);
      const float weight = std::exp2(part.m[r] - base);
      if (part.l[r] == 0.0f) continue;
      sum += weight * part.l[r];
      for (int c = 0; c < call.dim_v; ++c) row[c] += weight * part.o[r * call.dim_v + c];
    }
    const bool empty = sum == 0.0f;
    const float nothing = call.empty_is_nan ? std::numeric_limits<float>::quiet_NaN() : 0.0f;
    for (int c = 0; c < call.dim_v; ++c) out[c] = empty ? nothing : row[c] / sum;
    if (call.lse != nullptr) {
      call.lse[(tile.batch * call.heads + head) * call.rows + query] =
          empty ? lost : (base + std::log2(sum)) / kLog2e;
    }
  }
}

void in_turn(void*, size_t count, mmedge_task task, void* arg) {
  for (size_t i = 0; i < count; ++i) task(arg, i);
}

// Built in, best first.
constexpr const Isa* kIsas[] = {
#if defined(MMEDGE_X86)
    &kAvx512,
    &kAvx2,
#elif defined(MMEDGE_AARCH64)
    &kNeon,
#endif
    &kPortable,
};

}  // namespace

const Isa* best_isa() {
  for (const Isa* isa : kIsas) {
    if (isa->usable()) return isa;
  }
  return &kPortable;
}

const Isa* find_isa(const char* name) {
  for (const Isa* isa : kIsas) {
    if (std::strcmp(isa->name, name) == 0) return isa->usable() ? isa : nullptr;
  }
  return nullptr;
}

bool workspace_bytes(const mmedge_segattn& call, const Isa& isa, size_t* bytes) {
  const Plan plan = make_plan(call, isa);
  *bytes = 0;
  if (plan.splits == 1) return true;
  int64_t floats = plan.group_count;
  if (__builtin_mul_overflow(floats, plan.tiles, &floats) ||
      __builtin_mul_overflow(floats, plan.splits, &floats) ||
      __builtin_mul_overflow(floats, plan.part_floats(call), &floats) ||
      floats > INT64_MAX / static_cast<int64_t>(sizeof(float))) {
    return false;
  }
  *bytes = static_cast<size_t>(floats) * sizeof(float);
  return true;
}

void run(const mmedge_segattn& call, const Isa& isa, void* workspace,
         mmedge_parallel_for parallel_for, void* pool) {
  Job job{&call, &isa, make_plan(call, isa), static_cast<float*>(workspace)};
  if (parallel_for == nullptr) parallel_for = in_turn;
  const size_t tiles = static_cast<size_t>(job.plan.group_count * job.plan.tiles);
  parallel_for(pool, tiles * static_cast<size_t>(job.plan.splits), run_tile, &job);
  if (job.plan.splits > 1) parallel_for(pool, tiles, merge_states, &job);
}

}  // namespace mmedge::cpu
