// Runs the stages of a loaded network for a stream.
#include "stream/network_runner.h"

#include <algorithm>
#include <cstdio>
#include <cstring>

namespace mmedge::runtime::stream {
namespace {

// Writes a stored token, which is the same all along each dynamic axis, in another size.
void repeat(const TensorView& token, const TensorSpec& spec, const TensorView& to) noexcept {
  const size_t item = item_size(to.dtype);
  int64_t index[kMaxRank] = {};
  const int64_t count = to.elements();
  uint8_t* at = static_cast<uint8_t*>(to.data);
  for (int64_t i = 0; i < count; ++i, at += item) {
    int64_t from = 0;
    for (size_t axis = 0; axis < to.rank; ++axis) {
      from = from * token.shape[axis] + (spec.shape[axis].is_dynamic() ? 0 : index[axis]);
    }
    std::memcpy(at, static_cast<const uint8_t*>(token.data) + static_cast<size_t>(from) * item,
                item);
    for (size_t axis = to.rank; axis-- > 0;) {
      if (++index[axis] < to.shape[axis]) break;
      index[axis] = 0;
    }
  }
}

constexpr uint8_t kAnew = 0;

}  // namespace

Code NetworkRunner::fail(Lane* lane, Code code, const char* text) noexcept {
  const char* kind = code == Code::kInput ? "InputError" : "BackendError";
  std::snprintf(lane->message, sizeof lane->message, "%s: %s", kind, text);
  return code;
}

Code NetworkRunner::set_input(Lane* lane, size_t stage, size_t at, const Source& source,
                              const TensorView* inputs, const FusionPart* parts) noexcept {
  RunSlot* slot = lane->slots[stage].get();
  switch (source.kind) {
    case Source::Kind::kState:
      return Code::kOk;
    case Source::Kind::kStage:
      return slot->set_input(at, lane->values[source.of][source.place]);
    case Source::Kind::kFeature: {
      const size_t from = static_cast<size_t>(parts[source.of].slot);
      return modalities_[source.of].slots[from].tensors[source.place].give(slot, at);
    }
    case Source::Kind::kInput:
      if (parts != nullptr) inputs = inputs_of(source.of, parts[source.of]);
      return slot->set_input(at, inputs[source.place]);
  }
  return Code::kBackend;
}

const TensorView* NetworkRunner::inputs_of(size_t modality,
                                           const FusionPart& part) const noexcept {
  if (part.slot < 0) return part.inputs;
  return modalities_[modality].slots[static_cast<size_t>(part.slot)].inputs.data();
}

// With the sizes of what the stage takes beside its states, which are set.
Code NetworkRunner::enter_states(Lane* lane, const Step& step, bool goes_on) noexcept {
  const PlanStage& stage = network_->stages()[step.stage];
  RunSlot* slot = lane->slots[step.stage].get();
  std::fill(lane->sizes.begin(), lane->sizes.end(), kUnknownSize);
  for (size_t at = 0; at < step.inputs.size(); ++at) {
    if (step.inputs[at].kind == Source::Kind::kState) continue;
    const TensorView& view = slot->input(at);
    for (size_t axis = 0; axis < step.places[at].size(); ++axis) {
      const int place = step.places[at][axis];
      if (place >= 0) lane->sizes[static_cast<size_t>(place)] = view.shape[axis];
    }
  }
  for (size_t i = 0; i < stage.states.size(); ++i) {
    const size_t input = stage.states[i].input;
    Code code = Code::kOk;
    if (goes_on) {
      const Value& kept = states_[step.stage].kept[i];
      code = stage.first->check(i, kept.view(), lane->sizes.data(), &lane->error,
                                "the stream's state",
                                "push values of one size, or reset the stream first");
      if (code != Code::kOk) return fail(lane, code, lane->error.text);
      code = slot->set_input(input, kept);
    } else {
      TensorView value;
      code = stage.first->make(i, lane->sizes.data(), nullptr, &lane->first[step.stage], &value,
                               &lane->error);
      if (code != Code::kOk) return fail(lane, code, lane->error.text);
      code = slot->set_input(input, value);
    }
    if (code != Code::kOk) return fail(lane, code, slot->message());
  }
  return Code::kOk;
}

Code NetworkRunner::check_states(Lane* lane, size_t place) noexcept {
  const PlanStage& stage = network_->stages()[place];
  for (size_t i = 0; i < stage.states.size(); ++i) {
    const size_t output = stage.boundaries[stage.states[i].boundary].output;
    const Code code =
        stage.first->check_left(i, lane->values[place][output].view(), &lane->error);
    if (code != Code::kOk) return fail(lane, code, lane->error.text);
  }
  return Code::kOk;
}

Code NetworkRunner::run(Lane* lane, const std::vector<Step>& steps, const TensorView* inputs,
                        const FusionPart* parts, const uint8_t* goes_on,
                        double* seconds) noexcept {
  for (const Step& step : steps) {
    RunSlot& slot = *lane->slots[step.stage];
    for (size_t at = 0; at < step.inputs.size(); ++at) {
      const Code code = set_input(lane, step.stage, at, step.inputs[at], inputs, parts);
      if (code != Code::kOk) return fail(lane, code, slot.message());
    }
    const bool has_states = !network_->stages()[step.stage].states.empty();
    if (has_states) {
      const Code code = enter_states(lane, step, goes_on != nullptr && goes_on[step.flag] != 0);
      if (code != Code::kOk) return code;
    }
    *seconds += cost(step.stage);
    if (const Code code = slot.run(); code != Code::kOk) return fail(lane, code, slot.message());
    std::vector<Value>& values = lane->values[step.stage];
    for (size_t k = 0; k < values.size(); ++k) values[k] = slot.take_output(k);
    if (!has_states) continue;
    if (const Code code = check_states(lane, step.stage); code != Code::kOk) return code;
  }
  return Code::kOk;
}

void NetworkRunner::leave_states(Lane* lane, const std::vector<Step>& steps) noexcept {
  for (const Step& step : steps) {
    const PlanStage& stage = network_->stages()[step.stage];
    for (size_t i = 0; i < stage.states.size(); ++i) {
      const size_t output = stage.boundaries[stage.states[i].boundary].output;
      states_[step.stage].made[i] = std::move(lane->values[step.stage][output]);
    }
  }
}

Code NetworkRunner::keep_features(Lane* lane, size_t modality, const TensorView* inputs,
                                  size_t slot) noexcept {
  ModalityPlan& plan = modalities_[modality];
  Features& features = plan.slots[slot];
  for (size_t f = 0; f < plan.features.size(); ++f) {
    const auto [stage, output] = plan.features[f];
    Value& value = lane->values[stage][output];
    if (features.tensors[f].memory.empty()) {
      features.tensors[f].keep(&value);
    } else if (!features.tensors[f].copy(value.view())) {
      return fail(lane, Code::kBackend, "a feature is larger than what was set aside for it");
    }
  }
  for (size_t k = 0; k < plan.takes_input.size(); ++k) {
    features.inputs[k] = inputs[k];
    features.inputs[k].data = nullptr;
    if (!plan.takes_input[k]) continue;
    const size_t bytes = inputs[k].bytes();
    if (bytes > features.memory[k].size()) {
      return fail(lane, Code::kBackend, "an input is larger than what was set aside for it");
    }
    features.inputs[k].data = features.memory[k].data();
    if (bytes) std::memcpy(features.memory[k].data(), inputs[k].data, bytes);
  }
  return Code::kOk;
}

Code NetworkRunner::encode(size_t modality, const TensorView* inputs, bool goes_on, size_t slot,
                           double* seconds) noexcept {
  Lane* lane = &lanes_[modality];
  const std::vector<Step>& steps = modalities_[modality].steps;
  const uint8_t flag = goes_on;
  // Stages of one encoder go on together.
  Code code = run(lane, steps, inputs, nullptr, &flag, seconds);
  if (code == Code::kOk) code = keep_features(lane, modality, inputs, slot);
  if (code == Code::kOk) leave_states(lane, steps);
  return code;
}

void NetworkRunner::keep_states(size_t modality) noexcept {
  for (const Step& step : modalities_[modality].steps) {
    states_[step.stage].kept.swap(states_[step.stage].made);
  }
}

Code NetworkRunner::stand_in(size_t modality, const int64_t* sizes, size_t slot,
                             double* seconds) noexcept {
  Lane* lane = &lanes_.back();
  ModalityPlan& plan = modalities_[modality];
  std::copy(sizes, sizes + sizes_.size(), sizes_.begin());
  if (!relations_.complete(sizes_.data(), scratch_.data())) {
    return fail(lane, Code::kInput, "nothing can stand in for what is absent: no sizes keep the "
                                    "bundle's constraints");
  }
  const Modality& of = network_->manifest().modalities[modality];
  const size_t first = network_->inputs().first_input(modality);
  for (size_t k = 0; k < plan.stand_in.size(); ++k) {
    const TensorSpec& spec = network_->inputs().specs()[first + k];
    TensorView& view = plan.stand_in_views[k];
    view.dtype = spec.dtype;
    view.rank = spec.shape.size();
    view.data = plan.stand_in[k].data();
    for (size_t axis = 0; axis < view.rank; ++axis) {
      const Axis& size = spec.shape[axis];
      view.shape[axis] =
          size.is_dynamic() ? sizes_[relations_.index(size.dimension)] : size.size;
    }
    const size_t bytes = view.bytes();
    if (bytes > plan.stand_in[k].size()) {
      return fail(lane, Code::kBackend, "a stand-in is larger than what was set aside for it");
    }
    if (of.absent == Absent::kToken) {
      repeat(tokens_[first + k], spec, view);
    } else if (bytes) {
      std::memset(view.data, 0, bytes);
    }
  }
  const TensorView* inputs = plan.stand_in_views.data();
  const Code code = run(lane, plan.steps, inputs, nullptr, &kAnew, seconds);
  return code == Code::kOk ? keep_features(lane, modality, inputs, slot) : code;
}

Code NetworkRunner::keep_outputs(Lane* lane, const FusionPart* parts, Outputs* to) noexcept {
  for (size_t i = 0; i < outputs_.size(); ++i) {
    const Source& source = outputs_[i];
    KeptTensor& tensor = to->tensors[i];
    const TensorView* view;
    if (source.kind == Source::Kind::kStage) {
      Value& value = lane->values[source.of][source.place];
      if (tensor.memory.empty()) {
        tensor.keep(&value);
        continue;
      }
      view = &value.view();
    } else {
      const size_t slot = static_cast<size_t>(parts[source.of].slot);
      view = &modalities_[source.of].slots[slot].tensors[source.place].view;
    }
    if (!tensor.copy(*view)) {
      return fail(lane, Code::kBackend, "an output is larger than what was set aside for it");
    }
  }
  return Code::kOk;
}

Code NetworkRunner::begin_loop(const FusionPart* parts) noexcept {
  Lane* lane = &lanes_.back();
  MadeCall& call = loop_->call();
  call.clear();
  for (size_t m = 0; m < modalities_.size(); ++m) {
    const ModalityPlan& plan = modalities_[m];
    // Its sizes are those of all inputs, whatever its stages take of them.
    const TensorView* inputs = inputs_of(m, parts[m]);
    const size_t first = network_->inputs().first_input(m);
    for (size_t k = 0; k < plan.takes_input.size(); ++k) call.set_input(first + k, inputs[k]);
    for (size_t f = 0; f < plan.features.size(); ++f) {
      const auto [stage, output] = plan.features[f];
      call.add_sizes(stage, output, plan.slots[static_cast<size_t>(parts[m].slot)].tensors[f].view);
    }
  }
  for (const Step& step : fusion_) {
    const std::vector<Value>& values = lane->values[step.stage];
    for (size_t k = 0; k < values.size(); ++k) call.add_sizes(step.stage, k, values[k].view());
  }
  for (const LoopTensor& tensor : loop_tensors_) {
    const Source& source = tensor.source;
    if (source.kind == Source::Kind::kStage) {
      call.set_made(tensor.stage, tensor.boundary,
                    borrow(lane->values[source.of][source.place]));
      continue;
    }
    const size_t slot = static_cast<size_t>(parts[source.of].slot);
    call.set_made(tensor.stage, tensor.boundary,
                  borrow(modalities_[source.of].slots[slot].tensors[source.place]));
  }
  const Code code = loop_->begin();
  return code == Code::kOk ? code : fail(lane, code, loop_->message());
}

Code NetworkRunner::fuse(const FusionPart* parts, const uint8_t* goes_on, size_t result,
                         double* seconds) noexcept {
  Lane* lane = &lanes_.back();
  Code code = run(lane, fusion_, nullptr, parts, goes_on, seconds);
  if (code == Code::kOk && loop_) code = begin_loop(parts);
  if (code == Code::kOk) code = keep_outputs(lane, parts, &results_[result]);
  if (code == Code::kOk) leave_states(lane, fusion_);
  return code;
}

void NetworkRunner::keep_fusion_states(const uint8_t* which) noexcept {
  for (size_t i = 0; i < fusion_states_.size(); ++i) {
    States& states = states_[fusion_states_[i]];
    if (which[i]) states.kept.swap(states.made);
  }
}

Code NetworkRunner::step(bool* more, double* seconds) noexcept {
  *seconds += step_cost_;
  const Code code = loop_->step(more);
  return code == Code::kOk ? code : fail(&lanes_.back(), code, loop_->message());
}

Code NetworkRunner::end(LoopFinish why, size_t result, bool* has_outputs,
                        double* seconds) noexcept {
  *seconds += end_cost_;
  if (has_outputs == nullptr) return Code::kOk;
  const Code code = loop_->end(why, &results_[result].loop, has_outputs);
  return code == Code::kOk ? code : fail(&lanes_.back(), code, loop_->message());
}

}  // namespace mmedge::runtime::stream
