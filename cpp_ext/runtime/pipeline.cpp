// Calls of a loaded network: inputs are checked, stages run in order, encoders of what has not
// changed are left out.
#include "pipeline.h"

#include <algorithm>
#include <cstring>

#include "error.h"

namespace mmedge::runtime {
namespace {

// Runs of a warm-up: the second still grows an engine's memory, the third finds it.
constexpr int kWarmRuns = 3;

bool same_kind(const TensorView& a, const TensorView& b) noexcept {
  return a.rank == b.rank && std::equal(a.shape, a.shape + a.rank, b.shape);
}

void add_sizes(const std::vector<int>& places, const TensorView& view,
               std::vector<int64_t>* sizes) noexcept {
  for (size_t axis = 0; axis < places.size(); ++axis) {
    if (places[axis] >= 0) (*sizes)[static_cast<size_t>(places[axis])] = view.shape[axis];
  }
}

}  // namespace

Pipeline::Pipeline(std::shared_ptr<const Network> network, bool has_slots)
    : call_(network->inputs().make_call()), network_(std::move(network)) {
  for (const PlanStage& stage : network_->stages()) {
    if (has_slots) slots_.push_back(stage.session->make_slot());
    values_.emplace_back(stage.boundaries.size());
    std::vector<std::vector<int>>& dimensions = output_dimensions_.emplace_back();
    for (const TensorSpec& spec : stage.session->outputs()) {
      dimensions.push_back(dimension_places(network_->manifest(), spec));
    }
    first_.push_back(stage.first ? stage.first->make_memory() : FirstMemory());
  }
  sizes_.resize(network_->size_sources().size());
  views_.resize(network_->outputs().size());
  for (const TensorSpec& spec : network_->inputs().specs()) {
    input_dimensions_.push_back(dimension_places(network_->manifest(), spec));
  }
  const std::vector<Modality>& modalities = network_->manifest().modalities;
  held_.resize(modalities.size());
  for (size_t m = 0; m < modalities.size(); ++m) {
    held_[m].views.resize(modalities[m].inputs.size());
    held_[m].memory.resize(modalities[m].inputs.size());
  }
  // A single stage is the whole network, and not an encoder in front of anything; with a loop it is
  // in front of that.
  const bool is_all = network_->stages().size() == 1 && network_->loop_stages().empty();
  if (!network_->options().cache || is_all) return;
  for (const PlanStage& stage : network_->stages()) {
    if (stage.modality >= 0) held_[static_cast<size_t>(stage.modality)].cached = true;
  }
  // What an encoder with state gives depends on more than its inputs.
  for (const PlanStage& stage : network_->stages()) {
    if (stage.modality >= 0 && stage.first) {
      held_[static_cast<size_t>(stage.modality)].cached = false;
    }
  }
}

void Pipeline::warm_up(const NamedTensor* tensors, size_t count, const WarmUp& after) {
  const Inputs& inputs = network_->inputs();
  std::vector<Tensor> memory;
  std::vector<NamedTensor> example;
  for (const bool required_only : {false, true}) {
    if (count == 0) {
      example = inputs.example(required_only, &memory);
    } else if (required_only) {
      break;
    } else {
      example.assign(tensors, tensors + count);
    }
    reserve(example.data(), example.size());
    for (int i = 0; i < kWarmRuns; ++i) {
      const Code code = run(example.data(), example.size(), false);
      if (code != Code::kOk) throw Error(code, message());
    }
    if (after) after(example.data(), example.size());
  }
}

void Pipeline::reserve(const NamedTensor* tensors, size_t count) {
  network_->inputs().reserve(tensors, count, &call_);
  for (size_t m = 0; m < held_.size(); ++m) {
    if (held_[m].cached) reserve_copies(m);
  }
  find_sizes();
  for (size_t place = 0; place < first_.size(); ++place) {
    const auto& first = network_->stages()[place].first;
    if (first) first->reserve(sizes_.data(), &first_[place]);
  }
}

void Pipeline::reserve_copies(size_t modality) {
  const size_t first = network_->inputs().first_input(modality);
  Held& held = held_[modality];
  for (size_t i = 0; i < held.memory.size(); ++i) {
    const size_t bytes = call_.values[first + i].bytes();
    if (held.memory[i].size() < bytes) {
      held.memory[i].resize(bytes);
      held.valid = false;
    }
  }
}

bool Pipeline::holds(size_t modality) noexcept {
  const Held& held = held_[modality];
  if (!held.valid) return false;
  const size_t first = network_->inputs().first_input(modality);
  for (size_t i = 0; i < held.views.size(); ++i) {
    const TensorView& value = call_.values[first + i];
    if (!same_kind(value, held.views[i])) return false;
    const size_t bytes = value.bytes();
    if (bytes > 0 && std::memcmp(value.data, held.memory[i].data(), bytes) != 0) return false;
  }
  return true;
}

void Pipeline::hold(size_t modality) noexcept {
  Held& held = held_[modality];
  held.valid = false;
  const size_t first = network_->inputs().first_input(modality);
  for (size_t i = 0; i < held.views.size(); ++i) {
    const TensorView& value = call_.values[first + i];
    const size_t bytes = value.bytes();
    if (bytes > held.memory[i].size()) return;  // larger than any that was warmed up with
    if (bytes > 0) std::memcpy(held.memory[i].data(), value.data, bytes);
    held.views[i] = value;
  }
  held.valid = true;
}

void Pipeline::forget() noexcept {
  for (Held& held : held_) held.valid = false;
}

Code Pipeline::run_stage(size_t place) noexcept {
  const PlanStage& stage = network_->stages()[place];
  RunSlot& slot = *slots_[place];
  for (const auto& [input, source] : stage.network_inputs) {
    if (const Code code = slot.set_input(input, call_.values[source]); code != Code::kOk) {
      return call_.error.set(code, "%s", slot.message());
    }
  }
  if (const Code code = slot.run(); code != Code::kOk) {
    return call_.error.set(code, "%s", slot.message());
  }
  for (size_t b = 0; b < stage.boundaries.size(); ++b) {
    const Boundary& boundary = stage.boundaries[b];
    Value value = slot.take_output(boundary.output);
    for (const auto& [taker, input] : boundary.takers) {
      RunSlot& next = *slots_[taker];
      if (const Code code = next.set_input(input, value); code != Code::kOk) {
        return call_.error.set(code, "%s", next.message());
      }
    }
    values_[place][b] = std::move(value);  // lets the one before go, which nobody takes any more
  }
  return Code::kOk;
}

void Pipeline::find_sizes() noexcept {
  for (size_t i = 0; i < sizes_.size(); ++i) {
    const Network::SizeSource& source = network_->size_sources()[i];
    sizes_[i] = source.known ? call_.values[source.input].shape[source.axis] : kUnknownSize;
  }
}

void Pipeline::find_loop_sizes(const LoopStage& stage, int left_out,
                               std::vector<int64_t>* sizes) const noexcept {
  std::fill(sizes->begin(), sizes->end(), kUnknownSize);
  for (const LoopInput& input : stage.inputs) {
    if (input.source != LoopInput::Source::kMade) continue;
    add_sizes(input.dimensions, made(input.stage, input.place).view(), sizes);
  }
  add_input_sizes(left_out, sizes);
}

void Pipeline::add_input_sizes(int left_out, std::vector<int64_t>* sizes) const noexcept {
  for (size_t i = 0; i < input_dimensions_.size(); ++i) {
    if (static_cast<int>(i) != left_out) add_sizes(input_dimensions_[i], call_.values[i], sizes);
  }
}

void Pipeline::find_all_sizes(std::vector<int64_t>* sizes) const noexcept {
  std::fill(sizes->begin(), sizes->end(), kUnknownSize);
  for (size_t stage = 0; stage < output_dimensions_.size(); ++stage) {
    for (size_t output = 0; output < output_dimensions_[stage].size(); ++output) {
      add_sizes(output_dimensions_[stage][output], find_output(stage, output), sizes);
    }
  }
  add_input_sizes(-1, sizes);
}

Code Pipeline::begin_states(size_t place, const State* state) noexcept {
  const PlanStage& stage = network_->stages()[place];
  RunSlot& slot = *slots_[place];
  for (size_t i = 0; i < stage.states.size(); ++i) {
    const StatePlace& each = stage.states[i];
    Code code = Code::kOk;
    if (state != nullptr && !state->is_new()) {
      const StateTensor& held = state->tensors[each.state];
      code = stage.first->check(i, held.view, sizes_.data(), &call_.error);
      if (code != Code::kOk) return code;
      code = held.give(&slot, each.input);
    } else {
      TensorView value;
      code = stage.first->make(i, sizes_.data(), nullptr, &first_[place], &value, &call_.error);
      if (code != Code::kOk) return code;
      code = slot.set_input(each.input, value);
    }
    if (code != Code::kOk) return call_.error.set(code, "%s", slot.message());
  }
  return Code::kOk;
}

Code Pipeline::check_states() noexcept {
  for (size_t place = 0; place < values_.size(); ++place) {
    const PlanStage& stage = network_->stages()[place];
    for (size_t i = 0; i < stage.states.size(); ++i) {
      const Value& value = values_[place][stage.states[i].boundary];
      const Code code = stage.first->check_left(i, value.view(), &call_.error);
      if (code != Code::kOk) return code;
    }
  }
  return Code::kOk;
}

void Pipeline::leave_states(State* state) noexcept {
  for (size_t place = 0; place < values_.size(); ++place) {
    for (const StatePlace& each : network_->stages()[place].states) {
      state->tensors[each.state].leave(&values_[place][each.boundary]);
    }
  }
}

Code Pipeline::compute(const NamedTensor* tensors, size_t count, bool cached,
                       const State* state) noexcept {
  if (const Code code = network_->inputs().prepare(tensors, count, &call_); code != Code::kOk) {
    return code;
  }
  const std::vector<PlanStage>& stages = network_->stages();
  for (size_t m = 0; m < held_.size(); ++m) {
    held_[m].skip = cached && held_[m].cached && holds(m);
    if (!held_[m].skip) held_[m].valid = false;
  }
  find_sizes();
  for (size_t place = 0; place < stages.size(); ++place) {
    if (stages[place].first == nullptr) continue;
    if (const Code code = begin_states(place, state); code != Code::kOk) return code;
  }
  for (size_t place = 0; place < stages.size(); ++place) {
    const int modality = stages[place].modality;
    if (modality >= 0 && held_[static_cast<size_t>(modality)].skip) continue;
    if (const Code code = run_stage(place); code != Code::kOk) return code;
  }
  for (size_t m = 0; m < held_.size() && cached; ++m) {
    if (held_[m].cached && !held_[m].skip) hold(m);
  }
  for (size_t i = 0; i < views_.size(); ++i) {
    const auto& [stage, output] = network_->output_places()[i];
    views_[i] = find_output(stage, output);
  }
  return Code::kOk;
}

Code Pipeline::run(const NamedTensor* tensors, size_t count, bool cached, State* state) noexcept {
  if (state == nullptr) return compute(tensors, count, cached, nullptr);
  Code code = state->acquire(network_.get(), &call_.error);
  if (code != Code::kOk) return code;
  code = compute(tensors, count, cached, state);
  if (code == Code::kOk) code = check_states();
  if (code == Code::kOk) {
    leave_states(state);
    ++state->position;
  }
  state->release();
  return code;
}

const TensorView& Pipeline::find_output(size_t stage, size_t place) const noexcept {
  const std::vector<Boundary>& boundaries = network_->stages()[stage].boundaries;
  for (size_t b = 0; b < boundaries.size(); ++b) {
    if (boundaries[b].output == place) return values_[stage][b].view();
  }
  return slots_[stage]->output(place);
}

}  // namespace mmedge::runtime
