// A stage of a loop in the calls of one handle: what it takes, and its states from run to run.
#ifndef MMEDGE_RUNTIME_LOOP_SLOT_H_
#define MMEDGE_RUNTIME_LOOP_SLOT_H_

#include <memory>
#include <vector>

#include "pipeline.h"

namespace mmedge::runtime {

class LoopSlot {
 public:
  // The stage stays as long as this does. Throws Error(kBackend).
  explicit LoopSlot(const LoopStage& stage);

  const LoopStage& stage() const noexcept { return stage_; }
  RunSlot& slot() noexcept { return *slot_; }

  // Sets aside what first values need at these sizes. Throws std::bad_alloc.
  void reserve(const int64_t* sizes);

  // Takes what the call of `pipeline` made, and what states begin with: those of `state`, or their
  // first values where it is null or new. What the loop itself writes is left to the caller.
  Code begin(const Pipeline& pipeline, const int64_t* sizes, const State* state,
             CallError* error) noexcept;
  // How large a state is along its axis: of the next run.
  int64_t size_along(size_t state, size_t axis) const noexcept;

  // Runs once; the next run begins with the states that this one left.
  Code run(CallError* error) noexcept;

  // Begins with the states that keep() gave, where the last `left_out` tokens of those that they hold
  // are not this call's. They stay as long as the call.
  Code begin_after(const std::vector<Value>& states, int64_t left_out, CallError* error) noexcept;
  // Gives the states of the last run to `states`; the slot goes on with them, so they stay as long as
  // the call. How many bytes those are.
  Code keep(std::vector<Value>* states, CallError* error) noexcept;
  size_t state_bytes() const noexcept;

  // Moves the states of the last run to `state`; kBackend, and it is as it was, where there is no
  // memory for what is not the slot's alone.
  Code leave(State* state, CallError* error) noexcept;

 private:
  const LoopStage& stage_;
  std::unique_ptr<RunSlot> slot_;
  FirstMemory first_;
  std::vector<Value> parts_, copies_;  // by state
  bool are_lent_ = false;              // whether the slot's states are another's
};

}  // namespace mmedge::runtime

#endif  // MMEDGE_RUNTIME_LOOP_SLOT_H_
