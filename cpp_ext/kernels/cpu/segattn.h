// Segmented attention on the CPU: what a checked call is cut into, and running it.
#ifndef MMEDGE_KERNELS_CPU_SEGATTN_H_
#define MMEDGE_KERNELS_CPU_SEGATTN_H_

#include <cstddef>

#include "mmedge/kernels.h"

namespace mmedge::cpu {

struct Isa;

// The best instruction set of this processor; by name, null where it is not built in or not usable.
const Isa* best_isa();
const Isa* find_isa(const char* name);

// Bytes of workspace of a call with this instruction set; false where they have no number.
bool workspace_bytes(const mmedge_segattn& call, const Isa& isa, size_t* bytes);

void run(const mmedge_segattn& call, const Isa& isa, void* workspace,
         mmedge_parallel_for parallel_for, void* pool);

}  // namespace mmedge::cpu

#endif  // MMEDGE_KERNELS_CPU_SEGATTN_H_
