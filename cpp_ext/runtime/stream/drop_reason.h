// Why a stream drops a sample, and counts by reason.
#ifndef MMEDGE_RUNTIME_STREAM_DROP_REASON_H_
#define MMEDGE_RUNTIME_STREAM_DROP_REASON_H_

#include <array>
#include <cstddef>
#include <cstdint>

namespace mmedge::runtime::stream {

// docs/reference/streams.md has what each means.
enum class DropReason : uint8_t {
  kNone,
  kFuture,
  kTooOld,
  kDuplicate,
  kOutOfOrder,
  kLate,
  kNan,
  kInf,
  kOutOfRange,
  kFrozen,
  kSuperseded,
  kQueueFull,
  kGap,
  kClockJump,
  kForgotten,
  kReset,
  kClosed,
  kEncoderError,
  kDeadline,
};
constexpr size_t kDropReasons = 19;

// The name in results, such as "too_old"; empty of kNone.
constexpr const char* drop_reason_name(DropReason reason) {
  constexpr const char* kNames[kDropReasons] = {
      "",       "future",      "too_old",   "duplicate",  "out_of_order",  "late",   "nan",
      "inf",    "out_of_range", "frozen",   "superseded", "queue_full",    "gap",    "clock_jump",
      "forgotten", "reset",    "closed",    "encoder_error", "deadline"};
  return kNames[static_cast<size_t>(reason)];
}

// Samples by reason.
struct DropCounts {
  std::array<uint64_t, kDropReasons> counts{};

  uint64_t& operator[](DropReason reason) noexcept { return counts[static_cast<size_t>(reason)]; }
  void add(const DropCounts& other) noexcept {
    for (size_t i = 0; i < kDropReasons; ++i) counts[i] += other.counts[i];
  }
};

}  // namespace mmedge::runtime::stream

#endif  // MMEDGE_RUNTIME_STREAM_DROP_REASON_H_
