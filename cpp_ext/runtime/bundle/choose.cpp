// The order in which variants are preferred, and the words for each decision.
#include "bundle/choose.h"

#include <algorithm>
#include <cstdio>
#include <limits>
#include <tuple>

#include "error.h"

namespace mmedge::runtime {
namespace {

bool contains(const std::vector<std::string>& names, const std::string& name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

std::string join(const std::vector<std::string>& names, const char* between) {
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : between) + name;
  return text;
}

const std::string* find(const std::map<std::string, std::string>& texts, const std::string& key) {
  const auto entry = texts.find(key);
  return entry == texts.end() ? nullptr : &entry->second;
}

std::optional<double> metric(const Variant& variant, const char* name) {
  const auto entry = variant.metrics.find(name);
  if (entry == variant.metrics.end()) return std::nullopt;
  return entry->second;
}

// Why a variant cannot run on a device; "" where it can.
std::string why_rejected(const Variant& variant, const Device& device, const Wish& wish) {
  if (!wish.backend.empty() && wish.backend != "auto" && wish.backend != variant.backend) {
    return "backend " + wish.backend + " was asked for, this one is " + variant.backend;
  }
  if (!wish.precision.empty() && wish.precision != variant.precision) {
    return "precision " + wish.precision + " was asked for, this one is " + variant.precision;
  }
  if (!contains(device.backends, variant.backend)) {
    if (const std::string* why = find(device.missing, variant.backend)) return *why;
    return "backend '" + variant.backend + "' is not known to this version of mmedge";
  }
  if (variant.in_place && (variant.backend != "ort" || variant.target != "cpu")) {
    return "this version of mmedge writes to a cache in place with ONNX Runtime on the CPU alone, "
           "not with " + variant.backend + " on " + variant.target;
  }
  if (!contains(device.targets, variant.target)) {
    std::string reason =
        "made for " + variant.target + ", this device offers " + join(device.targets, ", ");
    if (const std::string* why = find(device.missing, variant.target)) reason += " (" + *why + ")";
    return reason;
  }
  for (const auto& [library, version] : variant.requirements) {
    const std::string* here = find(device.libraries, library);
    if (here == nullptr || *here != version) {
      return "needs " + library + " " + version + ", found " + (here ? *here : "none");
    }
  }
  return "";
}

// Smaller is better; equals keep the manifest's order.
std::tuple<int, double, bool> rank(const Variant& variant) {
  const int place = variant.target == "cpu" ? 2 : variant.target == "cuda" ? 1 : 0;
  const double latency =
      metric(variant, "latency_ms").value_or(std::numeric_limits<double>::infinity());
  return {place, latency, variant.precision != "fp32"};
}

std::string why_accepted(const Variant& variant, const Variant* best) {
  if (best != &variant) {
    return "can run here; " + (best ? best->id() : std::string("another")) + " is preferred";
  }
  std::string reason = "chosen: runs on " + variant.target + " in " + variant.precision;
  if (const auto latency = metric(variant, "latency_ms")) {
    char text[48];
    std::snprintf(text, sizeof text, ", measured at %.3g ms", *latency);
    reason += text;
  }
  return reason;
}

}  // namespace

Choice choose(const Manifest& manifest, const Device& device, const Wish& wish) {
  Choice choice;
  std::vector<std::string> reasons;
  for (const Variant& variant : manifest.variants) {
    const bool other = !wish.variant.empty() && wish.variant != variant.id();
    reasons.push_back(other ? "variant " + wish.variant + " was asked for"
                            : why_rejected(variant, device, wish));
    if (!reasons.back().empty()) continue;
    if (choice.variant == nullptr || rank(variant) < rank(*choice.variant)) {
      choice.variant = &variant;
    }
  }
  for (size_t i = 0; i < reasons.size(); ++i) {
    const Variant& variant = manifest.variants[i];
    const bool accepted = reasons[i].empty();
    choice.decisions.push_back(
        {variant.id(), accepted, accepted ? why_accepted(variant, choice.variant) : reasons[i]});
  }
  return choice;
}

Choice select(const Manifest& manifest, const Device& device, const Wish& wish,
              const std::string& source) {
  std::vector<std::string> ids;
  for (const Variant& variant : manifest.variants) ids.push_back(variant.id());
  if (!wish.variant.empty() && !contains(ids, wish.variant)) {
    throw Error(Code::kInput, source + ": no variant '" + wish.variant + "'; this bundle has " +
                                  join(ids, ", "));
  }
  Choice choice = choose(manifest, device, wish);
  if (choice.variant == nullptr) {
    std::string reasons;
    for (const Decision& decision : choice.decisions) {
      reasons += (reasons.empty() ? "" : "; ") + decision.variant + ": " + decision.reason;
    }
    throw Error(Code::kNoVariant,
                source + ": no variant can run on " + device.name + ": " + reasons);
  }
  return choice;
}

Device restrict_device(const Device& device, const std::string& target) {
  if (target.empty()) return device;
  if (!contains(device.targets, target)) {
    const std::string* why = find(device.missing, target);
    throw Error(Code::kInput, "device '" + target + "' is not here; this machine offers " +
                                  join(device.targets, ", ") + (why ? " (" + *why + ")" : ""));
  }
  Device only = device;
  only.targets = {target};
  return only;
}

PlanChoice choose_plan(const Manifest& manifest, const Variant& variant, const Device& device,
                       const std::string& plan) {
  const std::vector<std::string> names = manifest.plan_names(&variant);
  if (!plan.empty()) {
    if (!contains(names, plan)) {
      throw Error(Code::kInput, "variant " + variant.id() + " has no plan '" + plan +
                                    "'; it has " + join(names, " and "));
    }
    return {plan, "it was asked for"};
  }
  if (names.size() == 1) return {names.front(), "the variant has no other"};
  if (variant.plan && metric(variant, "cores") == static_cast<double>(device.cores)) {
    return {*variant.plan, "measured to be faster by mmedge tune"};
  }
  return {"whole", "the rule for single calls; mmedge tune measures both"};
}

int tuned_threads(const Variant& variant, const Device& device) {
  if (metric(variant, "cores") != static_cast<double>(device.cores)) return 0;
  const double threads = metric(variant, "threads").value_or(0);
  return threads >= 1 && threads <= device.cores ? static_cast<int>(threads) : 0;
}

bool is_proven(const Manifest& manifest, const Variant& variant) {
  return manifest.runs_own_graphs(variant) && variant.backend == "ort" && variant.target == "cpu";
}

}  // namespace mmedge::runtime
