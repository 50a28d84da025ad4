// The keeper of states between calls.
#include "state.h"

#include <algorithm>

#include "error.h"
#include "pipeline.h"

namespace mmedge::runtime {
namespace {

// That of a loop `denoise` is of one call.
bool keeps_state(const Manifest& manifest) {
  const auto* denoise = std::get_if<DenoiseLoop>(&manifest.loop);
  return std::any_of(
      manifest.states.begin(), manifest.states.end(),
      [&](const StateSpec& state) { return denoise == nullptr || state.stage != denoise->stage; });
}

}  // namespace

void StateTensor::leave(Value* made) noexcept {
  if (!*made) return;
  value.swap(*made);
  view = value.view();
}

void StateTensor::copy(const TensorView& from) {
  std::vector<uint8_t> bytes(std::max<size_t>(from.bytes(), 1));
  const auto* data = static_cast<const uint8_t*>(from.data);
  std::copy_n(data, from.bytes(), bytes.data());
  memory = std::move(bytes);
  value = Value();
  view = from;
  view.data = memory.data();
}

Code StateTensor::give(RunSlot* slot, size_t input) const noexcept {
  return value ? slot->set_input(input, value) : slot->set_input(input, view);
}

State::State(std::shared_ptr<const Network> network) : network_(std::move(network)) {
  const Manifest& manifest = network_->manifest();
  if (!keeps_state(manifest)) {
    throw Error(Code::kInput,
                "'" + manifest.name + "' keeps no state from call to call; call it without");
  }
  tensors.resize(manifest.states.size());
}

std::unique_ptr<State> State::copy() const {
  auto other = std::make_unique<State>(network_);
  for (size_t i = 0; i < tensors.size(); ++i) {
    if (tensors[i].view.data != nullptr) other->tensors[i].copy(tensors[i].view);
  }
  other->position = position;
  other->choices = choices;
  other->pending = pending;
  other->pending_rows = pending_rows;
  other->pending_count = pending_count;
  return other;
}

Code State::acquire(const Network* network, CallError* error) noexcept {
  if (network != network_.get()) {
    return error->set(Code::kInput,
                      "this State belongs to another pipeline; make one of the pipeline that you call");
  }
  if (!used_.test_and_set(std::memory_order_acquire)) return Code::kOk;
  return error->set(Code::kInput,
                    "this State is in use by another call, or by a loop that has not ended; give each "
                    "its own, such as a copy");
}

void State::reset() noexcept {
  for (StateTensor& tensor : tensors) {
    tensor.value = Value();
    tensor.view = TensorView();
  }
  position = choices = pending_rows = pending_count = 0;
}

}  // namespace mmedge::runtime
