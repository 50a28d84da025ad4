// Joins a stage of a loop with the stages before it.
#include "loop_slot.h"

#include <algorithm>
#include <cstring>

namespace mmedge::runtime {

LoopSlot::LoopSlot(const LoopStage& stage)
    : stage_(stage),
      slot_(stage.session->make_slot()),
      parts_(stage.states.size()),
      copies_(stage.states.size()) {
  if (stage.first) first_ = stage.first->make_memory();
}

void LoopSlot::reserve(const int64_t* sizes) {
  if (stage_.first) stage_.first->reserve(sizes, &first_);
}

Code LoopSlot::begin(const Pipeline& pipeline, const int64_t* sizes, const State* state,
                     CallError* error) noexcept {
  Code code = Code::kOk;
  are_lent_ = false;
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
  are_lent_ = are_lent_ && code != Code::kOk;
  return code == Code::kOk ? code : error->set(code, "%s", slot_->message());
}

Code LoopSlot::begin_after(const std::vector<Value>& states, int64_t left_out,
                           CallError* error) noexcept {
  are_lent_ = true;
  for (size_t i = 0; i < states.size(); ++i) {
    const size_t input = stage_.states[i].input;
    const TensorView& all = states[i].view();
    Value part;
    Code code = Code::kOk;
    if (left_out > 0) {
      const auto axis = static_cast<size_t>(*stage_.first->state(i).axis);
      TensorView shape = all;
      shape.shape[axis] -= left_out;
      code = slot_->make_tensor(shape, &part);
      size_t blocks = 1;
      for (size_t before = 0; before < axis; ++before) {
        blocks *= static_cast<size_t>(all.shape[before]);
      }
      const size_t bytes = shape.bytes() / std::max<size_t>(blocks, 1);
      const size_t step = all.bytes() / std::max<size_t>(blocks, 1);
      for (size_t b = 0; code == Code::kOk && bytes > 0 && b < blocks; ++b) {
        std::memcpy(static_cast<uint8_t*>(part.view().data) + b * bytes,
                    static_cast<const uint8_t*>(all.data) + b * step, bytes);
      }
    }
    if (code == Code::kOk) code = slot_->set_input(input, left_out > 0 ? part : states[i]);
    if (code != Code::kOk) return error->set(code, "%s", slot_->message());
    if (left_out > 0) parts_[i] = std::move(part);  // the slot has let go of the one before
  }
  return Code::kOk;
}

Code LoopSlot::keep(std::vector<Value>* states, CallError* error) noexcept {
  are_lent_ = true;
  for (size_t i = 0; i < states->size(); ++i) {
    const size_t input = stage_.states[i].input;
    Value& kept = (*states)[i];
    Code code = Code::kOk;
    // One without data is in a buffer that the next run writes to.
    if (slot_->input(input).data != nullptr) kept = slot_->take_input(input);
    code = kept ? slot_->set_input(input, kept) : slot_->copy_input(input, &kept);
    if (code != Code::kOk) return error->set(code, "%s", slot_->message());
  }
  return Code::kOk;
}

size_t LoopSlot::state_bytes() const noexcept {
  size_t bytes = 0;
  for (const LoopState& each : stage_.states) bytes += slot_->input(each.input).bytes();
  return bytes;
}

Code LoopSlot::leave(State* state, CallError* error) noexcept {
  for (size_t i = 0; i < copies_.size() && are_lent_; ++i) {
    const Code code = slot_->copy_input(stage_.states[i].input, &copies_[i]);
    if (code != Code::kOk) return error->set(code, "%s", slot_->message());
  }
  for (size_t i = 0; i < copies_.size(); ++i) {
    Value value = are_lent_ ? std::move(copies_[i]) : slot_->take_input(stage_.states[i].input);
    state->tensors[stage_.states[i].state].leave(&value);
  }
  return Code::kOk;
}

}  // namespace mmedge::runtime
