// Runs the stages of a loaded network for a stream.
#ifndef MMEDGE_RUNTIME_STREAM_NETWORK_RUNNER_H_
#define MMEDGE_RUNTIME_STREAM_NETWORK_RUNNER_H_

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "backends/backend.h"
#include "pipeline.h"
#include "schema/constraints.h"
#include "stream/stage_runner.h"

namespace mmedge::runtime::stream {

// Features and outputs stay where the engine made them, and are handed on without a copy. Inputs
// that a fusion stage takes itself are copied to memory that reserve() sets aside. What an engine
// allocates in its runs is its own share.
class NetworkRunner : public StageRunner {
 public:
  // `largest`: as StreamOptions has it. Throws Error(kInput): there is a loop, or a stage with state;
  // kBackend: a session gives no further slot;
  // Error(kInput): a dimension of an output without largest size.
  NetworkRunner(std::shared_ptr<const Network> network,
                const std::map<std::string, int64_t>& largest);

  void reserve(size_t modality, size_t slots, const size_t* input_bytes) override;
  void reserve_results(size_t slots) override;
  Code encode(size_t modality, const TensorView* inputs, size_t slot,
              double* seconds) noexcept override;
  Code stand_in(size_t modality, const int64_t* sizes, size_t slot,
                double* seconds) noexcept override;
  Code fuse(const FusionPart* parts, size_t result, double* seconds) noexcept override;
  const char* message() const noexcept override { return message_; }

  // The network's output of that place, of a result: until its slot is used again.
  const TensorView& output(size_t result, size_t place) const noexcept {
    return results_[result].views[place];
  }

 private:
  // Where a tensor comes from: an input of a modality, a feature of one, or an output of a stage
  // that runs together with the taker.
  struct Source {
    enum class Kind { kInput, kFeature, kStage };
    Kind kind;
    size_t of;     // the modality, or the stage's place in the plan
    size_t place;  // among its inputs, features or outputs
  };
  struct Step {
    size_t stage;
    std::vector<Source> inputs;  // in the session's order
  };
  // What is kept of a modality after its encoder.
  struct Features {
    std::vector<Value> values;                 // by feature
    std::vector<std::vector<uint8_t>> memory;  // by input: of those that a fusion stage takes
    std::vector<TensorView> inputs;
  };
  struct ModalityPlan {
    std::vector<Step> steps;
    std::vector<std::pair<size_t, size_t>> features;  // stage and output
    std::vector<bool> takes_input;                    // by input: whether a fusion stage does
    std::vector<Features> slots;
    std::vector<std::vector<uint8_t>> stand_in;       // memory of its inputs
    std::vector<TensorView> stand_in_views;
  };
  struct Outputs {
    std::vector<Value> values;
    std::vector<std::vector<uint8_t>> memory;  // of those that are features
    std::vector<TensorView> views;
  };

  Source find_source(const std::string& tensor, int modality) const;
  size_t feature(size_t modality, size_t stage, size_t output);
  size_t most_bytes(const TensorSpec& spec, const std::map<std::string, int64_t>& largest) const;
  // Runs stages; where their inputs are is said by `inputs` of the one modality, or `parts`.
  Code run(const std::vector<Step>& steps, const TensorView* inputs,
           const FusionPart* parts) noexcept;
  Code set_input(RunSlot* slot, size_t at, const Source& source, const TensorView* inputs,
                 const FusionPart* parts) noexcept;
  Code fail(Code code, const char* text) noexcept;

  std::shared_ptr<const Network> network_;
  Relations relations_;
  std::vector<std::unique_ptr<RunSlot>> slots_;  // by stage
  std::vector<std::vector<Value>> values_;       // of the last run, by stage and output
  std::vector<ModalityPlan> modalities_;
  std::vector<Step> fusion_;
  std::vector<Source> outputs_;        // of the network
  std::vector<size_t> output_bytes_;   // most, of those that are features
  std::vector<Outputs> results_;
  std::shared_ptr<const Samples> samples_;  // where the tokens are
  std::vector<TensorView> tokens_;          // by input of the network
  std::vector<int64_t> sizes_, scratch_;
  char message_[512] = "";
};

}  // namespace mmedge::runtime::stream

#endif  // MMEDGE_RUNTIME_STREAM_NETWORK_RUNNER_H_
