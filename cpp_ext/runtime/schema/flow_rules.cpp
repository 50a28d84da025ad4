// Rules on how tensors flow through the stages of a plan.
#include <algorithm>

#include "schema/rules.h"

namespace mmedge::runtime {
namespace {

constexpr char kInput[] = "$.stages[%zu].inputs[%zu]";
constexpr char kOutput[] = "$.stages[%zu].outputs[%zu]";

// The tensors that have been met, of which each has one dtype and shape.
class Tensors {
 public:
  void add(const TensorSpec& spec, const Spot& where) {
    const auto [place, is_new] = first_.emplace(spec.name, Met{&spec, where});
    if (is_new || same(*place->second.spec, spec)) return;
    throw Misfit(where.text(), place->second.spec->text() + " as at " + place->second.where.text(),
                 spec.text());
  }

 private:
  struct Met {
    const TensorSpec* spec;
    Spot where;
  };
  std::map<std::string, Met> first_;
};

using Producers = std::map<std::string, size_t>;  // tensor to index of its stage

// Indices of the plan's stages, in the manifest's order.
std::vector<size_t> stages_of(const Manifest& m, const Plan& plan) {
  const std::set<std::string> names(plan.stages.begin(), plan.stages.end());
  std::vector<size_t> stages;
  for (size_t i = 0; i < m.stages.size(); ++i) {
    if (names.count(m.stages[i].name) > 0) stages.push_back(i);
  }
  return stages;
}

// Throws Misfit where a stage waits for itself, directly or by way of others.
void check_cycles(const Manifest& m, const std::vector<size_t>& stages, const Producers& producers) {
  std::map<size_t, std::set<size_t>> waits;  // stage to those that it waits for
  for (const size_t i : stages) {
    std::set<size_t>& before = waits[i];
    for (const TensorSpec& spec : m.stages[i].inputs) {
      const auto producer = producers.find(spec.name);
      if (producer != producers.end()) before.insert(producer->second);
    }
  }
  bool progress = true;
  while (progress) {
    progress = false;
    for (auto each = waits.begin(); each != waits.end();) {
      const bool ready = std::none_of(each->second.begin(), each->second.end(),
                                      [&](size_t before) { return waits.count(before) > 0; });
      each = ready ? waits.erase(each) : std::next(each);
      progress = progress || ready;
    }
  }
  if (waits.empty()) return;
  // Each that is left waits for another one that is left, so going back meets one again.
  std::vector<size_t> path;
  size_t at = waits.begin()->first;
  while (std::find(path.begin(), path.end(), at) == path.end()) {
    path.push_back(at);
    const std::set<size_t>& before = waits.at(at);
    at = *std::find_if(before.begin(), before.end(), [&](size_t i) { return waits.count(i) > 0; });
  }
  std::string cycle = m.stages[at].name;
  for (auto each = path.rbegin(); each != path.rend(); ++each) {
    cycle += " -> " + m.stages[*each].name;
    if (*each == at) break;
  }
  throw Misfit("$.stages", "stages of which none waits for itself", "a cycle: " + cycle);
}

// Checks what the stages of a plan take; adds its names to `read_names`.
void check_inputs(const Manifest& m, const std::vector<size_t>& stages, const Producers& producers,
                  const std::set<std::string>& inputs, Tensors* tensors,
                  std::set<std::string>* read_names) {
  std::set<std::string> in_plan, state_names;
  for (const size_t i : stages) in_plan.insert(m.stages[i].name);
  for (const StateSpec& state : m.states) {
    if (in_plan.count(state.stage) > 0) state_names.insert(state.input);
  }
  for (const size_t i : stages) {
    for (size_t j = 0; j < m.stages[i].inputs.size(); ++j) {
      const TensorSpec& spec = m.stages[i].inputs[j];
      const Spot where{kInput, i, j};
      read_names->insert(spec.name);
      if (inputs.count(spec.name) == 0 && producers.count(spec.name) == 0 &&
          state_names.count(spec.name) == 0) {
        throw Misfit(where.text() + ".name", "an input of a modality or an output of a stage",
                     "unknown tensor " + quoted(spec.name));
      }
      tensors->add(spec, where);
    }
  }
}

}  // namespace

std::string plan_in_words(const Manifest& m, const Plan& plan) {
  return m.plans.size() > 1 ? " of plan " + quoted(plan.name) : "";
}

void check_flow(const Manifest& m, const Plan& plan) {
  const std::vector<size_t> stages = stages_of(m, plan);
  UniqueNames yielded;
  Producers producers;
  for (const size_t i : stages) {
    for (size_t j = 0; j < m.stages[i].outputs.size(); ++j) {
      const std::string& name = m.stages[i].outputs[j].name;
      yielded.add(name, {"$.stages[%zu].outputs[%zu].name", i, j});
      producers[name] = i;
    }
  }
  const std::set<std::string> inputs = network_inputs(m);
  Tensors tensors;
  for (size_t i = 0; i < m.stages.size(); ++i) {
    for (size_t j = 0; j < m.stages[i].outputs.size(); ++j) {
      const TensorSpec& spec = m.stages[i].outputs[j];
      const Spot where{kOutput, i, j};
      tensors.add(spec, where);  // of any plan
      if (inputs.count(spec.name) == 0) continue;
      throw Misfit(where.text() + ".name", "a name that only this stage yields",
                   quoted(spec.name) + ", an input of a modality");
    }
  }
  // A loop's stages read inputs too; what they take is checked with the loop.
  std::set<std::string> read_names;
  for (const Stage* stage : m.loop_stages()) {
    for (const TensorSpec& spec : stage->inputs) read_names.insert(spec.name);
  }
  check_inputs(m, stages, producers, inputs, &tensors, &read_names);
  for (size_t i = 0; i < m.modalities.size(); ++i) {
    for (size_t j = 0; j < m.modalities[i].inputs.size(); ++j) {
      const std::string& name = m.modalities[i].inputs[j];
      if (read_names.count(name) > 0) continue;
      throw Misfit(Spot{"$.modalities[%zu].inputs[%zu]", i, j}.text(),
                   "an input that some stage takes" + plan_in_words(m, plan),
                   "unknown tensor " + quoted(name));
    }
  }
  for (size_t i = 0; i < m.outputs.size(); ++i) {
    if (producers.count(m.outputs[i]) > 0) continue;
    throw Misfit(Spot{"$.outputs[%zu]", i}.text(),
                 "an output of a stage" + plan_in_words(m, plan),
                 "unknown tensor " + quoted(m.outputs[i]));
  }
  check_cycles(m, stages, producers);
}

void check_encoders(const Manifest& m, const Plan& plan) {
  std::set<std::string> modalities;
  std::map<std::string, std::optional<std::string>> owner;
  for (const Modality& modality : m.modalities) {
    modalities.insert(modality.name);
    for (const std::string& name : modality.inputs) owner[name] = modality.name;
  }
  const std::vector<size_t> stages = stages_of(m, plan);
  std::multimap<std::string, std::string> states;  // stage to input
  for (const StateSpec& state : m.states) states.emplace(state.stage, state.input);
  for (const size_t i : stages) {
    const Stage& stage = m.stages[i];
    for (const TensorSpec& spec : stage.outputs) owner[spec.name] = stage.modality;
    // What a stage gives itself is of its own modality.
    const auto [begin, end] = states.equal_range(stage.name);
    for (auto state = begin; state != end; ++state) owner[state->second] = stage.modality;
  }
  for (const size_t i : stages) {
    const Stage& stage = m.stages[i];
    if (!stage.modality) continue;
    if (modalities.count(*stage.modality) == 0) {
      throw Misfit(Spot{"$.stages[%zu].modality", i}.text(), "the name of a modality or null",
                   "unknown modality " + quoted(*stage.modality));
    }
    for (size_t j = 0; j < stage.inputs.size(); ++j) {
      const std::string& name = stage.inputs[j].name;
      const std::optional<std::string>& of = owner.at(name);
      if (of == stage.modality) continue;
      throw Misfit(Spot{kInput, i, j}.text(),
                   "a tensor of modality " + quoted(*stage.modality) + " alone",
                   quoted(name) + " of " + of.value_or("a fusion stage"));
    }
  }
}

}  // namespace mmedge::runtime
