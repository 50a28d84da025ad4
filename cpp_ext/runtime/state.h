// What the stages of a network hand to themselves, from call to call: mmedge/execution/state.py.
#ifndef MMEDGE_RUNTIME_STATE_H_
#define MMEDGE_RUNTIME_STATE_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "backends/backend.h"
#include "execution/call_error.h"

namespace mmedge::runtime {

class Network;

// One tensor of a state: of the engine that made it, or a copy.
struct StateTensor {
  Value value;
  std::vector<uint8_t> memory;  // of a copy
  TensorView view;              // without data before the first call

  // Holds what a call left in `made`, which gets what was held here.
  void leave(Value* made) noexcept;
  // Holds a copy. Throws std::bad_alloc.
  void copy(const TensorView& from);
  // As a stage takes it.
  Code give(RunSlot* slot, size_t input) const noexcept;
};

// A call that takes it leaves the new state in it; one that fails leaves it as it was. For handles
// of one network, and for one call at a time.
class State {
 public:
  // Throws Error(kInput) where the bundle keeps no state between calls.
  explicit State(std::shared_ptr<const Network> network);

  std::unique_ptr<State> copy() const;
  // Forgets everything: the next call begins with the first value.
  void reset() noexcept;

  // Takes it for a call of a network's handle; release() gives it back. kInput: it is of another
  // network, or another call uses it.
  Code acquire(const Network* network, CallError* error) noexcept;
  void release() noexcept { used_.clear(std::memory_order_release); }

  const std::shared_ptr<const Network>& network() const noexcept { return network_; }
  bool is_new() const noexcept { return position == 0; }

  std::vector<StateTensor> tensors;  // by their place among the manifest's states
  int64_t position = 0;              // tokens that a loop's stage has taken; without a loop, calls
  int64_t choices = 0;               // tokens that a loop has chosen
  // Tokens [pending_rows, pending_count] that the stage of a loop has yet to take, if there are any.
  std::vector<int64_t> pending;  // set aside by reserve()
  int64_t pending_rows = 0;
  int64_t pending_count = 0;

 private:
  std::shared_ptr<const Network> network_;
  std::atomic_flag used_ = ATOMIC_FLAG_INIT;
};

}  // namespace mmedge::runtime

#endif  // MMEDGE_RUNTIME_STATE_H_
