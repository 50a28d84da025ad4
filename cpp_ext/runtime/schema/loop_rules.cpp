// Rules on states, on loops and on caches that are written in place.
#include <algorithm>
#include <cmath>
#include <cstdio>

#include "schema/names.h"
#include "schema/rules.h"

namespace mmedge::runtime {
namespace {

// Inputs that the file of a cache in place takes beside those of its stage.
constexpr const char* kCacheInputs[] = {"cache.last", "cache.total"};

using Specs = std::map<std::string, const TensorSpec*>;

// Outputs of the stages that are in a plan, by name.
Specs plan_outputs(const Manifest& m) {
  const std::set<std::string> in_loop = names_in_loop(m);
  Specs specs;
  for (const Stage& stage : m.stages) {
    if (in_loop.count(stage.name) > 0) continue;
    for (const TensorSpec& spec : stage.outputs) specs[spec.name] = &spec;
  }
  return specs;
}

const TensorSpec& tensor(const std::vector<TensorSpec>& specs, const std::string& name,
                         const std::string& where, const std::string& expected) {
  for (const TensorSpec& spec : specs) {
    if (spec.name == name) return spec;
  }
  throw Misfit(where, expected, "unknown tensor " + quoted(name));
}

bool is_index(DType dtype) { return dtype == DType::kInt32 || dtype == DType::kInt64; }

bool is_float(DType dtype) {
  return dtype == DType::kFloat16 || dtype == DType::kFloat32 || dtype == DType::kFloat64;
}

bool shapes_fit(const std::vector<Axis>& taken, const std::vector<Axis>& given,
                const std::optional<int64_t>& axis) {
  if (taken.size() != given.size()) return false;
  for (size_t i = 0; i < taken.size(); ++i) {
    if (!(axis && *axis == static_cast<int64_t>(i)) && !(taken[i] == given[i])) return false;
  }
  return true;
}

// What rules on each state need to know of all others.
struct StateContext {
  std::set<std::string> inputs;                                  // of the network
  std::map<std::string, std::string> makers;                     // output to its first stage
  std::map<std::pair<std::string, std::string>, int> taken, given;  // uses of a stage's tensors
  std::set<std::string> in_loop;
  Specs outputs;                                                 // of stages in plans

  explicit StateContext(const Manifest& m)
      : inputs(network_inputs(m)), in_loop(names_in_loop(m)), outputs(plan_outputs(m)) {
    for (const Stage& stage : m.stages) {
      for (const TensorSpec& spec : stage.outputs) makers.emplace(spec.name, stage.name);
    }
    for (const StateSpec& state : m.states) {
      ++taken[{state.stage, state.input}];
      ++given[{state.stage, state.output}];
    }
  }
};

void check_initial(const Manifest& m, const StateContext& context, const StateSpec& state,
                   const TensorSpec& taken, const std::string& where) {
  if (state.axis && state.initial == Initial::kEmpty) {
    const std::string& size = taken.shape[static_cast<size_t>(*state.axis)].dimension;
    if (m.dimensions.at(size).min > 0) {
      throw Misfit("$.dimensions['" + size + "'].min", "0: the state begins empty", "more");
    }
  }
  if (state.initial == Initial::kEmpty && !state.axis) {
    throw Misfit(where + ".initial", "empty only for a state that grows", "no axis");
  }
  if (state.initial == Initial::kZeros && state.axis) {
    throw Misfit(where + ".initial", "another than zeros for a state that grows", "zeros");
  }
  if (state.source.has_value() != (state.initial == Initial::kOutput)) {
    throw Misfit(where + ".source", "an output of the network where initial is 'output', else null",
                 state.source ? quoted(*state.source) : "null");
  }
  if (!state.source) return;
  if (std::find(m.outputs.begin(), m.outputs.end(), *state.source) == m.outputs.end() ||
      context.in_loop.count(state.stage) == 0) {
    throw Misfit(where + ".source", "an output of the network that a loop's stage begins with",
                 quoted(*state.source));
  }
  const TensorSpec& source = *context.outputs.at(*state.source);
  if (source.dtype != taken.dtype || source.shape.size() != taken.shape.size()) {
    throw Misfit(where + ".source", "what " + taken.text() + " takes", source.text());
  }
}

// A state is an input and an output of one stage, alike but for the axis that grows.
void check_state(const Manifest& m, const StateContext& context, const StateSpec& state,
                 const std::string& where) {
  const Stage* stage = m.stage(state.stage);
  if (stage == nullptr) {
    throw Misfit(where + ".stage", "the name of a stage", "unknown " + quoted(state.stage));
  }
  const TensorSpec& taken =
      tensor(stage->inputs, state.input, where + ".input", "an input of " + quoted(stage->name));
  const TensorSpec& given =
      tensor(stage->outputs, state.output, where + ".output", "an output of " + quoted(stage->name));
  if (context.taken.at({state.stage, state.input}) > 1) {
    throw Misfit(where + ".input", "a tensor of one state", quoted(state.input));
  }
  if (context.given.at({state.stage, state.output}) > 1) {
    throw Misfit(where + ".output", "a tensor of one state", quoted(state.output));
  }
  const auto maker = context.makers.find(state.input);
  if (maker != context.makers.end() || context.inputs.count(state.input) > 0) {
    throw Misfit(where + ".input", "an input that nothing else gives",
                 quoted(state.input) + ", which " +
                     (maker != context.makers.end() ? maker->second : "a modality") + " gives");
  }
  if (taken.dtype != given.dtype || !shapes_fit(taken.shape, given.shape, state.axis)) {
    throw Misfit(where + ".output", "what " + taken.text() + " takes", given.text());
  }
  if (state.axis) {
    const auto axis = static_cast<size_t>(*state.axis);
    if (axis >= taken.shape.size() || !taken.shape[axis].is_dynamic() ||
        !given.shape[axis].is_dynamic()) {
      throw Misfit(where + ".axis", "null or an axis that is dynamic in both tensors", taken.text());
    }
  }
  check_initial(m, context, state, taken, where);
}

// A loop's stage gives what the loop and its states use, and nothing else.
void check_outputs(const Manifest& m, const Stage& stage, const std::string& output) {
  std::set<std::string> used{output};
  for (const StateSpec& state : m.states) {
    if (state.stage == stage.name) used.insert(state.output);
  }
  for (const TensorSpec& spec : stage.outputs) {
    if (used.count(spec.name) > 0) continue;
    throw Misfit("$.loops[0].stage", "outputs that the loop or a state uses",
                 quoted(spec.name) + " of " + quoted(stage.name));
  }
}

void check_position(const Stage& stage, const std::string& name, const TensorSpec& token) {
  const char* where = "$.loops[0].position";
  const TensorSpec& position =
      tensor(stage.inputs, name, where, "an input of " + quoted(stage.name));
  const std::vector<Axis> rest(token.shape.begin() + 1, token.shape.end());
  if (!is_index(position.dtype) || !(position.shape.empty() || position.shape == rest ||
                                     position.shape == token.shape)) {
    throw Misfit(where, "an int32 or int64 input, [], [new] or of the token's shape",
                 position.text());
  }
}

void check_vocabulary(const std::vector<int64_t>& tokens, const Axis& words, const char* field) {
  if (words.is_dynamic()) return;
  for (const int64_t token : tokens) {
    if (token < words.size) continue;
    throw Misfit(std::string("$.loops[0].") + field,
                 "tokens of the vocabulary, 0 to " + std::to_string(words.size - 1),
                 std::to_string(token));
  }
}

void check_generate(const Manifest& m, const GenerateLoop& loop) {
  const Stage& stage = *m.stage(loop.stage);
  const TensorSpec& token =
      tensor(stage.inputs, loop.token, "$.loops[0].token", "an input of " + quoted(stage.name));
  if (!is_index(token.dtype) || token.shape.empty() || token.shape.size() > 2) {
    throw Misfit("$.loops[0].token", "an int32 or int64 input, [batch] or [batch, new]",
                 token.text());
  }
  const TensorSpec& logits =
      tensor(stage.outputs, loop.logits, "$.loops[0].logits", "an output of " + quoted(stage.name));
  const size_t rank = logits.shape.size();
  if (!is_float(logits.dtype) || (rank != 2 && rank != token.shape.size() + 1) ||
      !(logits.shape[0] == token.shape[0])) {
    throw Misfit("$.loops[0].logits",
                 "a float output, [batch, vocabulary] or [batch, new, vocabulary]", logits.text());
  }
  if (loop.position) check_position(stage, *loop.position, token);
  check_vocabulary(loop.stop, logits.shape.back(), "stop");
  check_vocabulary(loop.suppress, logits.shape.back(), "suppress");
  check_vocabulary(loop.suppress_first, logits.shape.back(), "suppress_first");
  if (loop.start.empty() && network_inputs(m).count(loop.token) == 0) {
    throw Misfit("$.loops[0].start", "a token at least, since no modality gives the first", "none");
  }
  check_outputs(m, stage, loop.logits);
}

void check_schedule(const DenoiseLoop& loop, const TensorSpec& time) {
  for (size_t i = 0; i < loop.schedule.size(); ++i) {
    const double at = loop.schedule[i][0];
    if (at == std::floor(at)) continue;
    char got[40];
    std::snprintf(got, sizeof got, "%g", at);
    throw Misfit(Spot{"$.loops[0].schedule[%zu][0]", i}.text(), "a whole number, for " + time.text(),
                 got);
  }
}

void check_guidance(const Manifest& m, const DenoiseLoop& loop, const Stage& stage) {
  if (loop.guidance.has_value() == loop.unconditional.empty()) {
    throw Misfit("$.loops[0].unconditional",
                 "tensors of the unconditional run where there is a guidance, else none",
                 std::to_string(loop.unconditional.size()));
  }
  const Specs constants = plan_outputs(m);
  std::set<std::string> inputs;
  std::map<std::string, int> uses;
  for (const TensorSpec& spec : stage.inputs) inputs.insert(spec.name);
  for (const std::string& name : loop.unconditional) ++uses[name];
  for (size_t i = 0; i < loop.unconditional.size(); ++i) {
    const std::string& name = loop.unconditional[i];
    const Spot where{"$.loops[0].unconditional[%zu]", i};
    if (constants.count(name) == 0 || inputs.count(name) == 0) {
      throw Misfit(where.text(), "an output of the network that " + quoted(stage.name) + " takes",
                   quoted(name));
    }
    if (uses[name] > 1) throw Misfit(where.text(), "a name used once", quoted(name));
  }
}

void check_denoise(const Manifest& m, const DenoiseLoop& loop) {
  const Stage& stage = *m.stage(loop.stage);
  const TensorSpec& latent =
      tensor(stage.inputs, loop.latent, "$.loops[0].latent", "an input of " + quoted(stage.name));
  if (latent.dtype != DType::kFloat32) {
    throw Misfit("$.loops[0].latent", "a float32 input", latent.text());
  }
  const TensorSpec& prediction = tensor(stage.outputs, loop.prediction, "$.loops[0].prediction",
                                        "an output of " + quoted(stage.name));
  if (prediction.dtype != latent.dtype || prediction.shape != latent.shape) {
    throw Misfit("$.loops[0].prediction", "what " + latent.text() + " takes", prediction.text());
  }
  const TensorSpec& time =
      tensor(stage.inputs, loop.time, "$.loops[0].time", "an input of " + quoted(stage.name));
  const bool one = time.shape.size() == 1 &&
                   (time.shape[0] == Axis{1, ""} ||
                    (!latent.shape.empty() && time.shape[0] == latent.shape[0]));
  if (!(is_index(time.dtype) || time.dtype == DType::kFloat32) || !(time.shape.empty() || one)) {
    throw Misfit("$.loops[0].time", "an int32, int64 or float32 input, [], [1] or [batch]",
                 time.text());
  }
  if (time.dtype != DType::kFloat32) check_schedule(loop, time);
  check_guidance(m, loop, stage);
  check_outputs(m, stage, loop.prediction);
  if (!loop.decoder) return;
  const TensorSpec& last = tensor(m.stage(*loop.decoder)->inputs, loop.latent,
                                  "$.loops[0].decoder", "a stage that takes it");
  if (!same(last, latent)) {
    throw Misfit("$.loops[0].decoder", "a stage that takes " + latent.text(), last.text());
  }
}

// Stages of a loop take what the network, its inputs, states and the loop give.
void check_sources(const Manifest& m) {
  const Specs outputs = plan_outputs(m);
  const std::set<std::string> in_loop = names_in_loop(m);
  const std::set<std::string> returned(m.outputs.begin(), m.outputs.end());
  std::set<std::string> sources;
  for (const TensorSpec& spec : m.inputs()) sources.insert(spec.name);
  for (const auto& entry : outputs) sources.insert(entry.first);
  for (const auto& entry : m.step_inputs()) sources.insert(entry.first);
  std::map<std::string, std::set<std::string>> yielders;  // a loop's output to its stages
  for (const Stage* stage : m.loop_stages()) {
    for (const TensorSpec& spec : stage->outputs) yielders[spec.name].insert(stage->name);
  }
  for (size_t i = 0; i < m.stages.size(); ++i) {
    const Stage& stage = m.stages[i];
    if (in_loop.count(stage.name) == 0) continue;
    for (size_t j = 0; j < stage.inputs.size(); ++j) {
      const TensorSpec& spec = stage.inputs[j];
      const Spot where{"$.stages[%zu].inputs[%zu]", i, j};
      if (sources.count(spec.name) == 0) {
        throw Misfit(where.text() + ".name",
                     "an input or output of the network, a state, or what the loop gives",
                     "unknown tensor " + quoted(spec.name));
      }
      const auto other = outputs.find(spec.name);
      if (other == outputs.end()) continue;
      if (!same(*other->second, spec) || returned.count(spec.name) == 0) {
        throw Misfit(where.text(), "an output of the network, " + other->second->text(),
                     spec.text());
      }
    }
    for (size_t j = 0; j < stage.outputs.size(); ++j) {
      const std::string& name = stage.outputs[j].name;
      if (sources.count(name) == 0 && yielders[name].size() < 2) continue;
      throw Misfit(Spot{"$.stages[%zu].outputs[%zu].name", i, j}.text(),
                   "a name that only this stage yields", quoted(name));
    }
  }
}

}  // namespace

void check_loop_stages(const Manifest& m) {
  const auto check = [&](const std::string& name, const char* where) {
    const Stage* stage = m.stage(name);
    if (stage == nullptr) throw Misfit(where, "the name of a stage", "unknown " + quoted(name));
    if (stage->modality) {
      throw Misfit(where, "a stage of no modality",
                   "stage " + quoted(name) + " of modality " + quoted(*stage->modality));
    }
  };
  if (const GenerateLoop* loop = generate_loop(m)) check(loop->stage, "$.loops[0].stage");
  if (const DenoiseLoop* loop = denoise_loop(m)) {
    check(loop->stage, "$.loops[0].stage");
    if (!loop->decoder) return;
    check(*loop->decoder, "$.loops[0].decoder");
    if (*loop->decoder == loop->stage) {
      throw Misfit("$.loops[0].decoder", "another stage than the step's", loop->stage);
    }
  }
}

void check_loops(const Manifest& m) {
  const StateContext context(m);
  for (size_t i = 0; i < m.states.size(); ++i) {
    check_state(m, context, m.states[i], Spot{"$.states[%zu]", i}.text());
  }
  if (const GenerateLoop* loop = generate_loop(m)) check_generate(m, *loop);
  if (const DenoiseLoop* loop = denoise_loop(m)) check_denoise(m, *loop);
  check_sources(m);
}

void check_cache(const Manifest& m, size_t i) {
  const std::string where = Spot{"$.variants[%zu].cache", i}.text();
  const GenerateLoop* loop = generate_loop(m);
  if (loop == nullptr) {
    throw Misfit(where,
                 denoise_loop(m) == nullptr ? "growing, since there is no loop"
                                            : "growing, since no loop generates tokens",
                 "in_place");
  }
  const Stage& stage = *m.stage(loop->stage);
  bool grows = false;
  for (const StateSpec& state : m.states) {
    if (state.stage != stage.name || !state.axis) continue;
    grows = true;
    const TensorSpec& spec = tensor(stage.inputs, state.input, where, "an input");
    const auto& shape = spec.shape;
    if (*state.axis != 2 || shape.size() != 4 || shape[1].is_dynamic() || !shape[2].is_dynamic() ||
        shape[3].is_dynamic() || !is_float(spec.dtype)) {
      throw Misfit(where, "growing, or states [batch, heads, length, size] of floats",
                   "in_place with " + spec.text() + " that grows along " +
                       std::to_string(*state.axis));
    }
  }
  if (!grows) {
    throw Misfit(where, "growing, since no state of " + quoted(stage.name) + " grows", "in_place");
  }
  for (const char* name : kCacheInputs) {
    for (const TensorSpec& spec : stage.inputs) {
      if (spec.name != name) continue;
      throw Misfit(where, "growing, or no input " + quoted(name) + " of the stage", "in_place");
    }
  }
}

}  // namespace mmedge::runtime
