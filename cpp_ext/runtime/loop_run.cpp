// What all loops have in common: their State, and their end.
#include "loop_run.h"

namespace mmedge::runtime {

Code LoopRun::acquire(State* state) noexcept {
  fail(Code::kOk);
  return state == nullptr ? Code::kOk : state->acquire(pipeline_.network().get(), &error_);
}

void LoopRun::release() noexcept {
  if (state_ != nullptr) state_->release();
  state_ = nullptr;
}

Code LoopRun::compute(const NamedTensor* tensors, size_t count, bool cached,
                      const State* state) noexcept {
  Code code = pipeline_.compute(tensors, count, cached, state);
  if (code == Code::kOk && state != nullptr) code = pipeline_.check_states();
  return code == Code::kOk ? code : error_.set(code, "%s", pipeline_.message());
}

Code LoopRun::check_begun() noexcept {
  if (has_begun_) return Code::kOk;
  return error_.set(Code::kInput, "no loop was begun; call mmedge_loop_begin()");
}

Code LoopRun::leave() noexcept {
  is_open_ = false;
  if (state_ == nullptr) return Code::kOk;
  const Code code = leave_states(state_);
  if (code != Code::kOk) return fail(code);
  pipeline_.leave_states(state_);
  release();
  return code;
}

Code LoopRun::fail(Code code) noexcept {
  give_up();
  has_begun_ = false;
  return code;
}

void LoopRun::cancel() noexcept {
  if (!is_open_) return;
  stop();
  leave();  // after a failure there is no result
}

void LoopRun::give_up() noexcept {
  if (is_open_) stop();
  is_open_ = false;
  release();
}

}  // namespace mmedge::runtime
