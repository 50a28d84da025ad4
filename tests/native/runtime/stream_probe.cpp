// Plays schedules of streams (conformance/README.md) on a simulated clock: a line of JSON each on
// the standard input, and what came of it, a line each, on the standard output.
//
// Arguments: the folder of the bundles, and ONNX Runtime's library, which runs the stages; without
// it they compute nothing, and no call of a stream may take memory. A stream that C++ refuses is
// said to be left out. A schedule with "own_clock": true is played on a clock of the caller's, which
// stages move on while they run; a snapshot of the counters follows each event.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <iostream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "allocation_guard.h"
#include "backends/onnxruntime/session.h"
#include "bundle/bundle.h"
#include "pipeline.h"
#include "stream/network_runner.h"
#include "stream/stream.h"

using mmedge::runtime::AllocationGuard;
using mmedge::runtime::Bundle;
using mmedge::runtime::Code;
using mmedge::runtime::DType;
using mmedge::runtime::Error;
using mmedge::runtime::Manifest;
using mmedge::runtime::Network;
using mmedge::runtime::Stage;
using mmedge::runtime::Tensor;
using mmedge::runtime::TensorView;
using nlohmann::json;
namespace stream = mmedge::runtime::stream;

// Its memory is given back by the guard's `delete`, too.
__attribute__((noinline)) void* operator new(size_t size, const std::nothrow_t&) noexcept {
  return operator new(size);
}

namespace {

std::string plan_of(const Manifest& manifest) {
  for (const std::string& name : manifest.plan_names()) {
    if (name == "cut") return name;
  }
  return "whole";
}

// A clock of the caller's: it moves when a stage runs, and between events.
struct OwnClock {
  double time = 0;

  static double read(void* context) { return static_cast<OwnClock*>(context)->time; }
};

// Stages that cost what a schedule says, and fail on what it says. `stages` runs them; null: nothing
// is computed.
class ScheduledStages : public stream::StageRunner {
 public:
  ScheduledStages(const Manifest& manifest, const json& schedule, stream::NetworkRunner* stages,
                  OwnClock* clock)
      : every_(schedule["fail_every"]), stages_(stages), clock_(clock) {
    encoders_.resize(manifest.modalities.size());
    for (const Stage* stage : manifest.in_order(plan_of(manifest))) {
      Run run{stage->name, schedule["costs"].value(stage->name, 0.0), -1};
      if (!stage->modality) {
        fusion_.push_back(run);
        continue;
      }
      for (size_t i = 0; i < encoders_.size(); ++i) {
        const mmedge::runtime::Modality& modality = manifest.modalities[i];
        if (modality.name != *stage->modality) continue;
        const std::string failing = schedule["failing"].value(stage->name, "");
        for (size_t k = 0; k < modality.inputs.size(); ++k) {
          if (modality.inputs[k] == failing) run.input = static_cast<int>(k);
        }
        encoders_[i].push_back(run);
      }
    }
  }

  void reserve(size_t modality, size_t slots, const size_t* input_bytes) override {
    if (stages_ != nullptr) stages_->reserve(modality, slots, input_bytes);
  }
  void reserve_results(size_t slots) override {
    if (stages_ != nullptr) stages_->reserve_results(slots);
  }

  Code encode(size_t modality, const TensorView* inputs, size_t slot,
              double* seconds) noexcept override {
    for (const Run& run : encoders_[modality]) {
      spend(run, seconds);
      if (every_ == 0 || run.input < 0 || inputs[run.input].elements() == 0) continue;
      const int64_t number = first(inputs[run.input]);
      if (number == 0 || number % every_ != 0) continue;
      std::snprintf(message_, sizeof message_, "BackendError: %s failed on %lld", run.name.c_str(),
                    static_cast<long long>(number));
      return Code::kBackend;
    }
    return stages_ == nullptr ? Code::kOk : told(stages_->encode(modality, inputs, slot, seconds));
  }

  Code stand_in(size_t modality, const int64_t* sizes, size_t slot,
                double* seconds) noexcept override {
    for (const Run& run : encoders_[modality]) spend(run, seconds);
    return stages_ == nullptr ? Code::kOk : told(stages_->stand_in(modality, sizes, slot, seconds));
  }

  Code fuse(const stream::FusionPart* parts, size_t result, double* seconds) noexcept override {
    for (const Run& run : fusion_) spend(run, seconds);
    return stages_ == nullptr ? Code::kOk : told(stages_->fuse(parts, result, seconds));
  }

  const char* message() const noexcept override { return message_; }

 private:
  struct Run {
    std::string name;
    double cost;
    int input;  // whose first element says whether it fails; -1: it does not
  };

  void spend(const Run& run, double* seconds) noexcept {
    if (clock_ != nullptr) {
      clock_->time += run.cost;
    } else {
      *seconds += run.cost;
    }
  }

  Code told(Code code) noexcept {
    if (code != Code::kOk) std::snprintf(message_, sizeof message_, "%s", stages_->message());
    return code;
  }

  static int64_t first(const TensorView& view) {
    switch (view.dtype) {
      case DType::kFloat32: {
        const float value = *static_cast<const float*>(view.data);
        return std::isfinite(value) ? static_cast<int64_t>(value) : 0;
      }
      case DType::kInt64:
        return *static_cast<const int64_t*>(view.data);
      default:
        return 0;
    }
  }

  int64_t every_;
  stream::NetworkRunner* stages_;
  OwnClock* clock_;
  std::vector<std::vector<Run>> encoders_;
  std::vector<Run> fusion_;
  char message_[256] = "";
};

std::optional<double> number(const json& tree, const char* name) {
  const auto found = tree.find(name);
  if (found == tree.end() || found->is_null()) return std::nullopt;
  return found->get<double>();
}

stream::Slices read_slices(const json& tree) {
  stream::Slices slices;
  const auto read = [](const json& group) {
    std::vector<stream::Slice> read_group;
    for (const json& pair : group) read_group.push_back({pair[0], pair[1]});
    return read_group;
  };
  if (tree.is_object()) {
    for (const auto& [name, group] : tree.items()) slices[name] = read(group);
  } else if (!tree.empty()) {
    slices[""] = read(tree);
  }
  return slices;
}

stream::Policy read_policy(const json& tree) {
  using Kind = stream::Policy::Kind;
  const std::map<std::string, Kind> kinds = {{"Latest", Kind::kLatest},
                                             {"Hold", Kind::kHold},
                                             {"Exact", Kind::kExact},
                                             {"Interpolate", Kind::kInterpolate},
                                             {"Window", Kind::kWindow}};
  stream::Policy policy;
  policy.kind = kinds.at(tree["policy"]);
  policy.max_age_ms = number(tree, "max_age_ms");
  policy.wait_ms = tree.value("wait_ms", 0.0);
  policy.tolerance_ms = tree.value("tolerance_ms", 0.0);
  if (tree.contains("quaternions")) policy.quaternions = read_slices(tree["quaternions"]);
  if (tree.contains("angles")) policy.angles = read_slices(tree["angles"]);
  policy.length = tree.value("length", 0);
  policy.hop = tree.value("hop", 1);
  if (tree.contains("axis") && !tree["axis"].is_null()) policy.axis = tree["axis"].get<int64_t>();
  policy.rate_hz = number(tree, "rate_hz");
  policy.max_gap_ms = number(tree, "max_gap_ms");
  policy.chunks = tree.value("chunks", 64);
  policy.chunk_rows = tree.value("chunk_rows", 0);
  return policy;
}

stream::StreamOptions read_options(const json& tree) {
  stream::StreamOptions options;
  if (tree["trigger"].is_string()) {
    options.trigger = tree["trigger"];
  } else {
    options.trigger_hz = tree["trigger"].get<double>();
  }
  options.deadline_ms = number(tree, "deadline_ms");
  options.depth = tree.value("depth", options.depth);
  options.keep = tree.value("keep", options.keep);
  options.future = tree.value("future", options.future);
  options.recover_after = tree.value("recover_after", options.recover_after);
  for (const auto& [name, policy] : tree["align"].items()) {
    options.align[name] = read_policy(policy);
  }
  for (const auto& [name, given] : tree["sanity"].items()) {
    stream::Sanity sanity;
    sanity.finite = given.value("finite", true);
    const json after = given.value("frozen_after", json("auto"));
    sanity.is_frozen_auto = after.is_string();
    if (after.is_number()) sanity.frozen_after = after.get<int64_t>();
    sanity.range_margin = number(given, "range_margin");
    options.sanity[name] = sanity;
  }
  return options;
}

Tensor read_tensor(DType dtype, const json& tree) {
  Tensor tensor;
  tensor.dtype = dtype;
  tensor.shape = tree[0].get<std::vector<int64_t>>();
  const size_t size = mmedge::runtime::item_size(dtype);
  tensor.data.resize(tree[1].size() * size);
  uint8_t* at = tensor.data.data();
  for (const json& element : tree[1]) {
    if (dtype == DType::kFloat32) {
      const float value = element.is_null() ? NAN : element.get<float>();
      std::memcpy(at, &value, size);
    } else if (dtype == DType::kFloat64) {
      const double value = element.is_null() ? NAN : element.get<double>();
      std::memcpy(at, &value, size);
    } else {
      const int64_t value = element.is_boolean() ? element.get<bool>() : element.get<int64_t>();
      std::memcpy(at, &value, size);
    }
    at += size;
  }
  return tensor;
}

json counts(const stream::DropCounts& drops) {
  json tree = json::object();
  for (size_t i = 0; i < stream::kDropReasons; ++i) {
    if (drops.counts[i] == 0) continue;
    tree[stream::drop_reason_name(static_cast<stream::DropReason>(i))] = drops.counts[i];
  }
  return tree;
}

void put(json* row, const char* name, const json& value) {
  if (!value.empty() && !value.is_null() && value != "") (*row)[name] = value;
}

std::string text(const stream::Text& of) { return std::string(of.view()); }

// A floating-point output: its shape and elements.
json show(const TensorView& view) {
  json elements = json::array();
  for (int64_t i = 0; i < view.elements(); ++i) {
    const float value = static_cast<const float*>(view.data)[i];
    elements.push_back(std::isnan(value) ? json(nullptr) : json(static_cast<double>(value)));
  }
  return json::array({std::vector<int64_t>(view.shape, view.shape + view.rank), elements});
}

json show(const Manifest& manifest, const stream::Result& result, stream::NetworkRunner* stages) {
  json ages, samples, absent, dropped, notes;
  for (size_t i = 0; i < result.modalities.size(); ++i) {
    const stream::ModalityResult& part = result.modalities[i];
    const std::string& name = manifest.modalities[i].name;
    ages[name] = part.age ? json(*part.age) : json(nullptr);
    for (const stream::Used& used : part.samples) {
      samples[name].push_back(json::array({used.seq, used.t}));
    }
    put(&absent, name.c_str(), text(part.absent));
    put(&dropped, name.c_str(), counts(part.dropped));
    put(&notes, name.c_str(), text(part.note));
  }
  json row = {{"t", result.t},
              {"made", result.made},
              {"latency", result.latency},
              {"ages", ages},
              {"fresh", result.fresh},
              {"lateness", result.lateness}};
  put(&row, "samples", samples);
  put(&row, "absent", absent);
  put(&row, "dropped", dropped);
  put(&row, "notes", notes);
  put(&row, "reason", text(result.reason));
  if (result.met) row["met"] = *result.met;
  if (result.outputs_t) row["outputs_t"] = *result.outputs_t;
  if (result.has_outputs) row["outputs"] = true;
  for (size_t i = 0; i < manifest.outputs.size() && stages != nullptr && result.has_outputs; ++i) {
    if (i == 0) row["outputs"] = json::object();
    row["outputs"][manifest.outputs[i]] = show(stages->output(static_cast<size_t>(result.slot), i));
  }
  if (result.trigger >= 0) {
    row["trigger"] = manifest.modalities[static_cast<size_t>(result.trigger)].name;
  }
  return row;
}

void put_count(json* row, const char* name, int64_t value) {
  if (value != 0) (*row)[name] = value;
}

json show(const Manifest& manifest, const stream::Health& health) {
  json row = {{"modalities", json::object()}};
  for (size_t i = 0; i < health.modalities.size(); ++i) {
    const stream::ModalityHealth& state = health.modalities[i];
    json part = json::object();
    put_count(&part, "pushed", state.pushed);
    put_count(&part, "used", state.used);
    put(&part, "dropped", counts(state.dropped));
    put_count(&part, "pending", state.pending);
    if (state.present) part["present"] = true;
    put(&part, "reason", text(state.reason));
    put_count(&part, "encodes", state.encodes);
    put_count(&part, "encodes_skipped", state.encodes_skipped);
    put_count(&part, "errors", state.errors);
    put(&part, "last_error", text(state.last_error));
    put_count(&part, "clock_jumps", state.clock_jumps);
    put_count(&part, "windows", state.windows);
    put_count(&part, "windows_used", state.windows_used);
    put(&part, "windows_dropped", counts(state.windows_dropped));
    put_count(&part, "windows_pending", state.windows_pending);
    row["modalities"][manifest.modalities[i].name] = part;
  }
  put_count(&row, "triggers", health.triggers);
  put_count(&row, "triggers_superseded", health.triggers_superseded);
  put_count(&row, "triggers_closed", health.triggers_closed);
  put_count(&row, "triggers_pending", health.triggers_pending);
  put_count(&row, "results", health.results);
  put_count(&row, "stale", health.stale);
  put_count(&row, "empty", health.empty);
  put_count(&row, "deadline_misses", health.deadline_misses);
  put_count(&row, "results_dropped", health.results_dropped);
  if (health.latency_p95 && *health.latency_p95 != 0) row["latency_p95"] = *health.latency_p95;
  return row;
}

// The place of a modality; past all of them where there is none of that name.
size_t place_of(const Manifest& manifest, const std::string& name) {
  for (size_t i = 0; i < manifest.modalities.size(); ++i) {
    if (manifest.modalities[i].name == name) return i;
  }
  return manifest.modalities.size();
}

json play(const Manifest& manifest, const json& schedule,
          const std::shared_ptr<const Network>& network) {
  json results = json::array(), healths = json::array(), errors = json::array();
  std::unique_ptr<stream::NetworkRunner> computes;
  try {
    if (network != nullptr) {
      computes = std::make_unique<stream::NetworkRunner>(network, std::map<std::string, int64_t>());
    }
  } catch (const Error& error) {
    return {{"left_out", error.what()}};
  }
  // An engine takes memory in its runs.
  const auto guarded = [&computes](auto call) {
    std::optional<AllocationGuard> guard;
    if (computes == nullptr) guard.emplace();
    return call();
  };
  const bool has_own_clock = schedule.value("own_clock", false);
  OwnClock own_clock;
  own_clock.time = schedule["start"];
  ScheduledStages stages(manifest, schedule, computes.get(), has_own_clock ? &own_clock : nullptr);
  stream::Clock clock;
  if (has_own_clock) clock = {OwnClock::read, &own_clock};
  std::unique_ptr<stream::Stream> runs;
  try {
    runs = std::make_unique<stream::Stream>(manifest, &stages, read_options(schedule["options"]),
                                            clock, schedule["start"].get<double>());
  } catch (const Error& error) {
    return {{"left_out", error.what()}};
  }
  std::map<std::string, DType> dtypes;
  for (const mmedge::runtime::TensorSpec& spec : manifest.inputs()) dtypes[spec.name] = spec.dtype;
  size_t event_number = 0;
  bool closed = false;
  for (const json& event : schedule["events"]) {
    const std::string what = event["do"];
    const double at = event["at"];
    if (has_own_clock) {
      // As a loop of a program does: it looks when something is due.
      while (runs->next_time() <= at && !closed) {
        own_clock.time = std::max(own_clock.time, runs->next_time());
        guarded([&] { return runs->advance_to(0); });
      }
      own_clock.time = std::max(own_clock.time, at);
    }
    Code code = guarded([&] { return runs->advance_to(at); });
    if (code == Code::kOk && what == "push") {
      const size_t place = place_of(manifest, event["modality"]);
      std::vector<Tensor> tensors;
      std::vector<TensorView> views;
      for (const std::string& name : manifest.modalities[place].inputs) {
        tensors.push_back(read_tensor(dtypes[name], event["inputs"][name]));
      }
      for (Tensor& tensor : tensors) views.push_back(tensor.view());
      const std::optional<double> t = number(event, "t");
      code = guarded([&] { return runs->push(place, views.data(), t, nullptr); });
    } else if (what == "forget") {
      const size_t place = place_of(manifest, event["modality"]);
      code = guarded([&] { return runs->forget(place); });
    } else if (what == "reset") {
      code = guarded([&] { return runs->reset(); });
    } else if (what == "health") {
      healths.push_back(show(manifest, *guarded([&] { return &runs->health(); })));
    } else if (what == "close") {
      guarded([&] { return runs->close(), 0; });
      closed = true;
    } else if (what == "fetch" || what == "latest") {
      const bool latest = what == "latest";
      while (const stream::Result* result = guarded([&] { return runs->take(latest); })) {
        results.push_back(show(manifest, *result, computes.get()));
      }
    }
    if (code != Code::kOk) {
      const char* kind = code == Code::kInput ? "InputError" : "BackendError";
      errors.push_back({{"event", event_number}, {"error", kind}});
    }
    if (has_own_clock) healths.push_back(show(manifest, runs->health()));
    ++event_number;
  }
  return {{"results", results}, {"healths", healths}, {"errors", errors}};
}

std::shared_ptr<const Network> load(const std::shared_ptr<Bundle>& bundle, const char* library) {
  mmedge::runtime::LoadOptions options;
  options.plan = plan_of(bundle->manifest());
  options.session.threads = 1;
  options.session.kernels = false;
  options.allow_unverified = options.allow_non_finite = true;
  mmedge::runtime::Backends backends;
  backends.add(mmedge::runtime::onnxruntime::make_backend(library, {}));
  try {
    return Network::load(bundle, backends, options);
  } catch (const Error&) {
    return nullptr;  // of a loop or a state, which the stream refuses, too
  }
}

}  // namespace

int main(int count, char** arguments) {
  std::map<std::string, std::shared_ptr<Bundle>> bundles;
  std::map<std::string, std::shared_ptr<const Network>> networks;
  std::string line;
  while (std::getline(std::cin, line)) {
    const json schedule = json::parse(line);
    const std::string name = schedule["bundle"];
    std::shared_ptr<Bundle>& bundle = bundles[name];
    if (bundle == nullptr) {
      bundle = Bundle::open(std::string(arguments[1]) + "/" + name + ".mmedge");
      if (count > 2) networks[name] = load(bundle, arguments[2]);
    }
    const std::string row = play(bundle->manifest(), schedule, networks[name]).dump();
    std::printf("%s\n", row.c_str());
  }
  return 0;
}
