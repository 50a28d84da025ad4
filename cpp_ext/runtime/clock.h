// The clock of deadlines: seconds that only grow.
#ifndef MMEDGE_RUNTIME_CLOCK_H_
#define MMEDGE_RUNTIME_CLOCK_H_

#include <chrono>

namespace mmedge::runtime {

inline double now() noexcept {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace mmedge::runtime

#endif  // MMEDGE_RUNTIME_CLOCK_H_
