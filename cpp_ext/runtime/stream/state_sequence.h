// What a state in a stream has taken, in order: every value once, what it missed, when it began anew.
#ifndef MMEDGE_RUNTIME_STREAM_STATE_SEQUENCE_H_
#define MMEDGE_RUNTIME_STREAM_STATE_SEQUENCE_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "stream/drop_reason.h"
#include "stream/text.h"

namespace mmedge::runtime::stream {

// One run in the sequence, and what was counted until then.
struct Turn {
  bool goes_on = false;  // it takes the states that were kept; else their first values
  int64_t epoch = 0;     // tells runs apart that began before and after the state began anew
  int64_t missed = 0, resets = 0;
};

// The states of the stages that run together: mmedge/stream/state_sequence.py. The tensors are the
// stage runner's; it is told to keep what a run left where finish() says so.
class StateSequence {
 public:
  // `reset_after`: seconds between two values after which the state begins anew; none: it never does
  // by itself.
  explicit StateSequence(std::optional<double> reset_after) noexcept : reset_after_(reset_after) {}

  int64_t missed = 0;  // values that came and that the state has not taken
  int64_t resets = 0;  // how often it began anew by itself

  // The turn of a value of time `t`, whose run begins now.
  Turn begin(double t) noexcept;
  // Whether the states that a run made count, and are not of another epoch: they are kept then.
  bool finish(const Turn& turn) noexcept;
  // Notes that a run gave no states: those before it stay.
  void fail(const Turn& turn, DropReason why) noexcept;
  // Notes values that the state will not take.
  void miss(int64_t count, DropReason why) noexcept;
  // The clock that its values are stamped with was set back: no gap can be told.
  void jump() noexcept;
  // Begins with the first values, as if nothing had come.
  void restart() noexcept;
  // Leaves a jump of the time out of the gap that is under way, in seconds.
  void follow_clock(double ahead) noexcept;
  // Adds what a result that uses a run should say of the state and no result before it has said.
  void tell(const Turn& turn, Text* remarks) noexcept;

 private:
  void reset(const Text& why) noexcept;

  std::optional<double> reset_after_;
  bool has_states_ = false;
  int64_t epoch_ = 0;
  std::optional<double> last_;  // time of the newest value that a run began on
  DropReason why_missed_ = DropReason::kNone;
  Text why_reset_;
  int64_t told_missed_ = 0, told_resets_ = 0;
};

// The states of fusion stages, which take the results that are made.
class FusionStates {
 public:
  struct Stage {
    std::string name;
    StateSequence sequence;
    Turn turn;                  // of the run that was begun last
    uint8_t is_kept = 0;        // whether the states that it made are to be kept
  };

  // In the plan's order. `modalities`: how many there are.
  FusionStates(std::vector<Stage> stages, size_t modalities)
      : stages_(std::move(stages)), taken_(modalities) {}

  const std::vector<Stage>& stages() const noexcept { return stages_; }
  size_t size() const noexcept { return stages_.size(); }
  // How often states began anew by themselves.
  int64_t resets() const noexcept;
  // Begins a run of all stages for time `t`.
  void begin(double t) noexcept;
  // Keeps the states of a result that is made.
  void finish() noexcept;
  // Notes a modality that such a result used.
  void note_taken(size_t modality) noexcept { taken_[modality] = true; }
  // Adds what a result should say of a stage.
  void tell(size_t stage, Text* remarks) noexcept {
    stages_[stage].sequence.tell(stages_[stage].turn, remarks);
  }
  // Begins anew, if they have taken values of a modality; -1: whatever they have taken.
  void forget(int modality) noexcept;
  void follow_clock(double ahead) noexcept;

 private:
  std::vector<Stage> stages_;
  std::vector<bool> taken_;  // by modality
};

}  // namespace mmedge::runtime::stream

#endif  // MMEDGE_RUNTIME_STREAM_STATE_SEQUENCE_H_
