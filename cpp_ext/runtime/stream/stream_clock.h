// The time of a stream: that of its source, without the source's jumps.
#ifndef MMEDGE_RUNTIME_STREAM_STREAM_CLOCK_H_
#define MMEDGE_RUNTIME_STREAM_STREAM_CLOCK_H_

#include <cstdint>
#include <optional>

#include "stream/text.h"

namespace mmedge::runtime::stream {

// A function that returns seconds. Without `read` time is simulated: it moves only by
// Stream::advance_to(), and a stage takes what the stage runner says.
struct Clock {
  double (*read)(void* context) = nullptr;
  void* context = nullptr;
  bool is_trusted = false;  // it cannot be set: it never goes back, nor ahead of real time
  // Real seconds that a clock is held against; null: the system's, which nobody can set.
  double (*real)(void* context) = nullptr;
};

// What a reading of a clock came to.
enum class ClockEvent : uint8_t { kTime, kJump, kFailure };

// mmedge.stream.clock.StreamClock. Its time never goes backward. For one thread at a time.
class StreamClock {
 public:
  // `start` is the first time of a simulated clock. Throws Error(kInput): the first reading is no
  // finite number.
  StreamClock(const Clock& clock, double start);

  double last = 0;             // the last time that was given out
  double offset = 0;           // what is added to the source's seconds
  double ahead = 0;            // seconds that never passed: how far it jumped ahead, all together
  double jump = 0;             // the last jump: how far ahead, beyond the real time that passed
  int64_t jumps = 0;           // how often the source was set, back or ahead
  int64_t glitches = 0;        // readings that were not used

  bool is_simulated() const noexcept { return clock_.read == nullptr; }
  // Reads the source; the time is `last` then. kJump: it was set, and what is under way is to follow.
  // kFailure: it has given nothing of use for a second; `failure` says so.
  ClockEvent read(Text* failure) noexcept;
  // Moves a simulated clock.
  void advance(double time) noexcept { last = last > time ? last : time; }

 private:
  double read_source() const noexcept { return clock_.read(clock_.context); }
  double read_real() const noexcept;
  bool fits(double reading, double real) const noexcept;
  void follow(double reading, double real) noexcept;

  Clock clock_;
  double real_ = 0;  // when the source was last of use
  std::optional<double> useless_since_;
};

}  // namespace mmedge::runtime::stream

#endif  // MMEDGE_RUNTIME_STREAM_STREAM_CLOCK_H_
