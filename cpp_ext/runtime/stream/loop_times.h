// How long the steps of loops take, so that one is ended in time.
#ifndef MMEDGE_RUNTIME_STREAM_LOOP_TIMES_H_
#define MMEDGE_RUNTIME_STREAM_LOOP_TIMES_H_

#include "stream/latency_predictor.h"

namespace mmedge::runtime::stream {

// Times of a loop's steps, in seconds: mmedge/stream/loop_times.py. The first step of each run is not
// like the others.
class LoopTimes {
 public:
  void begin_step(double now) noexcept { since_ = now; }
  void end_step(double now, bool is_first) noexcept {
    if (!is_first) step_.observe(now - since_);
    since_ = now;
  }
  // What follows the last step ends, such as a decoder.
  void end(double now) noexcept { end_.observe(now - since_); }
  // What one more step is expected to take, with what follows the last one.
  double expected() const noexcept {
    return step_.estimate().value_or(0.0) + end_.estimate().value_or(0.0);
  }
  // Leaves a jump of the time out.
  void follow_clock(double ahead) noexcept { since_ += ahead; }

 private:
  LatencyPredictor step_, end_;
  double since_ = 0;
};

}  // namespace mmedge::runtime::stream

#endif  // MMEDGE_RUNTIME_STREAM_LOOP_TIMES_H_
