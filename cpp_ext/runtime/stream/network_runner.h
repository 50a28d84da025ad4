// Runs the stages of a loaded network for a stream.
#ifndef MMEDGE_RUNTIME_STREAM_NETWORK_RUNNER_H_
#define MMEDGE_RUNTIME_STREAM_NETWORK_RUNNER_H_

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "backends/backend.h"
#include "execution/call_error.h"
#include "pipeline.h"
#include "schema/constraints.h"
#include "stream/kept_tensor.h"
#include "stream/largest_sizes.h"
#include "stream/stage_runner.h"
#include "stream/stream_loop.h"

namespace mmedge::runtime::stream {

// Features and outputs stay where the engine made them, and are handed on without a copy; those that
// are states, too, and inputs that a fusion stage or a loop takes itself, are copied to memory that is
// set aside. What an engine allocates in its runs is its own share.
class NetworkRunner : public StageRunner {
 public:
  // `largest`: as StreamOptions has it. `costs`: seconds that a run of each stage takes on a simulated
  // clock, by name. Throws Error(kBackend): a session gives no further slot; kInput: a dimension
  // without largest size, or an option of the loop that does not fit.
  NetworkRunner(std::shared_ptr<const Network> network,
                const std::map<std::string, int64_t>& largest, const LoopOptions& loop = {},
                const std::map<std::string, double>& costs = {});

  void reserve(size_t modality, size_t slots, const size_t* input_bytes) override;
  void reserve_results(size_t slots) override;
  Code encode(size_t modality, const TensorView* inputs, bool goes_on, size_t slot,
              double* seconds) noexcept override;
  void keep_states(size_t modality) noexcept override;
  Code stand_in(size_t modality, const int64_t* sizes, size_t slot,
                double* seconds) noexcept override;
  Code fuse(const FusionPart* parts, const uint8_t* goes_on, size_t result,
            double* seconds) noexcept override;
  void keep_fusion_states(const uint8_t* which) noexcept override;
  bool has_loop() const noexcept override { return loop_.has_value(); }
  Code step(bool* more, double* seconds) noexcept override;
  Code end(LoopFinish why, size_t result, bool* has_outputs, double* seconds) noexcept override;
  const char* message(int modality) const noexcept override {
    return (modality < 0 ? lanes_.back() : lanes_[static_cast<size_t>(modality)]).message;
  }

  // The network's output of that place, of a result: until its slot is used again.
  const TensorView& output(size_t result, size_t place) const noexcept {
    return results_[result].tensors[place].view;
  }
  // What the loop gave, where there is one.
  const LoopOutputs& loop_outputs(size_t result) const noexcept { return results_[result].loop; }

 private:
  // Where a tensor comes from: an input of a modality, a feature of one, an output of a stage that
  // runs together with the taker, or the state of the taker.
  struct Source {
    enum class Kind { kInput, kFeature, kStage, kState };
    Kind kind;
    size_t of;     // the modality, or the stage's place in the plan
    size_t place;  // among its inputs, features or outputs
  };
  struct Step {
    size_t stage;
    std::vector<Source> inputs;             // in the session's order
    std::vector<std::vector<int>> places;   // of each: dimension_places()
    size_t flag = 0;                        // of its states, among those of a run
  };
  // What one thread runs: a modality's encoder, or all that makes a result, with stand-ins.
  struct Lane {
    std::vector<std::unique_ptr<RunSlot>> slots;  // by stage; null: it does not run it
    std::vector<FirstMemory> first;               // by stage
    std::vector<std::vector<Value>> values;       // of the last run, by stage and output
    std::vector<int64_t> sizes;
    CallError error;
    char message[512] = "";
  };
  // Of a stage: those that are kept, and those that its last run left.
  struct States {
    std::vector<Value> kept, made;
  };
  // What is kept of a modality after its encoder.
  struct Features {
    std::vector<KeptTensor> tensors;           // by feature
    std::vector<std::vector<uint8_t>> memory;  // by input: of those that others take
    std::vector<TensorView> inputs;            // without data where nobody takes them
  };
  struct ModalityPlan {
    std::vector<Step> steps;
    std::vector<std::pair<size_t, size_t>> features;  // stage and output
    std::vector<bool> takes_input;               // by input: whether a fusion stage or the loop does
    std::vector<Features> slots;
    std::vector<std::vector<uint8_t>> stand_in;  // memory of its inputs
    std::vector<TensorView> stand_in_views;
  };
  struct Outputs {
    std::vector<KeptTensor> tensors;  // of the network
    LoopOutputs loop;
  };
  // A boundary that the loop takes.
  struct LoopTensor {
    size_t stage, boundary;
    Source source;
  };

  void connect_stages();
  void connect_outputs();
  void connect_loop();
  void make_lanes();
  void add_stage(Lane* lane, size_t stage);
  Source find_source(const std::string& tensor, int modality);
  size_t feature(size_t modality, size_t stage, size_t output);
  bool is_state(size_t stage, size_t output) const noexcept;
  // Runs stages; where their inputs are is said by `inputs` of the one modality, or `parts`. `goes_on`
  // is by the steps' flags; null: on first states.
  Code run(Lane* lane, const std::vector<Step>& steps, const TensorView* inputs,
           const FusionPart* parts, const uint8_t* goes_on, double* seconds) noexcept;
  Code set_input(Lane* lane, size_t stage, size_t at, const Source& source,
                 const TensorView* inputs, const FusionPart* parts) noexcept;
  Code enter_states(Lane* lane, const Step& step, bool goes_on) noexcept;
  Code check_states(Lane* lane, size_t stage) noexcept;
  // Moves what a run left of states to where it waits for keep_states().
  void leave_states(Lane* lane, const std::vector<Step>& steps) noexcept;
  Code keep_features(Lane* lane, size_t modality, const TensorView* inputs, size_t slot) noexcept;
  Code keep_outputs(Lane* lane, const FusionPart* parts, Outputs* to) noexcept;
  const TensorView* inputs_of(size_t modality, const FusionPart& part) const noexcept;
  Code begin_loop(const FusionPart* parts) noexcept;
  void reserve_loop();
  Code fail(Lane* lane, Code code, const char* text) noexcept;
  double cost(size_t stage) const noexcept { return costs_[stage]; }

  std::shared_ptr<const Network> network_;
  Relations relations_;
  LargestSizes largest_;
  std::vector<Lane> lanes_;      // by modality; the last is that of results
  std::vector<States> states_;   // by stage
  std::vector<ModalityPlan> modalities_;
  std::vector<Step> fusion_;
  std::vector<size_t> fusion_states_;  // stages with state
  std::vector<Source> outputs_;        // of the network
  std::vector<size_t> output_bytes_;   // most, of those that are copied
  std::optional<StreamLoop> loop_;
  std::vector<LoopTensor> loop_tensors_;
  std::vector<double> costs_;          // by stage
  double step_cost_ = 0, end_cost_ = 0;
  std::vector<Outputs> results_;
  std::shared_ptr<const Samples> samples_;  // where the tokens are
  std::vector<TensorView> tokens_;          // by input of the network
  std::vector<int64_t> sizes_, scratch_;
};

}  // namespace mmedge::runtime::stream

#endif  // MMEDGE_RUNTIME_STREAM_NETWORK_RUNNER_H_
