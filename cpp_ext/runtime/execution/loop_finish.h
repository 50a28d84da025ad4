// Why a loop, or a row of it, has no more steps.
#ifndef MMEDGE_RUNTIME_EXECUTION_LOOP_FINISH_H_
#define MMEDGE_RUNTIME_EXECUTION_LOOP_FINISH_H_

#include <cstdint>

namespace mmedge::runtime {

enum class LoopFinish : uint8_t { kNone, kStop, kLimit, kSchedule, kDeadline, kCancel };

// The word of docs/reference/bundle.md ("Loop"), such as "stop"; empty for kNone.
constexpr const char* loop_finish_name(LoopFinish finish) noexcept {
  switch (finish) {
    case LoopFinish::kStop: return "stop";
    case LoopFinish::kLimit: return "limit";
    case LoopFinish::kSchedule: return "schedule";
    case LoopFinish::kDeadline: return "deadline";
    case LoopFinish::kCancel: return "cancel";
    case LoopFinish::kNone: break;
  }
  return "";
}

}  // namespace mmedge::runtime

#endif  // MMEDGE_RUNTIME_EXECUTION_LOOP_FINISH_H_
