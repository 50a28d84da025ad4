// What callers ask of a stream, checked: numbers that can be meant, and names that there are.
#include "stream/options.h"

#include <algorithm>
#include <cmath>
#include <variant>

#include "error.h"
#include "execution/inputs.h"
#include "stream/text.h"

namespace mmedge::runtime::stream {
namespace {

// Triggers a second of a timer: one a day to what float64 seconds since 1970 can tell apart.
constexpr double kLeastHz = 1e-5, kMostHz = 1e5;

[[noreturn]] void refuse(const std::string& message) { throw Error(Code::kInput, message); }

std::string shown(double value) { return std::string(Text().add_number(value).view()); }

std::string modality_names(const Manifest& manifest) {
  std::string names;
  for (const Modality& modality : manifest.modalities) {
    names += (names.empty() ? "" : ", ") + modality.name;
  }
  return names;
}

template <class Value>
void check_names(const char* what, const std::map<std::string, Value>& by_modality,
                 const Manifest& manifest) {
  for (const auto& [name, value] : by_modality) {
    const bool is_there =
        std::any_of(manifest.modalities.begin(), manifest.modalities.end(),
                    [&name = name](const Modality& modality) { return modality.name == name; });
    if (!is_there) {
      refuse(std::string(what) + ": unknown modality '" + name + "'; this bundle has " +
             modality_names(manifest));
    }
  }
}

void check_positive(const char* name, double value, bool zero = false) {
  if (!(value > 0 || (zero && value == 0))) {
    refuse(std::string(name) + " must be " + (zero ? "0 or more" : "above 0") + ", got " +
           shown(value));
  }
}

void check_least(const char* name, int64_t value, int64_t least) {
  if (value < least) {
    refuse(std::string(name) + " must be at least " + std::to_string(least) + ", got " +
           std::to_string(value));
  }
}

void check_numbers(const Policy& policy) {
  using Kind = Policy::Kind;
  if (policy.kind != Kind::kWindow) {
    check_positive("wait_ms", policy.wait_ms, true);
    if (std::isinf(policy.wait_ms)) {
      refuse("wait_ms must be finite, so that a lost sensor does not end all results");
    }
  }
  const bool has_age = policy.kind != Kind::kLatest && policy.kind != Kind::kExact;
  if (policy.kind == Kind::kHold && !policy.max_age_ms) refuse("Hold: max_age_ms is missing");
  if (has_age && policy.max_age_ms) check_positive("max_age_ms", *policy.max_age_ms);
  if (policy.kind == Kind::kExact) check_positive("tolerance_ms", policy.tolerance_ms, true);
  if (policy.kind != Kind::kWindow) return;
  check_least("length", policy.length, 1);
  check_least("hop", policy.hop, 1);
  if (policy.rate_hz) check_positive("rate_hz", *policy.rate_hz);
  if (policy.max_gap_ms) check_positive("max_gap_ms", *policy.max_gap_ms, true);
  check_least("chunk_rows", policy.chunk_rows, 0);
  check_least("chunks", policy.chunks, 2);
  if (policy.chunks > 1 << 20 || policy.chunk_rows > INT64_C(1) << 40) {
    refuse("chunks and chunk_rows: more than a stream can set aside");
  }
}

void check_slices(const char* what, const Slices& slices, size_t length, const Modality& modality) {
  for (const auto& [input, group] : slices) {
    if (input.empty() ? modality.inputs.size() != 1 && !group.empty()
                      : std::find(modality.inputs.begin(), modality.inputs.end(), input) ==
                            modality.inputs.end()) {
      refuse("modality '" + modality.name + "': " + what +
             (input.empty() ? ": several inputs; say whose elements they are"
                            : ": unknown input '" + input + "'"));
    }
    for (const Slice& slice : group) {
      const std::string shown_slice =
          "(" + std::to_string(slice.start) + ", " + std::to_string(slice.stop) + ")";
      if (slice.start < 0 || slice.start >= slice.stop) {
        refuse(std::string(what) + ": a slice begins at 0 or later and is not empty, got " +
               shown_slice);
      }
      if (length && slice.stop - slice.start != static_cast<int64_t>(length)) {
        refuse("a quaternion is 4 elements (start, stop), got " + shown_slice);
      }
    }
  }
}

// Whether an encoder with state would take each value once, in order.
void check_order(const Policy& policy, const Modality& modality) {
  using Kind = Policy::Kind;
  const std::string where =
      "modality '" + modality.name + "': its encoder has a state, which takes each value once; ";
  if (policy.matches_times()) {
    refuse(where + (policy.kind == Kind::kExact ? "Exact" : "Interpolate") +
           " encodes at a trigger and not in order; use Latest or Hold");
  }
  if (policy.kind != Kind::kWindow || policy.hop == policy.length) return;
  const std::string length = std::to_string(policy.length);
  refuse(where + "windows of " + length + " rows every " + std::to_string(policy.hop) +
         " rows would give it rows " + (policy.hop < policy.length ? "again and again" : "not at all") +
         "; set hop=" + length);
}

void check_turns(const Policy& policy, const TensorSpec& input, const Manifest& manifest,
                 const std::string& where) {
  std::vector<Slice> slices = slices_of(policy.quaternions, input.name);
  const std::vector<Slice> angles = slices_of(policy.angles, input.name);
  slices.insert(slices.end(), angles.begin(), angles.end());
  std::sort(slices.begin(), slices.end(), [](const Slice& one, const Slice& other) {
    return one.start < other.start || (one.start == other.start && one.stop < other.stop);
  });
  for (size_t i = 1; i < slices.size(); ++i) {
    if (slices[i].start < slices[i - 1].stop) {
      refuse(where + ": slices of quaternions and angles overlap");
    }
  }
  if (input.dtype != DType::kFloat16 && input.dtype != DType::kFloat32 &&
      input.dtype != DType::kFloat64) {
    refuse(where + ": only float inputs are interpolated; use Exact or Hold");
  }
  int64_t least = 0;
  if (!input.shape.empty()) {
    const Axis& last = input.shape.back();
    least = last.is_dynamic() ? manifest.dimensions.at(last.dimension).min : last.size;
  }
  for (const Slice& slice : slices) {
    if (slice.stop > least) {
      refuse(where + ": no elements (" + std::to_string(slice.start) + ", " +
             std::to_string(slice.stop) + ") on the last axis");
    }
  }
}

void check_span(const Policy& policy, const Modality& modality) {
  std::optional<double> bundle_rate;
  if (modality.sample_rate_hz) bundle_rate = static_cast<double>(*modality.sample_rate_hz);
  const std::optional<double> rate = policy.rate_hz ? policy.rate_hz : bundle_rate;
  if (!rate) return;
  if (bundle_rate && *rate != *bundle_rate) {
    refuse("modality '" + modality.name + "': the window's rate_hz is " + shown(*rate) +
           ", the bundle's sample_rate_hz " + shown(*bundle_rate) + "; leave rate_hz out");
  }
  const std::optional<double> limit = policy.max_age_ms ? policy.max_age_ms : modality.max_age_ms;
  const double span = static_cast<double>(policy.length - 1) / *rate * 1e3;
  if (limit && span > *limit) {
    refuse("modality '" + modality.name + "': the oldest row of a window of " +
           std::to_string(policy.length) + " rows at " + shown(*rate) + " Hz is " + shown(span) +
           " ms older than its newest, but max_age_ms is " + shown(*limit) +
           "; set Window(max_age_ms=) to what the oldest row may have");
  }
}

void check_length(const Policy& policy, const TensorSpec& input, const Manifest& manifest,
                  const SizeRules* rules, const std::string& where) {
  const Axis& axis = input.shape[row_axis(policy, input)];
  Dimension limit{axis.size, axis.size, axis.size, 1};
  if (axis.is_dynamic()) limit = manifest.dimensions.at(axis.dimension);
  const int64_t multiple = axis.is_dynamic() ? limit.multiple : 1;
  if (policy.length < limit.min || (limit.max && policy.length > *limit.max) ||
      policy.length % multiple != 0) {
    refuse(where + ": the window's length is " + std::to_string(policy.length) +
           ", which the input does not take");
  }
  if (rules == nullptr || !rules->any() || !axis.is_dynamic()) return;
  std::vector<int64_t> sizes;
  for (const auto& [name, dimension] : call_dimensions(manifest)) {
    sizes.push_back(name == axis.dimension ? policy.length : -1);
  }
  char text[512];
  if (rules->is_broken(sizes.data(), text, sizeof text)) {
    refuse(where + ": the window's length is " + std::to_string(policy.length) + ": " + text);
  }
}

}  // namespace

std::vector<Slice> slices_of(const Slices& slices, const std::string& input) {
  auto found = slices.find(input);
  if (found == slices.end()) found = slices.find("");
  return found == slices.end() ? std::vector<Slice>() : found->second;
}

size_t row_axis(const Policy& policy, const TensorSpec& input) {
  int64_t axis = 1;
  if (policy.axis) {
    axis = *policy.axis;
  } else {
    for (size_t i = input.shape.size(); i-- > 1;) {
      if (input.shape[i].is_dynamic()) axis = static_cast<int64_t>(i);
    }
  }
  if (axis < 0 || axis >= static_cast<int64_t>(input.shape.size())) {
    refuse("a window along axis " + std::to_string(axis) + " does not fit input " + input.text() +
           "; set its axis");
  }
  return static_cast<size_t>(axis);
}

void check_policy(const Policy& policy, const Modality& modality,
                  const std::vector<TensorSpec>& inputs, const Manifest& manifest,
                  const SizeRules* rules, bool has_state) {
  check_numbers(policy);
  if (has_state) check_order(policy, modality);
  if (policy.kind == Policy::Kind::kInterpolate) {
    check_slices("quaternions", policy.quaternions, 4, modality);
    check_slices("angles", policy.angles, 0, modality);
  } else if (policy.kind == Policy::Kind::kWindow) {
    check_span(policy, modality);
  }
  for (const TensorSpec& input : inputs) {
    const std::string where = "modality '" + modality.name + "', input " + input.text();
    if (policy.kind == Policy::Kind::kInterpolate) {
      check_turns(policy, input, manifest, where);
    } else if (policy.kind == Policy::Kind::kWindow) {
      check_length(policy, input, manifest, rules, where);
    }
  }
}

void check_options(const StreamOptions& options, const Manifest& manifest) {
  check_names("align", options.align, manifest);
  check_names("sanity", options.sanity, manifest);
  check_least("depth", options.depth, 2);
  check_least("keep", options.keep, 1);
  check_least("recover_after", options.recover_after, 1);
  if (options.depth > 1 << 20 || options.keep > 1 << 20) {
    refuse("depth and keep: more than a stream can set aside");
  }
  if (!(std::isfinite(options.future) && options.future >= 0)) {
    refuse("future must be at least 0, got " + shown(options.future));
  }
  if (options.deadline_ms && !(std::isfinite(*options.deadline_ms) && *options.deadline_ms > 0)) {
    refuse("deadline_ms must be above 0, got " + shown(*options.deadline_ms));
  }
  if (options.cancels && std::holds_alternative<std::monostate>(manifest.loop)) {
    refuse("newer_trigger: bundle '" + manifest.name + "' has no loop; leave it out");
  }
  for (const auto& [name, sanity] : options.sanity) {
    if (!sanity.is_frozen_auto && sanity.frozen_after && *sanity.frozen_after < 2) {
      refuse("frozen_after must be 2 or more samples, 'auto' or None; got " +
             std::to_string(*sanity.frozen_after));
    }
    if (sanity.range_margin && !(*sanity.range_margin >= 0)) {
      refuse("range_margin must be 0 or more, or None; got " + shown(*sanity.range_margin));
    }
  }
  const std::map<std::string, Dimension> dimensions = call_dimensions(manifest);
  for (const auto& [name, size] : options.largest) {
    const auto found = dimensions.find(name);
    if (found == dimensions.end()) refuse("largest: unknown dimension '" + name + "'");
    if (size < found->second.min) {
      refuse("largest: dimension '" + name + "' has at least " + std::to_string(found->second.min) +
             ", got " + std::to_string(size));
    }
  }
}

StatePlan read_states(const std::vector<const Stage*>& stages, const Manifest& manifest) {
  StatePlan plan;
  plan.encoders.resize(manifest.modalities.size());
  for (const Stage* stage : stages) {
    const bool has_state =
        std::any_of(manifest.states.begin(), manifest.states.end(),
                    [stage](const StateSpec& state) { return state.stage == stage->name; });
    if (!has_state) continue;
    if (!stage->modality) plan.fusion.push_back(stage->name);
    for (size_t i = 0; i < manifest.modalities.size() && stage->modality; ++i) {
      if (manifest.modalities[i].name == *stage->modality) plan.encoders[i] = true;
    }
  }
  return plan;
}

std::map<std::string, double> read_reset_after(const StreamOptions& options, const StatePlan& states,
                                               const Manifest& manifest) {
  std::map<std::string, double> limits = options.reset_after;
  if (!options.reset_all_after && limits.empty()) return limits;
  std::vector<std::string> names;
  for (size_t i = 0; i < states.encoders.size(); ++i) {
    if (states.encoders[i]) names.push_back(manifest.modalities[i].name);
  }
  std::sort(names.begin(), names.end());
  names.insert(names.end(), states.fusion.begin(), states.fusion.end());
  if (names.empty()) {
    refuse("reset_after: no stage that this stream runs has a state; leave it out");
  }
  if (options.reset_all_after) {
    for (const std::string& name : names) limits.emplace(name, *options.reset_all_after);
  }
  for (const auto& [name, seconds] : limits) {
    if (std::find(names.begin(), names.end(), name) == names.end()) {
      std::string list;
      for (const std::string& each : names) list += (list.empty() ? "" : ", ") + each;
      refuse("reset_after: '" + name + "' has no state; " + list + " do");
    }
    if (!(std::isfinite(seconds) && seconds > 0)) {
      refuse("reset_after of '" + name + "' must be above 0 s, got " + shown(seconds));
    }
  }
  return limits;
}

TriggerPlan read_trigger(const StreamOptions& options, const Manifest& manifest) {
  TriggerPlan plan;
  plan.modalities.assign(manifest.modalities.size(), options.trigger == "any");
  if (options.trigger == "any") return plan;
  if (!options.trigger.empty()) {
    for (size_t i = 0; i < manifest.modalities.size(); ++i) {
      if (manifest.modalities[i].name != options.trigger) continue;
      plan.modalities[i] = true;
      plan.rate = manifest.modalities[i].rate_hz;
      return plan;
    }
    refuse("trigger '" + options.trigger + "': expected 'any', a rate in Hz, or one of " +
           modality_names(manifest));
  }
  if (!options.trigger_hz) {
    refuse("trigger: expected 'any', a rate in Hz, or one of " + modality_names(manifest));
  }
  const double hz = *options.trigger_hz;
  if (!(hz > 0)) refuse("a trigger's rate must be above 0 Hz, got " + shown(hz));
  if (!(kLeastHz <= hz && hz <= kMostHz)) {
    refuse("a trigger's rate must be 1e-05 to 100000 Hz, got " + shown(hz));
  }
  plan.is_timer = true;
  plan.rate = hz;
  return plan;
}

}  // namespace mmedge::runtime::stream
