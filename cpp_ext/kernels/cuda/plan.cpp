// How a call is cut: role, width, parts of the keys, shared memory and workspace.
#include "plan.h"

#include <algorithm>
#include <cstdint>

namespace mmedge::cuda {
namespace {

// Shared memory that the driver keeps for itself in each block.
constexpr int kReserved = 1024;

// With this share of the places for blocks taken, cutting keys costs more than it gains.
constexpr double kEnough = 0.8;

bool any_8_bit(const mmedge_segattn& call) {
  return std::any_of(call.segment, call.segment + call.segments, [](const mmedge_segment& s) {
    return s.length > 0 && s.dtype == MMEDGE_I8;
  });
}

bool needs_full(const mmedge_segattn& call) {
  if (call.mode == MMEDGE_INDEPENDENT || any_8_bit(call)) return true;
  // The plain kernel takes maxima before it scales.
  if (!(call.scale > 0.0f)) return true;
  // A gate may drop a segment for some rows of a tile and not for others.
  if (call.seg_bias != nullptr && call.seg_bias_stride[1] != 0 && call.heads != call.kv_heads) {
    return true;
  }
  return std::any_of(call.segment, call.segment + call.segments, [](const mmedge_segment& s) {
    return s.length > 0 && (s.key_valid != nullptr || s.bias != nullptr);
  });
}

}  // namespace

Plan make_plan(const mmedge_segattn& call, const Device& device) {
  Plan plan{};
  const bool independent = call.mode == MMEDGE_INDEPENDENT;
  plan.group_rows = call.heads / call.kv_heads * call.rows;
  plan.groups = call.batch * call.kv_heads;
  plan.role = role_of(plan.group_rows);
  plan.width = width_of(call.dim);
  plan.full = needs_full(call);
  plan.shared = shared_layout(plan.role, plan.width, plan.full, any_8_bit(call), independent);

  const int rows = rows_per_tile(plan.role);
  plan.row_tiles = (plan.group_rows + rows - 1) / rows;
  plan.blocks_per_sm = std::max(
      1, std::min(blocks_per_sm(plan.role, plan.width, plan.full),
                  device.shared_per_sm / (plan.shared.bytes + kReserved)));

  int64_t key_tiles = 0;
  int64_t segments = 0;
  const int keys = keys_per_tile(plan.role, plan.width);
  for (int s = 0; s < call.segments; ++s) {
    key_tiles += (call.segment[s].length + keys - 1) / keys;
    segments += call.segment[s].length > 0;
  }
  const int64_t tiles = static_cast<int64_t>(plan.groups) * plan.row_tiles;
  const int64_t places = static_cast<int64_t>(device.multiprocessors) * plan.blocks_per_sm;
  int64_t splits = 1;
  if (call.num_splits > 0) {
    splits = call.num_splits;
  } else if (static_cast<double>(tiles) < kEnough * static_cast<double>(places)) {
    splits = std::clamp<int64_t>(std::min(places / tiles, key_tiles / 2), 1, kMostSplits);
    // No more than it takes for the longest part: what is merged costs time.
    const int64_t longest = (key_tiles + splits - 1) / splits;
    splits = longest > 0 ? (key_tiles + longest - 1) / longest : 1;
  }
  // A part of INDEPENDENT segments is some of them, whole.
  if (independent) splits = std::min(splits, segments);
  plan.splits = static_cast<int>(std::clamp<int64_t>(splits, 1, kMostSplits));
  if (plan.splits > 1) {
    plan.workspace = kCounters * sizeof(unsigned) + static_cast<size_t>(tiles) * plan.splits *
                                                        partial_floats(plan.role, plan.width) *
                                                        sizeof(float);
  }
  return plan;
}

}  // namespace mmedge::cuda
