// Runs the stages of a loaded network for a stream: where each tensor comes from, and memory.
#include <algorithm>
#include <set>

#include "error.h"
#include "stream/network_runner.h"

namespace mmedge::runtime::stream {
namespace {

double find_cost(const std::map<std::string, double>& costs, const Stage& stage) {
  const auto found = costs.find(stage.name);
  return found == costs.end() ? 0.0 : found->second;
}

bool has_dimension(const Stage& stage, const std::set<std::string>& left_out,
                   const std::string& dimension) {
  return std::any_of(stage.inputs.begin(), stage.inputs.end(), [&](const TensorSpec& spec) {
    return left_out.count(spec.name) == 0 &&
           std::any_of(spec.shape.begin(), spec.shape.end(),
                       [&](const Axis& axis) { return axis.dimension == dimension; });
  });
}

}  // namespace

NetworkRunner::NetworkRunner(std::shared_ptr<const Network> network,
                             const std::map<std::string, int64_t>& largest,
                             const LoopOptions& loop, const std::map<std::string, double>& costs)
    : network_(std::move(network)),
      relations_(call_dimensions(network_->manifest()), network_->manifest().constraints),
      largest_(network_->manifest(), largest) {
  const Manifest& manifest = network_->manifest();
  if (!network_->loop_stages().empty()) {
    loop_.emplace(network_, loop, largest_);
  } else if (loop.any()) {
    throw Error(Code::kInput,
                "loop_options: bundle '" + manifest.name + "' has no loop; leave it out");
  }
  modalities_.resize(manifest.modalities.size());
  for (size_t m = 0; m < modalities_.size(); ++m) {
    modalities_[m].takes_input.resize(manifest.modalities[m].inputs.size());
  }
  for (const PlanStage& stage : network_->stages()) costs_.push_back(find_cost(costs, *stage.stage));
  for (size_t i = 0; i < network_->loop_stages().size(); ++i) {
    (i == 0 ? step_cost_ : end_cost_) = find_cost(costs, *network_->loop_stages()[i].stage);
  }
  connect_stages();
  connect_outputs();
  if (loop_) connect_loop();
  make_lanes();
  tokens_.resize(manifest.inputs().size());
  for (size_t m = 0; m < modalities_.size(); ++m) {
    const Modality& modality = manifest.modalities[m];
    if (modality.required || modality.absent != Absent::kToken) continue;
    samples_ = network_->bundle().samples();
    for (size_t k = 0; k < modality.inputs.size(); ++k) {
      tokens_[network_->inputs().first_input(m) + k] = samples_->absent.at(modality.inputs[k]);
    }
  }
  sizes_.resize(relations_.names().size());
  scratch_.resize(sizes_.size());
}

void NetworkRunner::connect_stages() {
  const Manifest& manifest = network_->manifest();
  const std::vector<PlanStage>& stages = network_->stages();
  states_.resize(stages.size());
  for (size_t place = 0; place < stages.size(); ++place) {
    const PlanStage& stage = stages[place];
    Step step{place, {}, {}, 0};
    const int modality = stage.modality;
    const std::vector<TensorSpec>& specs = stage.session->inputs();
    for (size_t at = 0; at < specs.size(); ++at) {
      step.places.push_back(dimension_places(manifest, specs[at]));
      const bool is_own = std::any_of(stage.states.begin(), stage.states.end(),
                                      [at](const StatePlace& state) { return state.input == at; });
      if (is_own) {
        step.inputs.push_back({Source::Kind::kState, 0, 0});
        continue;
      }
      const Source source = find_source(specs[at].name, modality);
      if (source.kind == Source::Kind::kInput && modality < 0) {
        modalities_[source.of].takes_input[source.place] = true;
      }
      step.inputs.push_back(source);
    }
    if (!stage.states.empty()) {
      states_[place].kept.resize(stage.states.size());
      states_[place].made.resize(stage.states.size());
      if (modality < 0) {
        step.flag = fusion_states_.size();
        fusion_states_.push_back(place);
      }
    }
    (modality < 0 ? fusion_ : modalities_[static_cast<size_t>(modality)].steps)
        .push_back(std::move(step));
  }
}

void NetworkRunner::connect_outputs() {
  for (size_t i = 0; i < network_->outputs().size(); ++i) {
    const auto [stage, output] = network_->output_places()[i];
    const int owner = network_->stages()[stage].modality;
    Source source{Source::Kind::kStage, stage, output};
    if (owner >= 0) {
      source = {Source::Kind::kFeature, static_cast<size_t>(owner),
                feature(static_cast<size_t>(owner), stage, output)};
    }
    const bool is_copied = owner >= 0 || is_state(stage, output);
    outputs_.push_back(source);
    output_bytes_.push_back(is_copied ? largest_.bytes(network_->outputs()[i], "output") : 0);
  }
}

void NetworkRunner::connect_loop() {
  const std::vector<PlanStage>& stages = network_->stages();
  const auto take_made = [&](size_t stage, size_t boundary) {
    const size_t output = stages[stage].boundaries[boundary].output;
    LoopTensor tensor{stage, boundary, {Source::Kind::kStage, stage, output}};
    if (const int owner = stages[stage].modality; owner >= 0) {
      tensor.source = {Source::Kind::kFeature, static_cast<size_t>(owner),
                       feature(static_cast<size_t>(owner), stage, output)};
    }
    loop_tensors_.push_back(tensor);
  };
  const auto take_input = [&](const std::string& name) {
    const std::vector<Modality>& modalities = network_->manifest().modalities;
    for (size_t m = 0; m < modalities.size(); ++m) {
      for (size_t k = 0; k < modalities[m].inputs.size(); ++k) {
        if (modalities[m].inputs[k] == name) modalities_[m].takes_input[k] = true;
      }
    }
  };
  for (const LoopStage& stage : network_->loop_stages()) {
    for (size_t i = 0; i < stage.inputs.size(); ++i) {
      const LoopInput& input = stage.inputs[i];
      if (input.source == LoopInput::Source::kMade) take_made(input.stage, input.place);
      if (input.source == LoopInput::Source::kNetwork) {
        take_input(stage.session->inputs()[i].name);
      }
    }
    for (const LoopState& state : stage.states) {
      if (state.has_source) take_made(state.stage, state.place);
    }
  }
  // The caller's tokens are an input that the loop takes by itself.
  if (const TokenLoop* loop = network_->token_loop()) take_input(loop->loop.token);
}

void NetworkRunner::make_lanes() {
  const std::vector<Modality>& modalities = network_->manifest().modalities;
  lanes_.resize(modalities.size() + 1);
  for (Lane& lane : lanes_) {
    lane.slots.resize(network_->stages().size());
    lane.first.resize(lane.slots.size());
    lane.values.resize(lane.slots.size());
    lane.sizes.resize(network_->manifest().dimensions.size());
  }
  for (size_t m = 0; m < modalities.size(); ++m) {
    for (const Step& step : modalities_[m].steps) {
      add_stage(&lanes_[m], step.stage);
      if (!modalities[m].required) add_stage(&lanes_.back(), step.stage);
    }
  }
  for (const Step& step : fusion_) add_stage(&lanes_.back(), step.stage);
}

void NetworkRunner::add_stage(Lane* lane, size_t place) {
  const PlanStage& stage = network_->stages()[place];
  lane->slots[place] = stage.session->make_slot();
  lane->values[place].resize(stage.session->outputs().size());
  if (stage.first == nullptr) return;
  std::set<std::string> own;
  for (size_t i = 0; i < stage.states.size(); ++i) own.insert(stage.first->state(i).input);
  std::vector<int64_t> sizes;
  for (const auto& [name, dimension] : network_->manifest().dimensions) {
    sizes.push_back(largest_.find(name).value_or(kUnknownSize));
  }
  for (size_t i = 0; i < stage.states.size(); ++i) {
    // What grows begins with a size that is known.
    TensorSpec spec = stage.session->inputs()[stage.states[i].input];
    const auto& grows = stage.first->state(i).axis;
    for (size_t axis = 0; axis < spec.shape.size(); ++axis) {
      const bool is_given = has_dimension(*stage.stage, own, spec.shape[axis].dimension);
      if ((grows && static_cast<size_t>(*grows) == axis) || !is_given) spec.shape[axis] = {1, ""};
    }
    largest_.bytes(spec, "state");
  }
  lane->first[place] = stage.first->make_memory();
  stage.first->reserve(sizes.data(), &lane->first[place]);
}

NetworkRunner::Source NetworkRunner::find_source(const std::string& tensor, int modality) {
  const std::vector<PlanStage>& stages = network_->stages();
  for (size_t place = 0; place < stages.size(); ++place) {
    const int output = stages[place].session->output_index(tensor);
    if (output < 0) continue;
    const auto at = static_cast<size_t>(output);
    if (stages[place].modality == modality) return {Source::Kind::kStage, place, at};
    const auto owner = static_cast<size_t>(stages[place].modality);
    return {Source::Kind::kFeature, owner, feature(owner, place, at)};
  }
  const std::vector<Modality>& modalities = network_->manifest().modalities;
  for (size_t m = 0; m < modalities.size(); ++m) {
    const std::vector<std::string>& inputs = modalities[m].inputs;
    const auto found = std::find(inputs.begin(), inputs.end(), tensor);
    if (found == inputs.end()) continue;
    return {Source::Kind::kInput, m, static_cast<size_t>(found - inputs.begin())};
  }
  throw Error(Code::kBundle, "nothing gives tensor '" + tensor + "'");
}

size_t NetworkRunner::feature(size_t modality, size_t stage, size_t output) {
  std::vector<std::pair<size_t, size_t>>& features = modalities_[modality].features;
  const std::pair<size_t, size_t> wanted(stage, output);
  const auto found = std::find(features.begin(), features.end(), wanted);
  if (found != features.end()) return static_cast<size_t>(found - features.begin());
  features.push_back(wanted);
  return features.size() - 1;
}

bool NetworkRunner::is_state(size_t place, size_t output) const noexcept {
  const PlanStage& stage = network_->stages()[place];
  return std::any_of(stage.states.begin(), stage.states.end(), [&](const StatePlace& state) {
    return stage.boundaries[state.boundary].output == output;
  });
}

void NetworkRunner::reserve(size_t modality, size_t slots, const size_t* input_bytes) {
  ModalityPlan& plan = modalities_[modality];
  const size_t inputs = plan.takes_input.size();
  plan.slots.resize(slots);
  for (Features& features : plan.slots) {
    features.tensors.resize(plan.features.size());
    for (size_t f = 0; f < plan.features.size(); ++f) {
      const auto [stage, output] = plan.features[f];
      if (!is_state(stage, output)) continue;
      const TensorSpec& spec = network_->stages()[stage].session->outputs()[output];
      features.tensors[f].memory.resize(largest_.bytes(spec, "output"));
    }
    features.memory.resize(inputs);
    features.inputs.resize(inputs);
    for (size_t k = 0; k < inputs; ++k) {
      if (plan.takes_input[k]) features.memory[k].resize(std::max<size_t>(input_bytes[k], 1));
    }
  }
  if (network_->manifest().modalities[modality].required) return;
  plan.stand_in.resize(inputs);
  plan.stand_in_views.resize(inputs);
  for (size_t k = 0; k < inputs; ++k) plan.stand_in[k].resize(std::max<size_t>(input_bytes[k], 1));
}

void NetworkRunner::reserve_results(size_t slots) {
  if (loop_) reserve_loop();
  results_.resize(slots);
  for (Outputs& result : results_) {
    result.tensors.resize(outputs_.size());
    for (size_t i = 0; i < outputs_.size(); ++i) result.tensors[i].memory.resize(output_bytes_[i]);
    if (loop_) result.loop = loop_->make_outputs();
  }
}

// With tensors of the largest sizes, which hold nothing.
void NetworkRunner::reserve_loop() {
  MadeCall& call = loop_->call();
  call.clear();
  const std::vector<TensorSpec>& specs = network_->inputs().specs();
  for (size_t i = 0; i < specs.size(); ++i) call.set_input(i, largest_.view(specs[i], "input"));
  for (const LoopTensor& tensor : loop_tensors_) {
    const PlanStage& stage = network_->stages()[tensor.stage];
    const size_t output = stage.boundaries[tensor.boundary].output;
    const TensorView view = largest_.view(stage.session->outputs()[output], "output");
    call.add_sizes(tensor.stage, output, view);
    call.set_made(tensor.stage, tensor.boundary, Value(nullptr, nullptr, nullptr, view));
  }
  loop_->reserve();
}

}  // namespace mmedge::runtime::stream
