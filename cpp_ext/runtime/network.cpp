// Loading: a variant and a plan are chosen, the plan's stages are opened and joined by their tensors.
#include <algorithm>
#include <map>

#include "device.h"
#include "error.h"
#include "execution/verify.h"
#include "pipeline.h"

namespace mmedge::runtime {
namespace {

// Whether calls need something of the samples file: stored tokens, or what golden samples hold that
// is not finite.
bool needs_samples(const Manifest& manifest) {
  if (manifest.samples == 0) return false;
  const std::vector<TensorSpec> specs = manifest.inputs();
  const bool floats = std::any_of(specs.begin(), specs.end(), [](const TensorSpec& spec) {
    return spec.dtype == DType::kFloat16 || spec.dtype == DType::kFloat32 ||
           spec.dtype == DType::kFloat64;
  });
  return floats || std::any_of(manifest.modalities.begin(), manifest.modalities.end(),
                               [](const Modality& m) { return m.absent == Absent::kToken; });
}

std::string folder_of(const std::string& file) {
  const size_t slash = file.rfind('/');
  return slash == std::string::npos ? "" : file.substr(0, slash + 1);
}

bool is_state(const Manifest& manifest, const Stage& stage, const std::string& input) {
  return std::any_of(manifest.states.begin(), manifest.states.end(), [&](const StateSpec& state) {
    return state.stage == stage.name && state.input == input;
  });
}

void check_supported(const Manifest& manifest) {
  if (!std::holds_alternative<std::monostate>(manifest.loop)) {
    throw Error(Code::kInput, "this bundle has a loop, and this version of libmmedge runs none; use "
                              "the Python runtime");
  }
}

}  // namespace

std::shared_ptr<const Network> Network::load(std::shared_ptr<Bundle> bundle,
                                             const Backends& backends,
                                             const LoadOptions& options) {
  check_supported(bundle->manifest());
  check_options(options.session);
  auto network = std::make_shared<Network>();
  network->bundle_ = std::move(bundle);
  network->options_ = options;
  const Manifest& manifest = network->manifest();
  const Device here = probe(backends);
  Choice choice = select(manifest, restrict_device(here, options.device), options.wish,
                         network->bundle_->path());
  network->variant_ = choice.variant;
  network->decisions_ = std::move(choice.decisions);
  network->plan_ = choose_plan(manifest, *network->variant_, here, options.plan);
  if (!options.session.threads) {
    if (const int threads = tuned_threads(*network->variant_, here); threads > 0) {
      network->options_.session.threads = threads;
    }
  }
  const Backend& engine = *backends.find(network->variant_->backend);
  network->engine_ = engine.name + " " + engine.version(engine.context.get());
  network->open_stages(backends);
  network->connect();
  network->inputs_ = std::make_unique<Inputs>(
      manifest, needs_samples(manifest) ? network->bundle_->samples() : nullptr,
      options.allow_non_finite);
  // Export has held the bundle's own graphs on the CPU against the network.
  if (!options.allow_unverified && !is_proven(manifest, *network->variant_)) {
    Pipeline pipeline(network);
    verify(pipeline).check();
  }
  return network;
}

void Network::open_stages(const Backends& backends) {
  Archive& archive = bundle_->archive();
  for (const Stage* stage : manifest().in_order(plan_.plan)) {
    const std::string& file = variant_->files.at(stage->name);
    const GraphFile& graph = bundle_->graph(file);
    StageSource source;
    source.stage = stage;
    source.variant = variant_;
    source.inputs = graph_inputs(manifest(), *stage, *variant_);
    source.alone = manifest().has_cores(*stage);
    for (const auto& [name, calls] : graph.functions) source.functions += calls;
    if (archive.zipped()) {
      source.graph = archive.read(file);
      // A graph names weights relative to its own folder.
      const std::string folder = folder_of(file);
      for (const std::string& weights : graph.weights) {
        source.weights[weights.substr(folder.size())] = archive.read(weights);
      }
    } else {
      source.path = archive.file(file);
      for (const std::string& weights : graph.weights) archive.file(weights);
    }
    PlanStage entry;
    entry.stage = stage;
    entry.session = backends.open_stage(source, options_.session);
    const std::vector<Modality>& modalities = manifest().modalities;
    for (size_t m = 0; m < modalities.size() && stage->modality; ++m) {
      if (modalities[m].name == *stage->modality) entry.modality = static_cast<int>(m);
    }
    stages_.push_back(std::move(entry));
  }
  // Backends opened files by their paths: were they those that were checked?
  archive.check_unchanged();
}

Boundary& PlanStage::boundary(size_t place, size_t output) {
  const auto known = std::find_if(boundaries.begin(), boundaries.end(),
                                  [=](const Boundary& each) { return each.output == output; });
  if (known != boundaries.end()) return *known;
  Boundary& added = boundaries.emplace_back();
  added.stage = place;
  added.output = output;
  return added;
}

void Network::connect_states(PlanStage* stage, size_t place) {
  const std::vector<StateSpec>& states = manifest().states;
  bool stored = false;
  for (size_t i = 0; i < states.size(); ++i) {
    if (states[i].stage != stage->stage->name) continue;
    const auto output = static_cast<size_t>(stage->session->output_index(states[i].output));
    StatePlace each;
    each.input = static_cast<size_t>(stage->session->input_index(states[i].input));
    each.state = i;
    const Boundary& boundary = stage->boundary(place, output);
    each.boundary = static_cast<size_t>(&boundary - stage->boundaries.data());
    stage->states.push_back(each);
    stored = stored || states[i].initial == Initial::kStored;
  }
  if (stage->states.empty()) return;
  stage->first = std::make_unique<FirstStates>(manifest(), *stage->stage,
                                               stored ? bundle_->samples() : nullptr);
}

void Network::connect() {
  std::map<std::string, size_t> inputs;
  size_sources_.resize(manifest().dimensions.size());
  for (const TensorSpec& spec : manifest().inputs()) {
    const size_t place = inputs.size();
    inputs[spec.name] = place;
    const std::vector<int> places = dimension_places(manifest(), spec);
    for (size_t axis = 0; axis < places.size(); ++axis) {
      if (places[axis] >= 0) size_sources_[static_cast<size_t>(places[axis])] = {true, place, axis};
    }
  }
  std::map<std::string, std::pair<size_t, size_t>> makers;
  for (size_t s = 0; s < stages_.size(); ++s) {
    const std::vector<TensorSpec>& outputs = stages_[s].session->outputs();
    for (size_t o = 0; o < outputs.size(); ++o) makers[outputs[o].name] = {s, o};
  }
  for (size_t s = 0; s < stages_.size(); ++s) {
    const std::vector<TensorSpec>& taken = stages_[s].session->inputs();
    for (size_t i = 0; i < taken.size(); ++i) {
      if (is_state(manifest(), *stages_[s].stage, taken[i].name)) continue;
      const auto maker = makers.find(taken[i].name);
      if (maker == makers.end()) {
        stages_[s].network_inputs.emplace_back(i, inputs.at(taken[i].name));
        continue;
      }
      const auto [from, output] = maker->second;
      Boundary& boundary = stages_[from].boundary(from, output);
      boundary.takers.emplace_back(s, i);
    }
  }
  for (size_t s = 0; s < stages_.size(); ++s) connect_states(&stages_[s], s);
  for (const std::string& name : manifest().outputs) {
    const auto [stage, output] = makers.at(name);
    output_places_.emplace_back(stage, output);
    outputs_.push_back(stages_[stage].session->outputs()[output]);
  }
}

}  // namespace mmedge::runtime
