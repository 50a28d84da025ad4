// A stage alone on golden tensors shows the stage that errs, and not the ones behind it.
#include "execution/verify.h"

#include <cstdio>

#include "error.h"

namespace mmedge::runtime {
namespace {

constexpr const char* kWhole = "(whole network)";

// Comparisons by stage and output, in the order in which they came first.
class Comparisons {
 public:
  explicit Comparisons(const Pipeline& pipeline)
      : variant_(pipeline.network()->variant()),
        parts_(pipeline.network()->plan().plan == "cut") {}

  void add(const std::string& stage, const std::string& output, const TensorView& got,
           const TensorView& golden) {
    for (Entry& entry : entries_) {
      if (entry.stage == stage && entry.output == output) {
        entry.comparison.add(got, golden);
        return;
      }
    }
    Tolerance tolerance = variant_.tolerance;
    if (parts_ && stage != kWhole) {
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
  std::vector<std::unique_ptr<RunSlot>> slots;
  for (const PlanStage& stage : network.stages()) slots.push_back(stage.session->make_slot());
  Comparisons comparisons(pipeline);
  const auto check = [](Code code, const char* message) {
    if (code != Code::kOk) throw Error(code, message);
  };
  for (const Sample& sample : samples->golden) {
    for (size_t s = 0; s < slots.size(); ++s) {
      const Session& session = *network.stages()[s].session;
      RunSlot& slot = *slots[s];
      for (size_t i = 0; i < session.inputs().size(); ++i) {
        check(slot.set_input(i, golden(sample, session.inputs()[i].name)), slot.message());
      }
      check(slot.run(), slot.message());
      for (size_t o = 0; o < session.outputs().size(); ++o) {
        const std::string& name = session.outputs()[o].name;
        comparisons.add(network.stages()[s].stage->name, name, slot.output(o),
                        sample.outputs.at(name));
      }
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
  return {network.variant().id(), samples->golden.size(), comparisons.result()};
}

}  // namespace mmedge::runtime
