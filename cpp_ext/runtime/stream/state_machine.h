// The state machine of a stream: triggers, what each result waits for, and what it is made of.
#ifndef MMEDGE_RUNTIME_STREAM_STATE_MACHINE_H_
#define MMEDGE_RUNTIME_STREAM_STATE_MACHINE_H_

#include <memory>
#include <optional>
#include <vector>

#include "stream/chooser.h"
#include "stream/compute.h"
#include "stream/jumps.h"
#include "stream/loop_times.h"
#include "stream/modality_state.h"
#include "stream/outbox.h"
#include "stream/result.h"
#include "stream/stage_runner.h"
#include "stream/state_sequence.h"

namespace mmedge::runtime::stream {

// mmedge/stream/state_machine.py. It reads no clock; after it was made it allocates nothing.
class StreamStateMachine {
 public:
  // `rate`: triggers a second, where known. `deadline`: seconds from a trigger to its result.
  // `cancels`: a newer trigger ends the loop of the one at work. `jumps` are those of the tracks.
  // `runner` is told which states to keep.
  StreamStateMachine(const std::vector<std::unique_ptr<ModalityState>>& tracks,
                     const std::vector<bool>& triggers, const DimensionTable& table,
                     const SizeRules* rules, std::optional<double> rate,
                     std::optional<double> deadline, size_t keep,
                     std::vector<FusionStates::Stage> states, bool cancels, Jumps* jumps,
                     StageRunner* runner);

  bool closed = false;
  Text failure;  // why the stream ended by itself; empty: it did not
  Slots slots;   // of outputs

  bool has_results() const noexcept { return outbox_.has_results(); }
  // When to call wake(), if nothing else happens until then.
  std::optional<double> alarm() const noexcept;
  // Tells a fusion that was handed out from one that is at work no more.
  int64_t serial() const noexcept { return serial_; }

  // Takes in a sample, and starts what it triggers.
  void push(ModalityState* track, Sample* sample, DropReason fault, bool lying,
            double now) noexcept;
  // A timer's tick; `missed` earlier ones passed while nobody could look.
  void tick(double t, int64_t missed, double now) noexcept;
  // Begins one modality as if nothing had come: no result from now on uses what had.
  void forget(ModalityState* track, double now) noexcept;
  // Begins as if nothing had come at all; counters go on.
  void reset() noexcept;
  // Goes on without what was waited for in vain.
  void wake(double now) noexcept;
  // The stream's clock was set: the time is `now`, after a jump `ahead` in seconds. `offset` is what the
  // time is ahead of the clock's seconds. What is under way goes on as if no time had passed in it.
  void follow_clock(double now, double ahead, double offset) noexcept;
  bool has_fusion() const noexcept {
    return active_.is_there && active_.fusing && !active_.handed_out;
  }
  // The fusion to run now, handed out once, with the turns of its states; null: there is none.
  const Active* fusion() noexcept;
  const FusionStates& states() const noexcept { return states_; }
  // Why the loop at work is to take no more steps; kNone: it may take the next.
  LoopEnd loop_end(double now) noexcept;
  // Notes that a step of the loop at work was taken.
  void stepped(double now) noexcept;
  // Takes the outcome of the fusion at work, and the hold of its slot.
  void fused(const Fused& outcome, double now) noexcept;
  // Takes the outcome of an encoding, which is the track's.
  void encoded(ModalityState* track, Item* item, double now) noexcept;
  // Ends, because the stream cannot go on.
  void fail(const Text& why) noexcept;
  // Lets go of everything; nothing changes any more after this.
  void close() noexcept;

  const Result* take(double now, bool latest) noexcept { return outbox_.take(now - ahead_, latest); }
  void read_health(double now, Health* health) noexcept;
  // A result with the memory that any needs.
  Result make_result(size_t stages) const;

 private:
  void fire(double now) noexcept;
  void let_go(const Trigger& trigger, DropReason reason) noexcept;
  void proceed(double now) noexcept;
  void begin(const Trigger& trigger, double now) noexcept;
  bool gather(double now) noexcept;
  void end() noexcept;
  bool abandon(DropReason reason, Trigger* trigger) noexcept;
  void drop_results(int modality) noexcept;
  void deliver(int slot, const Text& reason, double now) noexcept;
  bool has_age_fault(const ModalityState& track, double t, Text* why) const noexcept;
  bool may_repeat(double t) const noexcept;
  void repeat(const Trigger& trigger, double latency, double now) noexcept;
  void fill(Result* result, const Trigger& trigger, double now, double outputs_t, bool fresh,
            const Text& reason) noexcept;
  void set_good(const Result* result, double t) noexcept;
  void forget_latencies() noexcept;
  void set_first_jump(int64_t first) noexcept;
  // Whether the stream's time jumped ahead since a trigger came.
  bool has_jumped(const Trigger& trigger) const noexcept {
    return trigger.first_jump != jumps_.next();
  }

  const std::vector<std::unique_ptr<ModalityState>>& tracks_;
  std::vector<bool> triggering_;
  const DimensionTable& table_;
  const SizeRules* rules_;
  std::optional<double> deadline_, patience_;
  Chooser chooser_;
  Outbox outbox_;
  LatencyPredictor predictor_, fusion_time_;
  FusionStates states_;
  bool cancels_;
  Jumps& jumps_;
  StageRunner* runner_;
  LoopTimes loop_times_;
  // What is to be taken from a time for the clock's own seconds, and for seconds that passed: how far it
  // jumped ahead.
  double offset_ = 0, ahead_ = 0;
  bool has_fused_ = false;
  Active active_;
  int64_t serial_ = 0;
  std::vector<Trigger> waiting_, incoming_;
  bool has_good_ = false;
  Result good_;
  double good_t_ = 0;
  int64_t triggers_ = 0, superseded_ = 0, orphaned_ = 0, stale_ = 0, empty_ = 0;
  std::vector<DropCounts> dropped_;
  std::vector<int64_t> scratch_;
  std::vector<uint8_t> kept_;  // by fusion stage with state
};

}  // namespace mmedge::runtime::stream

#endif  // MMEDGE_RUNTIME_STREAM_STATE_MACHINE_H_
