// Plays schedules of streams (conformance/README.md) on a simulated clock: a line of JSON each on
// the standard input, and what came of it, a line each, on the standard output.
//
// Arguments: the folder of the bundles, and ONNX Runtime's library, which runs the stages. But for the
// engine no call of a stream may take memory. A stream that is refused is said to be "refused". A
// schedule with "own_clock": true is played on a clock of the caller's, which stages move on while they
// run; a snapshot of the counters follows each event, and no other. Of such a clock an event may have
// "clock", what it is set ahead by before the event, in seconds, or "wrong": what its next reading is
// ahead by. Null stands for NaN. "sets" lists when else it is set, also while a stage runs: time, seconds.
// One with "threads": true is played by a stream with threads of its own, whose clock stands still while
// they work.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <iostream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "bundle/bundle.h"
#include "pipeline.h"
#include "scripted_engine.h"
#include "stream/network_runner.h"
#include "stream/stream.h"
#include "stream/threaded_stream.h"

using mmedge::runtime::AllocationGuard;
using mmedge::runtime::Bundle;
using mmedge::runtime::Code;
using mmedge::runtime::DType;
using mmedge::runtime::Error;
using mmedge::runtime::Manifest;
using mmedge::runtime::make_scripted_engine;
using mmedge::runtime::Network;
using mmedge::runtime::OwnClock;
using mmedge::runtime::script;
using mmedge::runtime::Tensor;
using mmedge::runtime::TensorView;
using nlohmann::json;
namespace stream = mmedge::runtime::stream;

namespace {

std::string plan_of(const Manifest& manifest) {
  for (const std::string& name : manifest.plan_names()) {
    if (name == "cut") return name;
  }
  return "whole";
}

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
  options.cancels = tree.value("newer_trigger", "wait") == "cancel";
  options.largest = tree.value("largest", options.largest);
  if (const auto after = tree.find("reset_after"); after != tree.end()) {
    if (after->is_number()) options.reset_all_after = after->get<double>();
    if (after->is_object()) options.reset_after = after->get<std::map<std::string, double>>();
  }
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

stream::LoopOptions read_loop_options(const json& tree) {
  stream::LoopOptions options;
  const auto found = tree.find("loop_options");
  if (found == tree.end()) return options;
  options.seed = found->value("seed", options.seed);
  if (found->contains("limit")) options.limit = (*found)["limit"].get<int64_t>();
  if (found->contains("top_k")) options.top_k = (*found)["top_k"].get<int64_t>();
  options.temperature = number(*found, "temperature");
  options.top_p = number(*found, "top_p");
  if (found->contains("stop")) options.stop = (*found)["stop"].get<std::vector<int64_t>>();
  if (const auto forced = found->find("forced"); forced != found->end()) {
    options.forced = (*forced)[1].get<std::vector<int64_t>>();
    options.forced_rows = (*forced)[0][0];
    options.forced_count = (*forced)[0][1];
  }
  if (found->contains("noise")) options.noise = read_tensor(DType::kFloat32, (*found)["noise"]);
  return options;
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

// An output: its shape and elements.
json show(const TensorView& view) {
  json elements = json::array();
  for (int64_t i = 0; i < view.elements(); ++i) {
    if (view.dtype == DType::kInt64) {
      elements.push_back(static_cast<const int64_t*>(view.data)[i]);
      continue;
    }
    const float value = static_cast<const float*>(view.data)[i];
    elements.push_back(std::isnan(value) ? json(nullptr) : json(static_cast<double>(value)));
  }
  return json::array({std::vector<int64_t>(view.shape, view.shape + view.rank), elements});
}

template <class Runs>
json show(const Network& network, const Runs& runs, const stream::Result& result,
          const stream::NetworkRunner& stages) {
  const Manifest& manifest = network.manifest();
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
  for (size_t i = 0; i < result.stage_notes.size(); ++i) {
    put(&notes, runs.states().stages()[i].name.c_str(), text(result.stage_notes[i]));
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
  if (result.has_outputs) {
    const auto slot = static_cast<size_t>(result.slot);
    json outputs = json::object();
    for (size_t i = 0; i < network.outputs().size(); ++i) {
      outputs[network.outputs()[i].name] = show(stages.output(slot, i));
    }
    if (stages.has_loop()) {
      const stream::LoopOutputs& loop = stages.loop_outputs(slot);
      for (size_t i = 0; i < loop.tensors.size(); ++i) {
        outputs[network.loop_outputs()[i].name] = show(loop.tensors[i].view);
      }
      json finish = json::array();
      for (size_t i = 0; i < loop.rows; ++i) {
        finish.push_back(mmedge::runtime::loop_finish_name(loop.finish[i]));
      }
      outputs["finish"] = network.token_loop() != nullptr ? finish : finish[0];
    }
    row["outputs"] = outputs;
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
    put_count(&part, "state_missed", state.state_missed);
    put_count(&part, "state_resets", state.state_resets);
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
  put_count(&row, "clock_jumps", health.clock_jumps);
  put_count(&row, "clock_glitches", health.clock_glitches);
  put(&row, "failure", text(health.failure));
  put_count(&row, "state_resets", health.state_resets);
  return row;
}

// The place of a modality; past all of them where there is none of that name.
size_t place_of(const Manifest& manifest, const std::string& name) {
  for (size_t i = 0; i < manifest.modalities.size(); ++i) {
    if (manifest.modalities[i].name == name) return i;
  }
  return manifest.modalities.size();
}

void set_clock(OwnClock* clock, const json& event) {
  if (const auto set = event.find("clock"); set != event.end()) {
    clock->offset += set->is_null() ? NAN : set->get<double>();
  }
  if (!event.contains("wrong")) return;
  clock->wrong = event["wrong"].is_null() ? NAN : event["wrong"].get<double>();
}

// A stream with threads, whose calls return when nothing is left to do.
class SettledStream {
 public:
  SettledStream(const Manifest& manifest, stream::StageRunner* stages,
                const stream::StreamOptions& options, stream::Clock clock, double)
      : stream_(manifest, stages, options, clock, {}, nullptr, nullptr) {
    stream_.begin();
  }

  Code push(size_t modality, const TensorView* inputs, std::optional<double> t, int64_t* seq) {
    const stream::Lock gate(stream_.gate(modality));
    const size_t count = stream_.input_count(modality);
    std::copy(inputs, inputs + count, stream_.inputs(modality));
    return settle(stream_.push(modality, t, seq));
  }
  Code forget(size_t modality) { return settle(stream_.forget(modality, &error_)); }
  Code reset() { return settle(stream_.reset(&error_)); }
  Code advance_to(double) { return settle(Code::kOk); }
  void close() { stream_.stop(); }
  double next_time() { return stream_.next_time(); }
  const stream::Result* take(bool latest) {
    const stream::Result* result = nullptr;
    stream_.take(latest, &result, &error_);
    return result;
  }
  const stream::Health& health() {
    const stream::Lock lock(stream_.mutex());
    return stream_.health();
  }
  const stream::FusionStates& states() const { return stream_.states(); }

 private:
  Code settle(Code code) {
    while (!stream_.is_idle()) std::this_thread::yield();
    return code;
  }

  mmedge::runtime::CallError error_;
  stream::ThreadedStream stream_;
};

template <class Runs>
json play(const std::shared_ptr<const Network>& network, const json& schedule) {
  const Manifest& manifest = network->manifest();
  json results = json::array(), healths = json::array(), errors = json::array();
  // Of threads, which take memory in the engine, others see to it.
  const bool has_threads = std::is_same_v<Runs, SettledStream>;
  const auto guarded = [](auto call) {
    std::optional<AllocationGuard> guard;
    if (!std::is_same_v<Runs, SettledStream>) guard.emplace();
    return call();
  };
  const bool has_own_clock = schedule.value("own_clock", false);
  OwnClock own_clock;
  own_clock.time = schedule["start"].get<double>();
  if (schedule.contains("sets")) own_clock.sets = schedule["sets"];
  stream::Clock clock;
  if (has_own_clock || has_threads) clock = {OwnClock::read, &own_clock, false, OwnClock::read_real};
  script = {schedule["failing"], schedule["fail_every"], schedule["costs"],
            has_own_clock ? &own_clock : nullptr, has_threads};
  std::unique_ptr<stream::NetworkRunner> stages;
  std::unique_ptr<Runs> runs;
  try {
    const stream::StreamOptions options = read_options(schedule["options"]);
    stages = std::make_unique<stream::NetworkRunner>(
        network, options.largest, read_loop_options(schedule["options"]),
        has_own_clock ? std::map<std::string, double>() : script.costs);
    runs = std::make_unique<Runs>(manifest, stages.get(), options, clock,
                                  schedule["start"].get<double>());
  } catch (const Error& error) {
    return {{"refused", error.what()}};
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
      while (runs->next_time() <= at + own_clock.ahead() && !closed) {
        own_clock.time = std::max(own_clock.time.load(), runs->next_time() - own_clock.ahead());
        guarded([&] { return runs->advance_to(0); });
        own_clock.time = own_clock.time + 1e-6;  // a call takes time: rounding may have left a tick a hair ahead
      }
      own_clock.time = std::max(own_clock.time.load(), at);
      set_clock(&own_clock, event);
    }
    if (has_threads) {
      while (runs->next_time() <= at && !closed) {
        own_clock.time = std::max(own_clock.time.load(), runs->next_time());
        runs->advance_to(0);
      }
      own_clock.time = std::max(own_clock.time.load(), at);
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
    } else if (what == "health" && !has_own_clock) {
      healths.push_back(show(manifest, *guarded([&] { return &runs->health(); })));
    } else if (what == "close") {
      guarded([&] { return runs->close(), 0; });
      closed = true;
    } else if (what == "fetch" || what == "latest") {
      const bool latest = what == "latest";
      while (const stream::Result* result = guarded([&] { return runs->take(latest); })) {
        results.push_back(show(*network, *runs, *result, *stages));
      }
    }
    if (code != Code::kOk) {
      const char* kind = code == Code::kInput ? "InputError" : "BackendError";
      errors.push_back({{"event", event_number}, {"error", kind}});
    }
    if (has_own_clock) {
      healths.push_back(show(manifest, *guarded([&] { return &runs->health(); })));
    }
    ++event_number;
  }
  return {{"results", results}, {"healths", healths}, {"errors", errors}};
}

std::shared_ptr<const Network> load(const std::string& path, const std::string& variant,
                                    const char* library) {
  const std::shared_ptr<Bundle> bundle = Bundle::open(path);
  mmedge::runtime::LoadOptions options;
  options.plan = plan_of(bundle->manifest());
  options.wish.variant = variant;
  options.session.threads = 1;
  options.session.kernels = false;
  options.allow_unverified = options.allow_non_finite = true;
  mmedge::runtime::Backends backends;
  backends.add(make_scripted_engine(library));
  return Network::load(bundle, backends, options);
}

}  // namespace

int main(int, char** arguments) {
  std::map<std::string, std::shared_ptr<const Network>> networks;
  std::string line;
  while (std::getline(std::cin, line)) {
    const json schedule = json::parse(line);
    const std::string name = schedule["bundle"];
    const std::string variant = schedule.value("variant", "");
    std::shared_ptr<const Network>& network = networks[name + " " + variant];
    if (network == nullptr) {
      network = load(std::string(arguments[1]) + "/" + name + ".mmedge", variant, arguments[2]);
    }
    const bool has_threads = schedule.value("threads", false);
    const std::string row = (has_threads ? play<SettledStream>(network, schedule)
                                         : play<stream::Stream>(network, schedule))
                                .dump();
    std::printf("%s\n", row.c_str());
  }
  return 0;
}
