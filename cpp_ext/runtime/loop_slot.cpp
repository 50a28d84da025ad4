// Joins a stage of a loop with the stages before it.
#include "loop_slot.h"

namespace mmedge::runtime {

LoopSlot::LoopSlot(const LoopStage& stage)
    : stage_(stage), slot_(stage.session->make_slot()) {
  if (stage.first) first_ = stage.first->make_memory();
}

void LoopSlot::reserve(const int64_t* sizes) {
  if (stage_.first) stage_.first->reserve(sizes, &first_);
}

Code LoopSlot::begin(const Pipeline& pipeline, const int64_t* sizes, const State* state,
                     CallError* error) noexcept {
  Code code = Code::kOk;
  for (size_t i = 0; i < stage_.inputs.size(); ++i) {
    const LoopInput& input = stage_.inputs[i];
    if (input.source == LoopInput::Source::kNetwork) {
      code = slot_->set_input(i, pipeline.input(input.place));
    } else if (input.source == LoopInput::Source::kMade) {
      code = slot_->set_input(i, pipeline.made(input.stage, input.place));
    }
    if (code != Code::kOk) return error->set(code, "%s", slot_->message());
  }
  for (size_t i = 0; i < stage_.states.size(); ++i) {
    const LoopState& each = stage_.states[i];
    if (state != nullptr && !state->is_new()) {
      const StateTensor& held = state->tensors[each.state];
      code = stage_.first->check(i, held.view, sizes, error);
      if (code != Code::kOk) return code;
      code = held.give(slot_.get(), each.input);
    } else {
      const Value* output = each.has_source ? &pipeline.made(each.stage, each.place) : nullptr;
      TensorView value;
      code = stage_.first->make(i, sizes, output != nullptr ? &output->view() : nullptr, &first_,
                                &value, error);
      if (code != Code::kOk) return code;
      code = output != nullptr ? slot_->set_input(each.input, *output)
                               : slot_->set_input(each.input, value);
    }
    if (code != Code::kOk) return error->set(code, "%s", slot_->message());
  }
  return Code::kOk;
}

int64_t LoopSlot::size_along(size_t state, size_t axis) const noexcept {
  return slot_->input(stage_.states[state].input).shape[axis];
}

Code LoopSlot::run(CallError* error) noexcept {
  Code code = slot_->run();
  for (size_t i = 0; i < stage_.states.size() && code == Code::kOk; ++i) {
    code = slot_->feed_back(stage_.states[i].output, stage_.states[i].input);
  }
  return code == Code::kOk ? code : error->set(code, "%s", slot_->message());
}

void LoopSlot::leave(State* state) noexcept {
  for (const LoopState& each : stage_.states) {
    Value value = slot_->take_input(each.input);
    state->tensors[each.state].leave(&value);
  }
}

}  // namespace mmedge::runtime
