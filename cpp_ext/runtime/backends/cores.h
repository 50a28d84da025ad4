// How many threads a stage is worth: mmedge/backends/cores.py.
#ifndef MMEDGE_RUNTIME_BACKENDS_CORES_H_
#define MMEDGE_RUNTIME_BACKENDS_CORES_H_

#include <cstdint>
#include <optional>

#include "../spec.h"

namespace mmedge::runtime {

// Fewest floating-point operations for which a further thread pays; measured in cores.py.
constexpr int64_t kFlopsPerThread = 8'000'000;

// How many cores this process may use: its affinity on Linux, elsewhere those of the machine.
int usable_cores() noexcept;

// Threads of a stage's session; none: the engine's default. `alone`: it is the only stage;
// `threads`: most threads, none: the engine's default.
std::optional<int> stage_threads(const Stage& stage, bool alone, std::optional<int> threads);

}  // namespace mmedge::runtime

#endif  // MMEDGE_RUNTIME_BACKENDS_CORES_H_
