// Runs the stages of a loaded network for a stream.
#include "stream/network_runner.h"

#include <algorithm>
#include <cstdio>
#include <cstring>

#include "error.h"

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

}  // namespace

NetworkRunner::NetworkRunner(std::shared_ptr<const Network> network,
                             const std::map<std::string, int64_t>& largest)
    : network_(std::move(network)),
      relations_(network_->manifest().dimensions, network_->manifest().constraints) {
  const Manifest& manifest = network_->manifest();
  if (!network_->loop_stages().empty() || !manifest.states.empty()) {
    throw Error(Code::kInput, "streams in C++ run neither loops nor stages with state; push to a "
                              "stream of the runtime in Python, or call the pipeline");
  }
  const std::vector<PlanStage>& stages = network_->stages();
  for (const PlanStage& stage : stages) {
    slots_.push_back(stage.session->make_slot());
    values_.emplace_back(stage.session->outputs().size());
  }
  modalities_.resize(manifest.modalities.size());
  for (size_t m = 0; m < modalities_.size(); ++m) {
    modalities_[m].takes_input.resize(manifest.modalities[m].inputs.size());
  }
  for (size_t place = 0; place < stages.size(); ++place) {
    Step step{place, {}};
    const int modality = stages[place].modality;
    for (const TensorSpec& spec : stages[place].session->inputs()) {
      Source source = find_source(spec.name, modality);
      if (source.kind == Source::Kind::kInput && modality < 0) {
        modalities_[source.of].takes_input[source.place] = true;
      }
      if (source.kind == Source::Kind::kFeature) {
        const int owner = stages[source.of].modality;
        source.place = feature(static_cast<size_t>(owner), source.of, source.place);
        source.of = static_cast<size_t>(owner);
      }
      step.inputs.push_back(source);
    }
    (modality < 0 ? fusion_ : modalities_[static_cast<size_t>(modality)].steps)
        .push_back(std::move(step));
  }
  for (size_t i = 0; i < network_->outputs().size(); ++i) {
    const auto [stage, output] = network_->output_places()[i];
    const int owner = stages[stage].modality;
    Source source{Source::Kind::kStage, stage, output};
    size_t bytes = 0;
    if (owner >= 0) {
      source = {Source::Kind::kFeature, static_cast<size_t>(owner),
                feature(static_cast<size_t>(owner), stage, output)};
      bytes = most_bytes(network_->outputs()[i], largest);
    }
    outputs_.push_back(source);
    output_bytes_.push_back(bytes);
  }
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

NetworkRunner::Source NetworkRunner::find_source(const std::string& tensor, int modality) const {
  const std::vector<PlanStage>& stages = network_->stages();
  for (size_t place = 0; place < stages.size(); ++place) {
    const int output = stages[place].session->output_index(tensor);
    if (output < 0) continue;
    const bool is_together = stages[place].modality == modality;
    return {is_together ? Source::Kind::kStage : Source::Kind::kFeature, place,
            static_cast<size_t>(output)};
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

size_t NetworkRunner::most_bytes(const TensorSpec& spec,
                                 const std::map<std::string, int64_t>& largest) const {
  size_t bytes = item_size(spec.dtype);
  for (const Axis& axis : spec.shape) {
    int64_t size = axis.size;
    if (axis.is_dynamic()) {
      const auto stated = largest.find(axis.dimension);
      const auto limit = network_->manifest().dimensions.find(axis.dimension);
      if (stated != largest.end()) {
        size = stated->second;
      } else if (limit != network_->manifest().dimensions.end() && limit->second.max) {
        size = *limit->second.max;
      } else {
        throw Error(Code::kInput, "output " + spec.text() + ": dimension '" + axis.dimension +
                                      "' has no largest size in this bundle; state one in the "
                                      "option `largest`, so that memory can be set aside");
      }
    }
    if (size != 0 && bytes > (size_t{1} << 40) / static_cast<size_t>(size)) {
      throw Error(Code::kInput, "output " + spec.text() + ": more memory than can be set aside");
    }
    bytes *= static_cast<size_t>(size);
  }
  return bytes;
}

void NetworkRunner::reserve(size_t modality, size_t slots, const size_t* input_bytes) {
  ModalityPlan& plan = modalities_[modality];
  const size_t inputs = plan.takes_input.size();
  plan.slots.resize(slots);
  for (Features& features : plan.slots) {
    features.values.resize(plan.features.size());
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
  results_.resize(slots);
  for (Outputs& result : results_) {
    result.values.resize(outputs_.size());
    result.views.resize(outputs_.size());
    result.memory.resize(outputs_.size());
    for (size_t i = 0; i < outputs_.size(); ++i) result.memory[i].resize(output_bytes_[i]);
  }
}

Code NetworkRunner::fail(Code code, const char* text) noexcept {
  const char* kind = code == Code::kInput ? "InputError" : "BackendError";
  std::snprintf(message_, sizeof message_, "%s: %s", kind, text);
  return code;
}

Code NetworkRunner::set_input(RunSlot* slot, size_t at, const Source& source,
                              const TensorView* inputs, const FusionPart* parts) noexcept {
  switch (source.kind) {
    case Source::Kind::kStage:
      return slot->set_input(at, values_[source.of][source.place]);
    case Source::Kind::kFeature: {
      const size_t from = static_cast<size_t>(parts[source.of].slot);
      return slot->set_input(at, modalities_[source.of].slots[from].values[source.place]);
    }
    case Source::Kind::kInput:
      if (parts == nullptr) return slot->set_input(at, inputs[source.place]);
      if (parts[source.of].slot < 0) {
        return slot->set_input(at, parts[source.of].inputs[source.place]);
      }
      return slot->set_input(
          at, modalities_[source.of]
                  .slots[static_cast<size_t>(parts[source.of].slot)]
                  .inputs[source.place]);
  }
  return Code::kBackend;
}

Code NetworkRunner::run(const std::vector<Step>& steps, const TensorView* inputs,
                        const FusionPart* parts) noexcept {
  for (const Step& step : steps) {
    RunSlot& slot = *slots_[step.stage];
    for (size_t at = 0; at < step.inputs.size(); ++at) {
      const Code code = set_input(&slot, at, step.inputs[at], inputs, parts);
      if (code != Code::kOk) return fail(code, slot.message());
    }
    const Code code = slot.run();
    if (code != Code::kOk) return fail(code, slot.message());
    std::vector<Value>& values = values_[step.stage];
    for (size_t k = 0; k < values.size(); ++k) values[k] = slot.take_output(k);
  }
  return Code::kOk;
}

Code NetworkRunner::encode(size_t modality, const TensorView* inputs, size_t slot,
                           double*) noexcept {
  ModalityPlan& plan = modalities_[modality];
  const Code code = run(plan.steps, inputs, nullptr);
  if (code != Code::kOk) return code;
  Features& features = plan.slots[slot];
  for (size_t f = 0; f < plan.features.size(); ++f) {
    features.values[f] = std::move(values_[plan.features[f].first][plan.features[f].second]);
  }
  for (size_t k = 0; k < plan.takes_input.size(); ++k) {
    if (!plan.takes_input[k]) continue;
    const size_t bytes = inputs[k].bytes();
    if (bytes > features.memory[k].size()) {
      return fail(Code::kBackend, "an input is larger than what was set aside for it");
    }
    features.inputs[k] = inputs[k];
    features.inputs[k].data = features.memory[k].data();
    if (bytes) std::memcpy(features.memory[k].data(), inputs[k].data, bytes);
  }
  return Code::kOk;
}

Code NetworkRunner::stand_in(size_t modality, const int64_t* sizes, size_t slot,
                             double* seconds) noexcept {
  ModalityPlan& plan = modalities_[modality];
  std::copy(sizes, sizes + sizes_.size(), sizes_.begin());
  if (!relations_.complete(sizes_.data(), scratch_.data())) {
    return fail(Code::kInput, "nothing can stand in for what is absent: no sizes keep the bundle's "
                              "constraints");
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
      return fail(Code::kBackend, "a stand-in is larger than what was set aside for it");
    }
    if (of.absent == Absent::kToken) {
      repeat(tokens_[first + k], spec, view);
    } else if (bytes) {
      std::memset(view.data, 0, bytes);
    }
  }
  return encode(modality, plan.stand_in_views.data(), slot, seconds);
}

Code NetworkRunner::fuse(const FusionPart* parts, size_t result, double*) noexcept {
  const Code code = run(fusion_, nullptr, parts);
  if (code != Code::kOk) return code;
  Outputs& to = results_[result];
  for (size_t i = 0; i < outputs_.size(); ++i) {
    const Source& source = outputs_[i];
    if (source.kind == Source::Kind::kStage) {
      to.values[i] = std::move(values_[source.of][source.place]);
      to.views[i] = to.values[i].view();
      continue;
    }
    const size_t slot = static_cast<size_t>(parts[source.of].slot);
    const TensorView& view = modalities_[source.of].slots[slot].values[source.place].view();
    const size_t bytes = view.bytes();
    if (bytes > to.memory[i].size()) {
      return fail(Code::kBackend, "an output is larger than what was set aside for it");
    }
    to.views[i] = view;
    to.views[i].data = to.memory[i].data();
    if (bytes) std::memcpy(to.views[i].data, view.data, bytes);
  }
  return Code::kOk;
}

}  // namespace mmedge::runtime::stream
