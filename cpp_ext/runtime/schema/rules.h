// Rules between the fields of a manifest, for the files that hold them: mmedge/schema/rules.py,
// loops.py and cache.py. Each function throws Misfit at the first rule that is broken.
#ifndef MMEDGE_RUNTIME_SCHEMA_RULES_H_
#define MMEDGE_RUNTIME_SCHEMA_RULES_H_

#include <cstddef>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <string_view>

#include "bundle/paths.h"
#include "schema/read.h"
#include "spec.h"

namespace mmedge::runtime {

// A JSON path by its form, such as "$.stages[%zu].inputs[%zu].name".
struct Spot {
  const char* format;
  size_t i = 0, j = 0;

  std::string text() const;
};

// Names of which each may be used once.
class UniqueNames {
 public:
  void add(const std::string& name, const Spot& where);

 private:
  std::map<std::string, Spot> places_;
};

inline bool same(const TensorSpec& a, const TensorSpec& b) {
  return a.name == b.name && a.dtype == b.dtype && a.shape == b.shape;
}

// Names of the inputs of all modalities.
std::set<std::string> network_inputs(const Manifest& manifest);
std::set<std::string> names_in_loop(const Manifest& manifest);
// The plan that a rule is about, where there are several.
std::string plan_in_words(const Manifest& manifest, const Plan& plan);
const GenerateLoop* generate_loop(const Manifest& manifest);
const DenoiseLoop* denoise_loop(const Manifest& manifest);

// All rules, of a manifest whose every field has been read.
void check_rules(const Manifest& manifest);

// Every tensor of a plan has one source, one dtype and one shape, and no stage waits for itself.
void check_flow(const Manifest& manifest, const Plan& plan);
// An encoder takes nothing of another modality.
void check_encoders(const Manifest& manifest, const Plan& plan);

// A loop's stages exist, are different, and belong to no modality.
void check_loop_stages(const Manifest& manifest);
// The other rules on states and loops.
void check_loops(const Manifest& manifest);
// A variant, the i-th, can take the states that grow in buffers that it writes to.
void check_cache(const Manifest& manifest, size_t i);

}  // namespace mmedge::runtime

#endif  // MMEDGE_RUNTIME_SCHEMA_RULES_H_
