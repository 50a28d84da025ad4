// A loop of a loaded network in one handle: how a call begins it, and how it ends.
//
// mmedge/execution/loop_run.py is the reference.
#ifndef MMEDGE_RUNTIME_LOOP_RUN_H_
#define MMEDGE_RUNTIME_LOOP_RUN_H_

#include "loop_slot.h"
#include "pipeline.h"

namespace mmedge::runtime {

// Runs of a warm-up, and steps of each.
constexpr int kWarmLoopRuns = 3;

class LoopRun {
 public:
  LoopRun(const LoopRun&) = delete;
  LoopRun& operator=(const LoopRun&) = delete;

  // Takes no more steps; the State holds what there is so far.
  void cancel() noexcept;
  // Ends a loop that is under way and leaves the State as it was.
  void give_up() noexcept;
  // Whether there is a call whose steps or results can be asked for.
  bool has_begun() const noexcept { return has_begun_; }

  const char* message() const noexcept { return error_.text; }

 protected:
  // The pipeline stays as long as this does. Throws Error(kBackend).
  explicit LoopRun(Pipeline* pipeline)
      : pipeline_(*pipeline), step_(pipeline->network()->loop_stages().front()) {}
  ~LoopRun() = default;  // of those that derive from it, which give up

  // Begins a call: what an earlier one began is given up, and its State is as it was. `work` does the
  // rest, and says how it went.
  template <class Work>
  Code begin_call(State* state, Work work) noexcept {
    Code code = acquire(state);
    if (code != Code::kOk) return code;
    code = work();
    if (code == Code::kOk) {
      state_ = state;
      has_begun_ = is_open_ = true;
    } else if (state != nullptr) {
      state->release();
    }
    return code;
  }
  // Runs the stages before the loop.
  Code compute(const NamedTensor* tensors, size_t count, bool cached, const State* state) noexcept;
  // Says that no loop was begun, where that is so.
  Code check_begun() noexcept;
  // The loop has ended: leaves its states in the State, if there is one.
  Code leave() noexcept;
  // Gives up the call; returns the code.
  Code fail(Code code) noexcept;

  // Ends the steps before their time.
  virtual void stop() noexcept = 0;
  // Puts the states of the loop into a State, whose call has ended.
  virtual Code leave_states(State* state) noexcept = 0;

  Pipeline& pipeline_;
  LoopSlot step_;
  bool has_begun_ = false, is_open_ = false;
  CallError error_;

 private:
  Code acquire(State* state) noexcept;
  void release() noexcept;

  State* state_ = nullptr;
};

}  // namespace mmedge::runtime

#endif  // MMEDGE_RUNTIME_LOOP_RUN_H_
