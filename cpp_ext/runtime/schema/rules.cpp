// Rules between the fields of a manifest: names that must exist, be unique and fit.
#include "schema/rules.h"

#include <algorithm>
#include <cstdio>

#include "error.h"
#include "schema/constraints.h"
#include "schema/names.h"

namespace mmedge::runtime {
namespace {

constexpr char kStageInput[] = "$.stages[%zu].inputs[%zu]";
constexpr char kStageOutput[] = "$.stages[%zu].outputs[%zu]";
// Tensors of a sample that a run of a loop gave, at most.
constexpr int64_t kLoopTensors = 2;

bool has_loop(const Manifest& manifest) {
  return !std::holds_alternative<std::monostate>(manifest.loop);
}

template <class Names>
bool contains(const Names& names, const std::string& name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

void check_unique(const Manifest& m) {
  UniqueNames modalities, stages, variants, outputs, inputs, plans;
  for (size_t i = 0; i < m.modalities.size(); ++i) {
    modalities.add(m.modalities[i].name, {"$.modalities[%zu].name", i});
  }
  for (size_t i = 0; i < m.stages.size(); ++i) stages.add(m.stages[i].name, {"$.stages[%zu].name", i});
  for (size_t i = 0; i < m.variants.size(); ++i) variants.add(m.variants[i].id(), {"$.variants[%zu]", i});
  for (size_t i = 0; i < m.outputs.size(); ++i) outputs.add(m.outputs[i], {"$.outputs[%zu]", i});
  for (size_t i = 0; i < m.modalities.size(); ++i) {
    for (size_t j = 0; j < m.modalities[i].inputs.size(); ++j) {
      inputs.add(m.modalities[i].inputs[j], {"$.modalities[%zu].inputs[%zu]", i, j});
    }
  }
  for (size_t i = 0; i < m.plans.size(); ++i) plans.add(m.plans[i].name, {"$.plans[%zu].name", i});
  for (size_t i = 0; i < m.stages.size(); ++i) {
    UniqueNames taken;
    for (size_t j = 0; j < m.stages[i].inputs.size(); ++j) {
      taken.add(m.stages[i].inputs[j].name, {"$.stages[%zu].inputs[%zu].name", i, j});
    }
  }
}

// Every stage but those of a loop belongs to one plan, which is called after what it is.
void check_plans(const Manifest& m) {
  const std::set<std::string> in_loop = names_in_loop(m);
  std::set<std::string> stages;
  for (const Stage& stage : m.stages) {
    if (in_loop.count(stage.name) == 0) stages.insert(stage.name);
  }
  for (size_t i = 0; i < m.plans.size(); ++i) {
    const Plan& plan = m.plans[i];
    for (size_t j = 0; j < plan.stages.size(); ++j) {
      const std::string& name = plan.stages[j];
      if (stages.count(name) > 0) continue;
      throw Misfit(Spot{"$.plans[%zu].stages[%zu]", i, j}.text(), "the name of a stage",
                   in_loop.count(name) > 0 ? quoted(name) + ", a stage of a loop"
                                           : "unknown " + quoted(name));
    }
    if ((plan.name == "whole") != (plan.stages.size() == 1)) {
      throw Misfit(Spot{"$.plans[%zu].stages", i}.text(), "one stage in 'whole', several in 'cut'",
                   std::to_string(plan.stages.size()) + " in " + quoted(plan.name));
    }
  }
  UniqueNames once;
  for (size_t i = 0; i < m.plans.size(); ++i) {
    for (size_t j = 0; j < m.plans[i].stages.size(); ++j) {
      once.add(m.plans[i].stages[j], {"$.plans[%zu].stages[%zu]", i, j});
      stages.erase(m.plans[i].stages[j]);
    }
  }
  if (!m.plans.empty() && !stages.empty()) {
    throw Misfit("$.plans", "every stage in one plan", "stage " + quoted(*stages.begin()) + " in none");
  }
}

std::string sizes_of(const Dimension& limits) {
  return std::to_string(limits.min) + ", " + std::to_string(limits.opt) + ", " +
         (limits.max ? std::to_string(*limits.max) : "None");
}

void check_dimensions(const Manifest& m) {
  for (const auto& [name, limits] : m.dimensions) {
    const std::string where = "$.dimensions['" + name + "']";
    if (limits.min > limits.opt || (limits.max && limits.opt > *limits.max)) {
      throw Misfit(where, "min <= opt <= max", sizes_of(limits));
    }
    if (limits.min % limits.multiple || limits.opt % limits.multiple ||
        limits.max.value_or(0) % limits.multiple) {
      throw Misfit(where, "multiples of " + std::to_string(limits.multiple), sizes_of(limits));
    }
  }
}

// Elements with dynamic dimensions at `opt`; past the limit some number past it.
int64_t elements(const Manifest& m, const TensorSpec& spec) {
  int64_t count = 1;
  bool empty = false;
  for (const Axis& axis : spec.shape) {
    const int64_t size = axis.is_dynamic() ? m.dimensions.at(axis.dimension).opt : axis.size;
    empty = empty || size == 0;
    if (count <= kMaxElements) count *= size;  // both are at most 2^31
  }
  return empty ? 0 : count;
}

void check_shape(const Manifest& m, const TensorSpec& spec, const Spot& where) {
  for (size_t axis = 0; axis < spec.shape.size(); ++axis) {
    const Axis& size = spec.shape[axis];
    if (size.is_dynamic() && m.dimensions.count(size.dimension) == 0) {
      throw Misfit(where.text() + ".shape[" + std::to_string(axis) + "]",
                   "a dimension listed in $.dimensions", quoted(size.dimension));
    }
  }
  if (elements(m, spec) > kMaxElements) {
    throw Misfit(where.text() + ".shape", "at most " + std::to_string(kMaxElements) + " elements",
                 "more");
  }
}

void check_shapes(const Manifest& m) {
  check_dimensions(m);
  for (size_t i = 0; i < m.stages.size(); ++i) {
    const auto& specs = m.stages[i].inputs;
    for (size_t j = 0; j < specs.size(); ++j) check_shape(m, specs[j], {kStageInput, i, j});
  }
  for (size_t i = 0; i < m.stages.size(); ++i) {
    const auto& specs = m.stages[i].outputs;
    for (size_t j = 0; j < specs.size(); ++j) check_shape(m, specs[j], {kStageOutput, i, j});
  }
}

void check_constraints(const Manifest& m) {
  if (m.constraints.empty()) return;
  const std::set<std::string> inputs = network_inputs(m);
  std::set<std::string> dimensions;
  for (const Stage& stage : m.stages) {
    for (const TensorSpec& spec : stage.inputs) {
      if (inputs.count(spec.name) == 0) continue;
      for (const Axis& axis : spec.shape) {
        if (axis.is_dynamic()) dimensions.insert(axis.dimension);
      }
    }
  }
  size_t tokens = 0;
  for (size_t i = 0; i < m.constraints.size(); ++i) {
    const Spot where{"$.constraints[%zu].expression", i};
    const std::string& text = m.constraints[i].expression;
    std::string fault;
    const std::optional<Expression> expression = parse_expression(text, &fault);
    if (!expression) {
      const size_t end = fault.find(", got ");
      throw Misfit(where.text(), fault.substr(0, end),
                   end == std::string::npos ? show(text) : fault.substr(end + 6));
    }
    for (const std::string& name : expression->names()) {
      if (dimensions.count(name) == 0) {
        throw Misfit(where.text(), "names of dimensions that inputs have",
                     "unknown dimension " + quoted(name));
      }
    }
    tokens += expression->tokens();
  }
  if (tokens > kMaxAllTokens) {
    throw Misfit("$.constraints",
                 "at most " + std::to_string(kMaxAllTokens) + " numbers, names and operators in all",
                 std::to_string(tokens));
  }
}

void check_modalities(const Manifest& m) {
  for (size_t i = 0; i < m.modalities.size(); ++i) {
    const Modality& modality = m.modalities[i];
    if (!modality.tokenizer) continue;
    const auto check = [&](const std::string& name, const char* where) {
      if (contains(modality.inputs, name)) return;
      throw Misfit(Spot{where, i}.text(), "an input of modality " + quoted(modality.name), quoted(name));
    };
    check(modality.tokenizer->ids, "$.modalities[%zu].tokenizer.ids");
    if (modality.tokenizer->mask) check(*modality.tokenizer->mask, "$.modalities[%zu].tokenizer.mask");
  }
}

void check_ranges(const Manifest& m) {
  const std::set<std::string> inputs = network_inputs(m);
  for (const auto& [name, range] : m.ranges) {
    if (inputs.count(name) == 0) {
      throw Misfit("$.ranges", "inputs of modalities as keys", "unknown input " + quoted(name));
    }
    if (range.min > range.max) {
      throw Misfit("$.ranges['" + name + "']", "min <= max",
                   show(range.min) + ", " + show(range.max));
    }
  }
}

void check_moves(const Manifest& m) {
  std::set<std::string> modalities;
  for (const Modality& modality : m.modalities) modalities.insert(modality.name);
  for (size_t i = 0; i < m.cut.moves.size(); ++i) {
    const std::string& name = m.cut.moves[i].modality;
    if (modalities.count(name) > 0) continue;
    throw Misfit(Spot{"$.cut.moves[%zu].modality", i}.text(), "the name of a modality",
                 "unknown modality " + quoted(name));
  }
}

// All files of a plan or none, and of one plan at least all; a file for each stage of a loop.
void check_variant_files(const Manifest& m, const Variant& variant, const std::string& where,
                         const std::vector<std::string>& runs) {
  for (const auto& entry : variant.files) {
    if (m.stage(entry.first) == nullptr) {
      throw Misfit(where, "names of stages as keys", "unknown stage " + quoted(entry.first));
    }
  }
  const auto has_file = [&](const std::string& name) { return variant.files.count(name) > 0; };
  for (const Plan& plan : m.all_plans()) {
    if (contains(runs, plan.name)) continue;
    const auto& stages = plan.stages;
    if (!runs.empty() && !std::any_of(stages.begin(), stages.end(), has_file)) continue;
    throw Misfit(where, "a file for each stage" + plan_in_words(m, plan),
                 "none for stage " + quoted(*std::find_if_not(stages.begin(), stages.end(), has_file)));
  }
  for (const Stage* stage : m.loop_stages()) {
    if (!has_file(stage->name)) {
      throw Misfit(where, "a file for each stage of the loop", "none for stage " + quoted(stage->name));
    }
  }
}

void check_variants(const Manifest& m) {
  std::set<std::string> outputs;
  for (const Stage& stage : m.stages) {
    for (const TensorSpec& spec : stage.outputs) outputs.insert(spec.name);
  }
  for (size_t i = 0; i < m.variants.size(); ++i) {
    const Variant& variant = m.variants[i];
    const std::vector<std::string> runs = m.plan_names(&variant);
    check_variant_files(m, variant, Spot{"$.variants[%zu].files", i}.text(), runs);
    if (variant.plan && !contains(runs, *variant.plan)) {
      std::string names;
      for (const std::string& name : runs) names += (names.empty() ? "" : ", ") + name;
      throw Misfit(Spot{"$.variants[%zu].plan", i}.text(),
                   "null or a plan that it has files for: " + names, quoted(*variant.plan));
    }
    if (variant.in_place) check_cache(m, i);
    for (const auto& entry : variant.tolerances) {
      if (outputs.count(entry.first) > 0) continue;
      throw Misfit(Spot{"$.variants[%zu].tolerances", i}.text(), "names of stages' outputs as keys",
                   "unknown tensor " + quoted(entry.first));
    }
  }
  for (const auto& entry : m.labels) {
    if (!contains(m.outputs, entry.first)) {
      throw Misfit("$.labels", "names of outputs as keys", "unknown output " + quoted(entry.first));
    }
  }
}

// What decides which variant is taken; threads that cannot be are ignored at loading.
void check_metrics(const Manifest& m) {
  for (size_t i = 0; i < m.variants.size(); ++i) {
    const auto latency = m.variants[i].metrics.find("latency_ms");
    if (latency == m.variants[i].metrics.end()) continue;
    if (latency->second > 0 && latency->second <= kMaxLatencyMs) continue;
    char got[40];
    std::snprintf(got, sizeof got, "%g", latency->second);
    throw Misfit(Spot{"$.variants[%zu].metrics['latency_ms']", i}.text(),
                 "a number above 0 to 1e+09", got);
  }
}

void check_samples(const Manifest& m) {
  auto each = static_cast<int64_t>(m.inputs().size() + m.step_inputs().size());
  for (const Stage& stage : m.stages) each += static_cast<int64_t>(stage.outputs.size());
  if (has_loop(m)) each += kLoopTensors;
  if (m.samples * each > kMaxSampleTensors) {
    throw Misfit("$.samples",
                 "at most " + std::to_string(kMaxSampleTensors) + " tensors in all samples",
                 std::to_string(m.samples) + " samples of " + std::to_string(each));
  }
}

void check_listed(const Manifest& m, const std::string& file, const std::string& where) {
  if (m.files.count(file) > 0) return;
  throw Misfit(where, "a file listed in $.files", "unknown file " + quoted(file));
}

void check_loop_files(const Manifest& m) {
  for (size_t i = 0; i < m.states.size(); ++i) {
    if (m.states[i].initial == Initial::kStored) {
      check_listed(m, kSamplesFile, Spot{"$.states[%zu].initial", i}.text());
    }
  }
  const GenerateLoop* generate = generate_loop(m);
  const DenoiseLoop* denoise = denoise_loop(m);
  if (generate != nullptr && generate->tokenizer) {
    check_listed(m, *generate->tokenizer, "$.loops[0].tokenizer");
  }
  if (denoise != nullptr && !denoise->unconditional.empty()) {
    check_listed(m, kSamplesFile, "$.loops[0].unconditional");
  }
}

void check_files(const Manifest& m) {
  for (const auto& entry : m.files) {
    const std::string& name = entry.first;
    if (is_outside_of_list(name)) {
      throw Misfit("$.files", "every file but the manifest and its digest", quoted(name));
    }
    for (size_t end = name.find('/'); end != std::string::npos; end = name.find('/', end + 1)) {
      const std::string folder = name.substr(0, end);
      if (m.files.count(folder) > 0) {
        throw Misfit("$.files", "a path that is a file or a folder", quoted(folder) + " as both");
      }
    }
  }
  for (size_t i = 0; i < m.stages.size(); ++i) {
    check_listed(m, m.stages[i].graph, Spot{"$.stages[%zu].graph", i}.text());
  }
  for (size_t i = 0; i < m.variants.size(); ++i) {
    for (const auto& [stage, file] : m.variants[i].files) {
      check_listed(m, file, Spot{"$.variants[%zu].files", i}.text() + "['" + stage + "']");
    }
  }
  for (const auto& [name, file] : m.labels) check_listed(m, file, "$.labels['" + name + "']");
  for (size_t i = 0; i < m.modalities.size(); ++i) {
    const Modality& modality = m.modalities[i];
    if (modality.tokenizer) {
      check_listed(m, modality.tokenizer->file, Spot{"$.modalities[%zu].tokenizer.file", i}.text());
    }
    if (modality.absent == Absent::kToken && !modality.required) {
      check_listed(m, kSamplesFile, Spot{"$.modalities[%zu].absent", i}.text());
    }
  }
  check_loop_files(m);
  if (m.samples > 0) check_listed(m, kSamplesFile, "$.samples");
}

}  // namespace

std::string Spot::text() const {
  char text[120];
  std::snprintf(text, sizeof text, format, i, j);
  return text;
}

void UniqueNames::add(const std::string& name, const Spot& where) {
  const auto [place, is_new] = places_.emplace(name, where);
  if (is_new) return;
  throw Misfit(where.text(), "a name used once",
               "duplicate " + quoted(name) + ", also at " + place->second.text());
}

std::set<std::string> network_inputs(const Manifest& manifest) {
  std::set<std::string> names;
  for (const Modality& modality : manifest.modalities) {
    names.insert(modality.inputs.begin(), modality.inputs.end());
  }
  return names;
}

std::set<std::string> names_in_loop(const Manifest& manifest) {
  std::set<std::string> names;
  for (const Stage* stage : manifest.loop_stages()) names.insert(stage->name);
  return names;
}

const GenerateLoop* generate_loop(const Manifest& manifest) {
  return std::get_if<GenerateLoop>(&manifest.loop);
}

const DenoiseLoop* denoise_loop(const Manifest& manifest) {
  return std::get_if<DenoiseLoop>(&manifest.loop);
}

void check_rules(const Manifest& manifest) {
  const bool loops = has_loop(manifest) || !manifest.states.empty();
  check_unique(manifest);
  if (loops) check_loop_stages(manifest);
  check_plans(manifest);
  check_shapes(manifest);
  check_constraints(manifest);
  for (const Plan& plan : manifest.all_plans()) {
    check_flow(manifest, plan);
    check_encoders(manifest, plan);
  }
  if (loops) check_loops(manifest);
  if (manifest.outputs.empty() && !has_loop(manifest)) {
    throw Misfit("$.outputs", "a list of 1 to 4096", "a list of 0");
  }
  check_modalities(manifest);
  check_ranges(manifest);
  check_moves(manifest);
  check_variants(manifest);
  check_metrics(manifest);
  check_samples(manifest);
  check_files(manifest);
}

}  // namespace mmedge::runtime
