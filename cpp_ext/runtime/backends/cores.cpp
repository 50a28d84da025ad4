// Cores of this process, and threads by a stage's work.
#include "cores.h"

#include <unistd.h>

#ifdef __linux__
#include <sched.h>
#endif

#include <algorithm>

namespace mmedge::runtime {

int usable_cores() noexcept {
#ifdef __linux__
  // A machine may have more processors than a cpu_set_t: the kernel then asks for a larger one.
  for (size_t sets = 1; sets <= 64; sets *= 2) {
    cpu_set_t set[64];
    const size_t bytes = sets * sizeof(cpu_set_t);
    CPU_ZERO_S(bytes, set);
    if (sched_getaffinity(0, bytes, set) == 0) return CPU_COUNT_S(bytes, set);
  }
#endif
  const long count = sysconf(_SC_NPROCESSORS_ONLN);
  return count > 0 ? static_cast<int>(count) : 1;
}

std::optional<int> stage_threads(const Stage& stage, bool alone, std::optional<int> threads) {
  if (alone || stage.flops == 0) return threads;
  const int64_t enough = std::max<int64_t>(1, stage.flops / kFlopsPerThread);
  return enough < threads.value_or(usable_cores()) ? static_cast<int>(enough) : threads;
}

}  // namespace mmedge::runtime
