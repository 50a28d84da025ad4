// Loading: a variant and a plan are chosen, the plan's stages are opened and joined by their tensors.
#include <algorithm>
#include <map>
#include <set>

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

}  // namespace

std::shared_ptr<const Network> Network::load(std::shared_ptr<Bundle> bundle,
                                             const Backends& backends,
                                             const LoadOptions& options) {
  check_options(options.session);
  auto network = std::make_shared<Network>();
  network->bundle_ = std::move(bundle);
  network->options_ = options;
  const Manifest& manifest = network->manifest();
  const Device here = probe(backends, &manifest);
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
  const bool proven = is_proven(manifest, *network->variant_) && !engine.of_application;
  if (!options.allow_unverified && !proven) {
    Pipeline pipeline(network);
    verify(pipeline).check();
  }
  return network;
}

// Sizes of a stage's inputs in each golden sample; none where each run has others.
std::vector<std::vector<std::vector<int64_t>>> Network::find_shapes(const StageSource& source) {
  std::vector<std::vector<std::vector<int64_t>>> shapes;
  for (const StateSpec& state : manifest().states) {
    if (state.stage == source.stage->name && state.axis) return shapes;
  }
  for (const Sample& sample : bundle_->samples()->golden) {
    auto& sizes = shapes.emplace_back();
    for (const TensorSpec& spec : source.inputs) {
      const TensorView* view = nullptr;
      for (const TensorMap* map : {&sample.inputs, &sample.outputs, &sample.step}) {
        if (const auto entry = map->find(spec.name); entry != map->end()) view = &entry->second;
      }
      if (view == nullptr) {
        throw Error(Code::kBundle, bundle_->path() + ": a golden sample has no '" + spec.name +
                                       "'; export the bundle again");
      }
      sizes.emplace_back(view->shape, view->shape + view->rank);
    }
  }
  return shapes;
}

std::unique_ptr<Session> Network::open_stage(const Backends& backends, const Stage& stage) {
  Archive& archive = bundle_->archive();
  const std::string& file = variant_->files.at(stage.name);
  // What an engine of an application reads may be no graph of ONNX.
  const GraphFile* graph = bundle_->find_graph(file);
  StageSource source;
  source.stage = &stage;
  source.variant = variant_;
  source.inputs = graph_inputs(manifest(), stage, *variant_);
  source.manifest = &manifest();
  source.cache_loop = in_place_loop(manifest(), stage, *variant_);
  source.alone = manifest().has_cores(stage);
  const GraphFile& functions = bundle_->graph(variant_->backend == "ort" ? file : stage.graph);
  for (const auto& [name, calls] : functions.functions) source.functions += calls;
  source.golden_shapes = [this, &source] { return find_shapes(source); };
  const std::vector<std::string> weights_files =
      graph != nullptr ? graph->weights : std::vector<std::string>();
  // OpenVINO is given some graphs in another order.
  if (archive.zipped() || variant_->backend == "openvino") {
    source.graph = archive.read(file);
    // A graph names weights relative to its own folder.
    const std::string folder = folder_of(file);
    for (const std::string& weights : weights_files) {
      source.weights[weights.substr(folder.size())] = archive.read(weights);
    }
  }
  if (!archive.zipped()) {
    source.path = archive.file(file);
    for (const std::string& weights : weights_files) archive.file(weights);
  }
  return backends.open_stage(source, options_.session);
}

void Network::open_stages(const Backends& backends) {
  for (const Stage* stage : manifest().in_order(plan_.plan)) {
    PlanStage entry;
    entry.stage = stage;
    entry.session = open_stage(backends, *stage);
    const std::vector<Modality>& modalities = manifest().modalities;
    for (size_t m = 0; m < modalities.size() && stage->modality; ++m) {
      if (modalities[m].name == *stage->modality) entry.modality = static_cast<int>(m);
    }
    stages_.push_back(std::move(entry));
  }
  for (const Stage* stage : manifest().loop_stages()) {
    LoopStage entry;
    entry.stage = stage;
    entry.session = open_stage(backends, *stage);
    loop_stages_.push_back(std::move(entry));
  }
  // Backends opened files by their paths: were they those that were checked?
  bundle_->archive().check_unchanged();
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
  if (!loop_stages_.empty()) connect_loop();
  for (const std::string& name : manifest().returned_outputs()) {
    const auto [stage, output] = makers.at(name);
    output_places_.emplace_back(stage, output);
    outputs_.push_back(stages_[stage].session->outputs()[output]);
  }
}

void Network::connect_loop() {
  const std::vector<TensorSpec> network = manifest().inputs();
  // The stage of the plan, and its boundary, that makes a tensor.
  const auto find_maker = [this](const std::string& name, size_t* stage, size_t* place) {
    for (size_t s = 0; s < stages_.size(); ++s) {
      const int output = stages_[s].session->output_index(name);
      if (output < 0) continue;
      const Boundary& boundary = stages_[s].boundary(s, static_cast<size_t>(output));
      *stage = s;
      *place = static_cast<size_t>(&boundary - stages_[s].boundaries.data());
      return true;
    }
    return false;
  };
  std::set<std::string> own;  // what the loop writes
  if (const auto* generate = std::get_if<GenerateLoop>(&manifest().loop)) {
    token_loop_ = std::make_unique<TokenLoop>(manifest(), bundle_->path());
    own.insert(generate->token);
    if (generate->position) own.insert(*generate->position);
    const TensorSpec tokens{"tokens", DType::kInt64, {token_loop_->token.shape[0], {0, "tokens"}}};
    const TensorSpec lengths{"lengths", DType::kInt64, {token_loop_->token.shape[0]}};
    loop_outputs_ = {tokens, lengths};
  } else if (const auto* denoise = std::get_if<DenoiseLoop>(&manifest().loop)) {
    own = {denoise->latent, denoise->time};
    const Session& step = *loop_stages_.front().session;
    if (denoise->decoder) {
      loop_outputs_ = loop_stages_.at(1).session->outputs();
    } else {
      loop_outputs_ = {step.inputs()[static_cast<size_t>(step.input_index(denoise->latent))]};
      loop_outputs_.front().name = "latent";
    }
  }
  for (LoopStage& stage : loop_stages_) {
    bool stored = false;
    for (const TensorSpec& spec : stage.session->inputs()) {
      LoopInput input;
      input.dimensions = dimension_places(manifest(), spec);
      if (is_state(manifest(), *stage.stage, spec.name)) {
        input.source = LoopInput::Source::kState;
      } else if (own.count(spec.name) == 0) {
        input.source = LoopInput::Source::kMade;
        if (!find_maker(spec.name, &input.stage, &input.place)) {
          input.source = LoopInput::Source::kNetwork;
          while (network.at(input.place).name != spec.name) ++input.place;
        }
      }
      stage.inputs.push_back(std::move(input));
    }
    const std::vector<StateSpec>& states = manifest().states;
    for (size_t i = 0; i < states.size(); ++i) {
      if (states[i].stage != stage.stage->name) continue;
      LoopState each;
      each.input = static_cast<size_t>(stage.session->input_index(states[i].input));
      each.output = static_cast<size_t>(stage.session->output_index(states[i].output));
      each.state = i;
      each.has_source =
          states[i].source && find_maker(*states[i].source, &each.stage, &each.place);
      stored = stored || states[i].initial == Initial::kStored;
      stage.states.push_back(each);
    }
    if (stage.states.empty()) continue;
    stage.first = std::make_unique<FirstStates>(manifest(), *stage.stage,
                                                stored ? bundle_->samples() : nullptr);
  }
}

}  // namespace mmedge::runtime
