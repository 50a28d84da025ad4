// What callers ask of a stream: policies, sanity, triggers, deadlines, memory.
#ifndef MMEDGE_RUNTIME_STREAM_OPTIONS_H_
#define MMEDGE_RUNTIME_STREAM_OPTIONS_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "spec.h"
#include "tensor.h"

namespace mmedge::runtime::stream {

// Elements start to stop - 1 of an input's last axis.
struct Slice {
  int64_t start = 0;
  int64_t stop = 0;
};
// By input; under the empty name those of a modality's only input.
using Slices = std::map<std::string, std::vector<Slice>>;

// Which samples of a modality stand for it at a given time: mmedge/stream/policies.py. Each field
// is of the kinds that Python's classes give it, and unused by others.
struct Policy {
  enum class Kind { kLatest, kHold, kExact, kInterpolate, kWindow };

  Kind kind = Kind::kLatest;
  std::optional<double> max_age_ms;
  double wait_ms = 0;
  double tolerance_ms = 0;
  Slices quaternions, angles;
  int64_t length = 0, hop = 1;
  std::optional<int64_t> axis;
  std::optional<double> rate_hz, max_gap_ms;

  // Memory of a window: most rows of a chunk (0: `length`, and at least 64), and most chunks that
  // are kept at a time. Python has no such limits. A longer chunk is refused; a chunk for which
  // there is no room is dropped as queue_full.
  int64_t chunk_rows = 0;
  int64_t chunks = 64;

  bool matches_times() const { return kind == Kind::kExact || kind == Kind::kInterpolate; }
};

// What makes a sample of one modality unfit for use: mmedge/stream/sanity.py.
struct Sanity {
  bool finite = true;
  bool is_frozen_auto = true;
  std::optional<int64_t> frozen_after;  // where it is not auto; none: off
  std::optional<double> range_margin = 0.5;
};

// Options of every run of a stream's loop, as those of a call; what is left out is what the bundle says.
struct LoopOptions {
  std::optional<int64_t> limit;
  std::optional<std::vector<int64_t>> stop;
  std::optional<double> temperature;
  std::optional<int64_t> top_k;
  std::optional<double> top_p;
  uint64_t seed = 0;
  std::vector<int64_t> forced;  // [forced_rows, forced_count]
  int64_t forced_rows = 0, forced_count = 0;
  std::optional<Tensor> noise;  // of a loop `denoise`

  // Whether any is stated.
  bool any() const {
    return limit || stop || temperature || top_k || top_p || seed != 0 || !forced.empty() || noise;
  }
};

// Arguments of mmedge.stream.Stream.
struct StreamOptions {
  std::string plan;                  // that was loaded; empty: "cut" where there is one, or "whole"
  std::string trigger;               // a modality or "any"; empty: `trigger_hz`
  std::optional<double> trigger_hz;
  std::optional<double> deadline_ms;
  std::map<std::string, Policy> align;
  std::map<std::string, Sanity> sanity;
  int64_t depth = 64;
  int64_t keep = 16;
  double future = 1.0;
  int64_t recover_after = 3;
  // Seconds after which a state begins anew, by modality and fusion stage; and of all of them.
  std::map<std::string, double> reset_after;
  std::optional<double> reset_all_after;
  bool cancels = false;  // a newer trigger ends a loop; else it waits for the end
  // Largest sizes to set memory aside for, by dimension: needed where the bundle states none, and
  // may be below what it states. A push of a larger size is refused.
  std::map<std::string, int64_t> largest;
};

// Stages with state that a stream runs.
struct StatePlan {
  std::vector<bool> encoders;       // by modality
  std::vector<std::string> fusion;  // names of stages, in the plan's order
};

// Modalities that trigger, by their place, and the rate of triggers in Hz where it is known.
struct TriggerPlan {
  std::vector<bool> modalities;
  bool is_timer = false;
  std::optional<double> rate;
};

// What says whether sizes go together. The functions are called for each result, and allocate
// nothing; sizes are in the order of the manifest's dimensions by name, -1 where there is none.
class SizeRules {
 public:
  virtual ~SizeRules() = default;
  virtual bool any() const noexcept = 0;
  // Whether a relation is broken; says which in `text`, of `capacity` bytes with a final 0.
  virtual bool is_broken(const int64_t* sizes, char* text, size_t capacity) const noexcept = 0;
};

// Each throws Error(kInput): a name or number that Python refuses, too.
TriggerPlan read_trigger(const StreamOptions& options, const Manifest& manifest);
void check_options(const StreamOptions& options, const Manifest& manifest);
StatePlan read_states(const std::vector<const Stage*>& stages, const Manifest& manifest);
// Seconds after which a state begins anew, by name.
std::map<std::string, double> read_reset_after(const StreamOptions& options, const StatePlan& states,
                                               const Manifest& manifest);
// `inputs` are the modality's. `has_state`: of its encoder.
void check_policy(const Policy& policy, const Modality& modality,
                  const std::vector<TensorSpec>& inputs, const Manifest& manifest,
                  const SizeRules* rules, bool has_state);
// The axis of a window's rows in an input.
size_t row_axis(const Policy& policy, const TensorSpec& input);
// Slices of one input of a modality.
std::vector<Slice> slices_of(const Slices& slices, const std::string& input);

}  // namespace mmedge::runtime::stream

#endif  // MMEDGE_RUNTIME_STREAM_OPTIONS_H_
