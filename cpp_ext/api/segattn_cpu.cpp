// The functions of mmedge/kernels.h for the CPU.
#include <atomic>
#include <cstdint>

#include "check.h"
#include "kernels/cpu/segattn.h"
#include "kernels/cpu/tile.h"
#include "status.h"

namespace mmedge {
namespace {

std::atomic<const cpu::Isa*> chosen{nullptr};
std::atomic<uint64_t> calls{0};

const cpu::Isa& isa() {
  const cpu::Isa* found = chosen.load(std::memory_order_relaxed);
  if (found == nullptr) {
    found = cpu::best_isa();
    chosen.store(found, std::memory_order_relaxed);
  }
  return *found;
}

mmedge_status check_cpu(const mmedge_segattn* call) {
  const mmedge_status status = check(call);
  if (status != MMEDGE_OK) return status;
  if (call->dim > MMEDGE_MAX_DIM_CPU || call->dim_v > MMEDGE_MAX_DIM_CPU) {
    return fail(MMEDGE_UNSUPPORTED,
                "the CPU kernel takes heads of up to %d elements, got dim %d, dim_v %d",
                MMEDGE_MAX_DIM_CPU, call->dim, call->dim_v);
  }
  bool fits = call->dtype == MMEDGE_F32;
  for (int i = 0; i < call->segments; ++i) {
    const mmedge_segment& segment = call->segment[i];
    fits = fits && segment.dtype == MMEDGE_F32 &&
           (segment.bias == nullptr || segment.bias_dtype == MMEDGE_F32);
  }
  if (!fits) {
    return fail(MMEDGE_UNSUPPORTED, "the CPU kernel takes float32 alone; convert what is not");
  }
  return MMEDGE_OK;
}

// Bytes of workspace of a checked call.
mmedge_status workspace(const mmedge_segattn& call, const cpu::Isa& isa, size_t* bytes) {
  if (cpu::workspace_bytes(call, isa, bytes)) return MMEDGE_OK;
  return fail(MMEDGE_INVALID, "num_splits: %d parts need more workspace than 64 bits address",
              call.num_splits);
}

}  // namespace
}  // namespace mmedge

mmedge_status mmedge_segattn_cpu_workspace(const mmedge_segattn* desc, size_t* bytes) {
  mmedge_status status = mmedge::check_result(bytes);
  if (status == MMEDGE_OK) status = mmedge::check_cpu(desc);
  if (status == MMEDGE_OK) status = mmedge::workspace(*desc, mmedge::isa(), bytes);
  return status;
}

mmedge_status mmedge_segattn_cpu(const mmedge_segattn* desc, void* workspace,
                                 mmedge_parallel_for parallel_for, void* pool) {
  mmedge_status status = mmedge::check_cpu(desc);
  if (status != MMEDGE_OK) return status;
  const mmedge::cpu::Isa& isa = mmedge::isa();
  size_t bytes = 0;
  status = mmedge::workspace(*desc, isa, &bytes);
  if (status != MMEDGE_OK) return status;
  if (bytes > 0 && (workspace == nullptr || reinterpret_cast<uintptr_t>(workspace) % 64 != 0)) {
    return mmedge::fail(MMEDGE_INVALID,
                        "workspace: expected %zu bytes aligned to 64 (ask "
                        "mmedge_segattn_cpu_workspace), got %p",
                        bytes, workspace);
  }
  mmedge::cpu::run(*desc, isa, workspace, parallel_for, pool);
  mmedge::calls.fetch_add(1, std::memory_order_relaxed);
  return MMEDGE_OK;
}

const char* mmedge_cpu_isa(void) { return mmedge::isa().name; }

mmedge_status mmedge_cpu_use_isa(const char* isa) {
  const mmedge::cpu::Isa* found =
      isa == nullptr ? mmedge::cpu::best_isa() : mmedge::cpu::find_isa(isa);
  if (found == nullptr) {
    return mmedge::fail(MMEDGE_UNSUPPORTED,
                        "instruction set '%s' is not built into this library or not usable on this "
                        "processor, whose best is '%s'",
                        isa, mmedge::cpu::best_isa()->name);
  }
  mmedge::chosen.store(found, std::memory_order_relaxed);
  return MMEDGE_OK;
}

uint64_t mmedge_segattn_cpu_calls(void) { return mmedge::calls.load(std::memory_order_relaxed); }
