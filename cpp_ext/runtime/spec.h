// What a bundle says about itself: mmedge/spec.py and mmedge/loop_spec.py in C++.
//
// docs/reference/bundle.md documents every field; schema/manifest.h reads one from JSON and keeps
// the page's rules, so that whoever holds a Manifest may rely on them.
#ifndef MMEDGE_RUNTIME_SPEC_H_
#define MMEDGE_RUNTIME_SPEC_H_

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <variant>
#include <vector>

#include "tensor.h"

namespace mmedge::runtime {

constexpr int kSchemaVersion = 6;

// A fixed size, or the name of a dynamic dimension.
struct Axis {
  int64_t size = 0;
  std::string dimension;  // empty: the axis has the fixed size

  bool is_dynamic() const { return !dimension.empty(); }
  bool operator==(const Axis& other) const {
    return size == other.size && dimension == other.dimension;
  }
};

struct TensorSpec {
  std::string name;
  DType dtype = DType::kFloat32;
  std::vector<Axis> shape;

  // As in messages of both runtimes: "image: uint8[batch, 64, 64, 3]".
  std::string text() const;
};

struct Dimension {
  int64_t min = 0;
  int64_t opt = 1;
  std::optional<int64_t> max;
  int64_t multiple = 1;
};

struct Constraint {
  std::string expression;
  std::string source;
};

struct Tokenizer {
  std::string file;
  std::string ids;
  std::optional<std::string> mask;
};

enum class Absent { kZeros, kToken, kLast };

struct Modality {
  std::string name;
  std::vector<std::string> inputs;
  bool required = true;
  std::optional<double> rate_hz;
  std::optional<double> max_age_ms;
  Absent absent = Absent::kZeros;
  std::optional<Tokenizer> tokenizer;
  std::optional<int64_t> sample_rate_hz;
};

struct Range {
  double min = 0;
  double max = 0;
};

struct Stage {
  std::string name;
  std::string graph;
  std::vector<TensorSpec> inputs;
  std::vector<TensorSpec> outputs;
  std::optional<std::string> modality;
  int64_t flops = 0;
};

struct Plan {
  std::string name;  // "cut" or "whole"
  std::vector<std::string> stages;
};

struct Move {
  std::string modality;
  std::string what;
  int64_t flops = 0;
};

struct Cut {
  std::vector<Move> moves;
  std::vector<std::string> remarks;
};

struct Tolerance {
  double rtol = 0;
  double atol = 0;
};

struct Variant {
  std::string backend;
  std::string precision;
  std::string target;
  std::map<std::string, std::string> files;  // stage to path
  Tolerance tolerance;
  std::map<std::string, Tolerance> tolerances;
  std::map<std::string, std::string> requirements;  // the manifest's `requires`
  std::map<std::string, std::string> build;
  std::map<std::string, double> metrics;
  std::vector<std::string> not_checked;
  std::optional<std::string> plan;
  bool in_place = false;  // the manifest's `cache` is "in_place"

  // Short unique name inside the bundle, such as "ort-fp32-cpu".
  std::string id() const;
};

enum class Initial { kEmpty, kZeros, kStored, kOutput };

struct StateSpec {
  std::string stage;
  std::string input;
  std::string output;
  std::optional<int64_t> axis;
  Initial initial = Initial::kZeros;
  std::optional<std::string> source;
};

struct GenerateLoop {
  std::string stage;
  std::string token;
  std::string logits;
  int64_t limit = 0;
  std::optional<std::string> position;
  std::vector<int64_t> start;
  std::vector<int64_t> stop;
  std::vector<int64_t> suppress;
  std::vector<int64_t> suppress_first;
  double temperature = 0;
  int64_t top_k = 0;
  double top_p = 1;
  std::optional<std::string> tokenizer;
  bool whole_prompt = false;
};

struct DenoiseLoop {
  std::string stage;
  std::string latent;
  std::string time;
  std::string prediction;
  // time, a, p, q, r, s, u, w, c: docs/reference/bundle.md, "Loop".
  std::vector<std::array<double, 9>> schedule;
  double initial_scale = 1;
  std::optional<double> clip;
  std::optional<double> guidance;
  std::vector<std::string> unconditional;
  std::optional<std::string> decoder;
};

using Loop = std::variant<std::monostate, GenerateLoop, DenoiseLoop>;

struct Manifest {
  std::string name;
  std::vector<Modality> modalities;
  std::vector<Stage> stages;
  std::vector<std::string> outputs;
  std::vector<Variant> variants;
  std::map<std::string, std::string> files;  // path to SHA-256, lower-case hexadecimal
  std::map<std::string, Dimension> dimensions;
  std::map<std::string, Range> ranges;
  Cut cut;
  std::vector<Constraint> constraints;
  std::vector<std::string> not_checked;
  std::map<std::string, std::string> labels;
  std::map<std::string, std::string> provenance;
  int64_t samples = 0;
  std::vector<Plan> plans;
  std::vector<StateSpec> states;
  Loop loop;
  int schema_version = kSchemaVersion;

  const Stage* stage(const std::string& name) const;  // null where there is none
  // The rest mirrors the methods of mmedge.spec.Manifest of the same names.
  std::vector<const Stage*> loop_stages() const;
  std::vector<std::string> returned_outputs() const;
  std::map<std::string, TensorSpec> step_inputs() const;
  std::vector<Plan> all_plans() const;
  std::vector<TensorSpec> inputs() const;  // in the modalities' order
  std::vector<std::string> plan_names(const Variant* variant = nullptr) const;
  bool runs_own_graphs(const Variant& variant) const;
  bool has_cores(const Stage& stage) const;
  std::vector<const Stage*> in_order(const std::string& plan) const;
};

}  // namespace mmedge::runtime

#endif  // MMEDGE_RUNTIME_SPEC_H_
