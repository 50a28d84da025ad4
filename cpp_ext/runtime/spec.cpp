// Names and orders that follow from what a manifest says.
#include "spec.h"

#include <algorithm>

namespace mmedge::runtime {
namespace {

template <class Names>
bool contains(const Names& names, const std::string& name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

}  // namespace

std::string TensorSpec::text() const {
  std::string text = name + ": " + dtype_name(dtype) + "[";
  for (size_t i = 0; i < shape.size(); ++i) {
    if (i > 0) text += ", ";
    text += shape[i].is_dynamic() ? shape[i].dimension : std::to_string(shape[i].size);
  }
  return text + "]";
}

std::string Variant::id() const {
  return backend + "-" + precision + "-" + target + (in_place ? "-in_place" : "");
}

const Stage* Manifest::stage(const std::string& name) const {
  for (const Stage& each : stages) {
    if (each.name == name) return &each;
  }
  return nullptr;
}

std::vector<const Stage*> Manifest::loop_stages() const {
  std::vector<const Stage*> found;
  const auto add = [&](const std::string& name) {
    if (const Stage* each = stage(name)) found.push_back(each);
  };
  if (const auto* generate = std::get_if<GenerateLoop>(&loop)) {
    add(generate->stage);
  } else if (const auto* denoise = std::get_if<DenoiseLoop>(&loop)) {
    add(denoise->stage);
    if (denoise->decoder) add(*denoise->decoder);
  }
  return found;
}

std::vector<std::string> Manifest::returned_outputs() const {
  std::set<std::string> taken;
  for (const Stage* each : loop_stages()) {
    for (const TensorSpec& spec : each->inputs) taken.insert(spec.name);
  }
  for (const StateSpec& state : states) {
    if (state.source) taken.insert(*state.source);
  }
  std::vector<std::string> returned;
  for (const std::string& output : outputs) {
    if (taken.count(output) == 0) returned.push_back(output);
  }
  return returned;
}

std::map<std::string, TensorSpec> Manifest::step_inputs() const {
  std::set<std::pair<std::string, std::string>> of_states;
  for (const StateSpec& state : states) of_states.emplace(state.stage, state.input);
  std::set<std::string> by_loop;
  if (const auto* generate = std::get_if<GenerateLoop>(&loop)) {
    by_loop.insert(generate->token);
    if (generate->position) by_loop.insert(*generate->position);
  } else if (const auto* denoise = std::get_if<DenoiseLoop>(&loop)) {
    by_loop = {denoise->latent, denoise->time};
  }
  std::set<std::string> in_loop;
  for (const Stage* each : loop_stages()) in_loop.insert(each->name);
  std::map<std::string, TensorSpec> specs;
  for (const Stage& each : stages) {
    for (const TensorSpec& spec : each.inputs) {
      const bool is_state = of_states.count({each.name, spec.name}) > 0;
      if (is_state || (in_loop.count(each.name) > 0 && by_loop.count(spec.name) > 0)) {
        specs[spec.name] = spec;
      }
    }
  }
  return specs;
}

std::vector<Plan> Manifest::all_plans() const {
  if (!plans.empty()) return plans;
  const std::vector<const Stage*> in_loop = loop_stages();
  Plan plan;
  for (const Stage& each : stages) {
    if (std::find(in_loop.begin(), in_loop.end(), &each) == in_loop.end()) {
      plan.stages.push_back(each.name);
    }
  }
  plan.name = plan.stages.size() > 1 ? "cut" : "whole";
  return {plan};
}

std::vector<TensorSpec> Manifest::inputs() const {
  std::map<std::string, const TensorSpec*> by_name;
  for (const Stage& each : stages) {
    for (const TensorSpec& spec : each.inputs) by_name[spec.name] = &spec;
  }
  std::vector<TensorSpec> specs;
  for (const Modality& modality : modalities) {
    for (const std::string& input : modality.inputs) specs.push_back(*by_name.at(input));
  }
  return specs;
}

std::vector<std::string> Manifest::plan_names(const Variant* variant) const {
  std::vector<std::string> names;
  for (const Plan& plan : all_plans()) {
    const bool has_files =
        variant == nullptr ||
        std::all_of(plan.stages.begin(), plan.stages.end(),
                    [&](const std::string& name) { return variant->files.count(name) > 0; });
    if (has_files) names.push_back(plan.name);
  }
  return names;
}

bool Manifest::runs_own_graphs(const Variant& variant) const {
  return std::all_of(variant.files.begin(), variant.files.end(), [&](const auto& entry) {
    return stage(entry.first)->graph == entry.second;
  });
}

bool Manifest::has_cores(const Stage& each) const {
  if (const auto* generate = std::get_if<GenerateLoop>(&loop)) {
    return each.name == generate->stage;
  }
  if (const auto* denoise = std::get_if<DenoiseLoop>(&loop)) {
    return each.name == denoise->stage;
  }
  for (const Plan& plan : all_plans()) {
    if (plan.stages.size() == 1 && plan.stages.front() == each.name) return true;
  }
  return false;
}

std::vector<const Stage*> Manifest::in_order(const std::string& plan) const {
  std::vector<std::string> names;
  for (const Plan& each : all_plans()) {
    if (each.name == plan) names = each.stages;
  }
  std::set<std::string> tensors;
  for (const TensorSpec& spec : inputs()) tensors.insert(spec.name);
  for (const StateSpec& state : states) tensors.insert(state.input);
  std::vector<const Stage*> waiting, order;
  for (const Stage& each : stages) {
    if (contains(names, each.name)) waiting.push_back(&each);
  }
  // The manifest's reader has refused cycles, so every round finds a stage.
  while (!waiting.empty()) {
    const auto next = std::find_if(waiting.begin(), waiting.end(), [&](const Stage* each) {
      return std::all_of(each->inputs.begin(), each->inputs.end(), [&](const TensorSpec& spec) {
        return tensors.count(spec.name) > 0;
      });
    });
    if (next == waiting.end()) break;
    for (const TensorSpec& spec : (*next)->outputs) tensors.insert(spec.name);
    order.push_back(*next);
    waiting.erase(next);
  }
  return order;
}

}  // namespace mmedge::runtime
