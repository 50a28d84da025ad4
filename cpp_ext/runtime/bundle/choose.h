// Which variant and plan of a bundle suit a device, and why each other variant does not:
// mmedge/bundle/choose.py.
#ifndef MMEDGE_RUNTIME_BUNDLE_CHOOSE_H_
#define MMEDGE_RUNTIME_BUNDLE_CHOOSE_H_

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "spec.h"

namespace mmedge::runtime {

// What a machine can run.
struct Device {
  std::string name;
  std::vector<std::string> backends;           // usable here
  std::vector<std::string> targets;            // of variants that run here; "cpu" first
  std::map<std::string, std::string> missing;  // backend or target to why it is not usable
  std::map<std::string, std::string> libraries;
  int cores = 1;
};

// What was decided of one variant; `reason` is set for accepted ones too.
struct Decision {
  std::string variant;
  bool accepted = false;
  std::string reason;
};

// What the caller asks for; empty: anything.
struct Wish {
  std::string variant;
  std::string backend;
  std::string precision;
};

struct Choice {
  const Variant* variant = nullptr;  // null: none can run
  std::vector<Decision> decisions;   // of every variant, in the manifest's order
};

// The preferred variant that can run. The order of preference: docs/reference/bundle.md.
Choice choose(const Manifest& manifest, const Device& device, const Wish& wish);

// As choose(). Throws Error: kInput where there is no variant of that id, kNoVariant where none can
// run.
Choice select(const Manifest& manifest, const Device& device, const Wish& wish,
              const std::string& source);

// `device` as if it offered `target` alone; unchanged for "". Throws Error(kInput) where it does not.
Device restrict_device(const Device& device, const std::string& target);

struct PlanChoice {
  std::string plan;
  std::string reason;
};

// The plan that single calls of a variant run; `plan` is the one asked for, or "".
// Throws Error(kInput) where the variant has no files for it.
PlanChoice choose_plan(const Manifest& manifest, const Variant& variant, const Device& device,
                       const std::string& plan);

// Threads that were measured to be fastest, where that says something of this machine; else 0.
int tuned_threads(const Variant& variant, const Device& device);

// Whether export has held this very computation against the network.
bool is_proven(const Manifest& manifest, const Variant& variant);

}  // namespace mmedge::runtime

#endif  // MMEDGE_RUNTIME_BUNDLE_CHOOSE_H_
