// A stage alone on golden tensors shows the stage that errs, and not the ones behind it.
#include "execution/verify.h"

#include <cstdio>
#include <set>

#include "error.h"
#include "execution/verify_loop.h"

namespace mmedge::runtime {
namespace {

constexpr const char* kWhole = "(whole network)";
constexpr const char* kLoop = "(loop)";

// Comparisons by stage and output, in the order in which they came first.
class Comparisons {
 public:
  explicit Comparisons(const Pipeline& pipeline)
      : variant_(pipeline.network()->variant()),
        parts_(pipeline.network()->plan().plan == "cut") {
    for (const LoopStage& stage : pipeline.network()->loop_stages()) {
      loop_stages_.insert(stage.stage->name);
    }
  }

  void add(const std::string& stage, const std::string& output, const TensorView& got,
           const TensorView& golden) {
    for (Entry& entry : entries_) {
      if (entry.stage == stage && entry.output == output) {
        entry.comparison.add(got, golden);
        return;
      }
    }
    Tolerance tolerance = variant_.tolerance;
    // A stage that is all of the network has errors that add up as those of all stages do.
    if (loop_stages_.count(stage) > 0 || (parts_ && stage != kWhole && stage != kLoop)) {
      const auto own = variant_.tolerances.find(output);
      if (own != variant_.tolerances.end()) tolerance = own->second;
    }
    entries_.push_back({stage, output, tolerance, OutputComparison(tolerance)});
    entries_.back().comparison.add(got, golden);
  }

  std::vector<VerifiedOutput> result() const {
    std::vector<VerifiedOutput> outputs;
    for (const Entry& entry : entries_) {
      outputs.push_back({entry.stage, entry.output, entry.tolerance, entry.comparison.result()});
    }
    return outputs;
  }

 private:
  struct Entry {
    std::string stage;
    std::string output;
    Tolerance tolerance;
    OutputComparison comparison;
  };

  const Variant& variant_;
  bool parts_;
  std::set<std::string> loop_stages_;
  std::vector<Entry> entries_;
};

const TensorView& golden(const Sample& sample, const std::string& name) {
  if (const auto step = sample.step.find(name); step != sample.step.end()) return step->second;
  const auto input = sample.inputs.find(name);
  return input != sample.inputs.end() ? input->second : sample.outputs.at(name);
}

}  // namespace

void Verification::check() const {
  for (const VerifiedOutput& output : outputs) {
    if (output.worst.passes()) continue;
    char text[400];
    std::snprintf(text, sizeof text,
                  " differs from the golden samples by %.3g (relative %.3g%s%s), %.3g times what "
                  "rtol=%g, atol=%g allows. Build the variant again on this device, or use another "
                  "one (mmedge inspect lists them)",
                  output.worst.max_abs, output.worst.max_rel,
                  output.worst.where.empty() ? "" : ", scale of ", output.worst.where.c_str(),
                  output.worst.limit_used, output.tolerance.rtol, output.tolerance.atol);
    throw Error(Code::kAccuracy, "variant " + variant + ": output '" + output.output +
                                     "' of stage '" + output.stage + "'" + text);
  }
}

Verification verify(Pipeline& pipeline) {
  const Network& network = *pipeline.network();
  const std::shared_ptr<const Samples> samples = network.bundle().samples();
  if (samples->golden.empty()) {
    throw Error(Code::kBundle,
                network.bundle().path() + ": no golden samples; export the bundle again");
  }
  struct Alone {
    const std::string& name;
    const Session& session;
    std::unique_ptr<RunSlot> slot;
  };
  std::vector<Alone> alone;
  for (const PlanStage& stage : network.stages()) {
    alone.push_back({stage.stage->name, *stage.session, stage.session->make_slot()});
  }
  for (const LoopStage& stage : network.loop_stages()) {
    alone.push_back({stage.stage->name, *stage.session, stage.session->make_slot()});
  }
  Comparisons comparisons(pipeline);
  std::vector<TokenChoice> choices;
  const auto check = [](Code code, const char* message) {
    if (code != Code::kOk) throw Error(code, message);
  };
  for (const Sample& sample : samples->golden) {
    for (const Alone& stage : alone) {
      const std::vector<TensorSpec>& taken = stage.session.inputs();
      for (size_t i = 0; i < taken.size(); ++i) {
        check(stage.slot->set_input(i, golden(sample, taken[i].name)), stage.slot->message());
      }
      check(stage.slot->run(), stage.slot->message());
      const std::vector<TensorSpec>& outputs = stage.session.outputs();
      for (size_t o = 0; o < outputs.size(); ++o) {
        const Value made = stage.slot->take_output(o);
        comparisons.add(stage.name, outputs[o].name, made.view(),
                        sample.outputs.at(outputs[o].name));
      }
    }
    if (!network.loop_stages().empty()) {
      const auto compare = [&](const std::string& name, const TensorView& got,
                               const TensorView& expected) {
        comparisons.add(kLoop, name, got, expected);
      };
      if (network.token_loop() != nullptr) {
        replay_generate(&pipeline, sample, compare, &choices);
      } else {
        replay_denoise(&pipeline, sample, compare);
      }
      continue;
    }
    std::vector<NamedTensor> inputs;
    for (const auto& [name, view] : sample.inputs) inputs.push_back({name.c_str(), view, 0});
    // States begin with what they were in the sample.
    const std::vector<StateSpec>& states = network.manifest().states;
    std::unique_ptr<State> state;
    if (!states.empty()) {
      state = std::make_unique<State>(pipeline.network());
      state->position = 1;
      for (size_t i = 0; i < states.size(); ++i) {
        state->tensors[i].copy(sample.step.at(states[i].input));
      }
    }
    // Not cached: content that comes again must be computed again to prove anything.
    check(pipeline.run(inputs.data(), inputs.size(), false, state.get()), pipeline.message());
    for (size_t o = 0; o < network.outputs().size(); ++o) {
      const std::string& name = network.outputs()[o].name;
      comparisons.add(kWhole, name, pipeline.output(o), sample.outputs.at(name));
    }
  }
  Verification told{network.variant().id(), samples->golden.size(), comparisons.result()};
  if (network.token_loop() != nullptr) {
    const Tolerance& tolerance = network.variant().tolerance;
    told.outputs.push_back({kLoop, "tokens", tolerance, worst_choice(choices, tolerance)});
  }
  return told;
}

}  // namespace mmedge::runtime
