// What tests ask of the emulated library, beside mmedge/kernels.h.
#include "emulator.h"
#include "kernels/cuda/plan.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

// `copies`: 0 late, 1 at once, 2 by chance.
EXPORT void emulator_set_order(uint64_t seed, int copies) {
  emulator::settings().seed = seed;
  emulator::settings().copies = static_cast<emulator::Copies>(copies);
}

EXPORT void emulator_set_device(int multiprocessors, int shared_per_sm, int shared_per_block) {
  emulator::Settings& settings = emulator::settings();
  settings.multiprocessors = multiprocessors;
  settings.shared_per_sm = shared_per_sm;
  settings.shared_per_block = shared_per_block;
}

// Blocks that ran and bytes of keys and values that were read, since the last call.
EXPORT void emulator_take_counts(uint64_t* blocks, uint64_t* copied_bytes) {
  const emulator::Counts counts = emulator::take_counts();
  *blocks = counts.blocks;
  *copied_bytes = counts.copied_bytes;
}

struct PlanFigures {
  int32_t many, width, full, row_tiles, groups, splits, blocks_per_sm, shared_bytes;
  uint64_t workspace;
};

// The plan of a call on the device that was set.
EXPORT void emulator_plan(const mmedge_segattn* call, PlanFigures* to) {
  const emulator::Settings& settings = emulator::settings();
  const mmedge::cuda::Plan plan = mmedge::cuda::make_plan(
      *call, {settings.multiprocessors, settings.shared_per_sm, settings.shared_per_block});
  *to = {plan.role == mmedge::cuda::Role::kMany,
         plan.width,
         plan.full,
         plan.row_tiles,
         plan.groups,
         plan.splits,
         plan.blocks_per_sm,
         plan.shared.bytes,
         plan.workspace};
}
