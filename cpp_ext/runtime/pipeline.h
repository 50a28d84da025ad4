// A bundle's network, loaded on this machine, and calls of it: mmedge/pipeline.py.
#ifndef MMEDGE_RUNTIME_PIPELINE_H_
#define MMEDGE_RUNTIME_PIPELINE_H_

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "backends/backend.h"
#include "bundle/bundle.h"
#include "bundle/choose.h"
#include "execution/call_error.h"
#include "execution/first_states.h"
#include "execution/inputs.h"
#include "execution/token_loop.h"
#include "loop_stage.h"
#include "state.h"

namespace mmedge::runtime {

struct LoadOptions {
  Wish wish;
  std::string device;  // a target; empty: any
  std::string plan;    // empty: by the rule for single calls
  SessionOptions session;
  bool cache = true;
  bool allow_unverified = false;
  bool allow_non_finite = false;
};

// A tensor that a stage of the plan gives.
struct Boundary {
  size_t stage = 0;   // its place in the plan
  size_t output = 0;  // its place among the stage's outputs
  // Which inputs of later stages take it: stage and place.
  std::vector<std::pair<size_t, size_t>> takers;
};

// A state of a stage: what the stage makes of it is one of its boundaries.
struct StatePlace {
  size_t input = 0;     // of the stage
  size_t boundary = 0;
  size_t state = 0;     // among the manifest's states
};

// A stage of the plan, and where its inputs come from.
struct PlanStage {
  const Stage* stage = nullptr;
  std::unique_ptr<Session> session;
  int modality = -1;  // of an encoder: its place in the manifest; -1: a fusion stage
  std::vector<std::pair<size_t, size_t>> network_inputs;  // place of the stage's input, of the network's
  // Outputs that other stages take, and those that the stage hands to itself.
  std::vector<Boundary> boundaries;
  std::vector<StatePlace> states;
  std::unique_ptr<FirstStates> first;  // in the order of `states`; null where there are none

  // The one of an output of this stage, which is the plan's `place`th; added where there is none.
  Boundary& boundary(size_t place, size_t output);
};

// What was loaded; handles of several threads share it.
class Network {
 public:
  // Throws Error: as mmedge_pipeline_load says.
  static std::shared_ptr<const Network> load(std::shared_ptr<Bundle> bundle,
                                             const Backends& backends, const LoadOptions& options);

  Bundle& bundle() const { return *bundle_; }
  const Manifest& manifest() const { return bundle_->manifest(); }
  const Variant& variant() const { return *variant_; }
  const std::vector<Decision>& decisions() const { return decisions_; }
  const PlanChoice& plan() const { return plan_; }
  const std::string& engine() const { return engine_; }
  int threads() const { return options_.session.threads.value_or(0); }
  const LoadOptions& options() const { return options_; }
  const std::vector<PlanStage>& stages() const { return stages_; }
  const Inputs& inputs() const { return *inputs_; }
  // Of the stages of the plan, that calls return; those of the bundle without what a loop takes.
  const std::vector<TensorSpec>& outputs() const { return outputs_; }
  // That of the loop, and its decoder if there is one; empty without a loop.
  const std::vector<LoopStage>& loop_stages() const { return loop_stages_; }
  // What the loop gives: tokens and lengths, or a latent, or what the decoder makes of it.
  const std::vector<TensorSpec>& loop_outputs() const { return loop_outputs_; }
  const TokenLoop* token_loop() const { return token_loop_.get(); }  // null without one
  // Stage and place of each of the network's outputs.
  const std::vector<std::pair<size_t, size_t>>& output_places() const { return output_places_; }
  // By dimension, the input of the network and its axis that say how large it is.
  struct SizeSource {
    bool known = false;
    size_t input = 0;
    size_t axis = 0;
  };
  const std::vector<SizeSource>& size_sources() const { return size_sources_; }

 private:
  void open_stages(const Backends& backends);
  void connect();
  std::unique_ptr<Session> open_stage(const Backends& backends, const Stage& stage);
  std::vector<std::vector<std::vector<int64_t>>> find_shapes(const StageSource& source);
  void connect_loop();
  void connect_states(PlanStage* stage, size_t place);

  std::shared_ptr<Bundle> bundle_;
  const Variant* variant_ = nullptr;
  std::vector<Decision> decisions_;
  PlanChoice plan_;
  std::string engine_;
  LoadOptions options_;
  std::vector<PlanStage> stages_;
  std::unique_ptr<Inputs> inputs_;
  std::vector<TensorSpec> outputs_;
  std::vector<std::pair<size_t, size_t>> output_places_;
  std::vector<SizeSource> size_sources_;
  std::vector<LoopStage> loop_stages_;
  std::vector<TensorSpec> loop_outputs_;
  std::unique_ptr<TokenLoop> token_loop_;
};

// One caller's handle: slots of the sessions, and the memory of its calls.
class Pipeline {
 public:
  // Throws Error(kBackend): a session gives no further slot.
  explicit Pipeline(std::shared_ptr<const Network> network) : Pipeline(std::move(network), true) {}
  virtual ~Pipeline() = default;

  const std::shared_ptr<const Network>& network() const { return network_; }

  // Sets aside what calls of these inputs need, and runs them until nothing is a first time. With
  // count 0: inputs of the example's sizes, with and without what is optional. Throws Error, as does
  // `after`, which is called for each set of inputs where it is there.
  using WarmUp = std::function<void(const NamedTensor* tensors, size_t count)>;
  void warm_up(const NamedTensor* tensors, size_t count, const WarmUp& after = nullptr);

  // Runs once: outputs are read by output(). `cached`: an encoder does not run where its modality
  // holds what it held in the call before. Stages with state begin with what `state` holds, and
  // leave their states in it; null: each begins anew. After another code than kOk message() says
  // why, and `state` is as it was.
  Code run(const NamedTensor* tensors, size_t count, bool cached = true,
           State* state = nullptr) noexcept;

  // Forgets what modalities held in the call before: the next one runs every stage.
  void forget() noexcept;

  // Sets aside what calls of these inputs need of the handle's own. Throws Error(kInput).
  void reserve(const NamedTensor* tensors, size_t count);

  // The parts of run() that a loop needs by themselves: runs the stages of the plan; says whether the
  // states that they left can be kept; moves them into `state`.
  virtual Code compute(const NamedTensor* tensors, size_t count, bool cached,
                       const State* state) noexcept;
  Code check_states() noexcept;
  void leave_states(State* state) noexcept;

  // What the last call took, by place among the network's inputs, and what a stage made of it.
  const TensorView& input(size_t place) const noexcept { return call_.values[place]; }
  const Value& made(size_t stage, size_t boundary) const noexcept {
    return values_[stage][boundary];
  }
  // Whether the last call's inputs of a modality are those of the cached call before it.
  bool is_held(size_t modality) const noexcept { return held_[modality].skip; }
  // Sizes of dimensions in the last call, by what a stage of the loop takes and by the network's
  // inputs without the one at `left_out`; -1: all.
  void find_loop_sizes(const LoopStage& stage, int left_out,
                       std::vector<int64_t>* sizes) const noexcept;

  // The same by all that the stages of the plan gave, and by the network's inputs.
  virtual void find_all_sizes(std::vector<int64_t>* sizes) const noexcept;

  // The network's output of the last run, by place; valid until the next one, and until a State
  // that the run left it in is changed.
  const TensorView& output(size_t index) const noexcept { return views_[index]; }

  const char* message() const noexcept { return call_.error.text; }

 protected:
  // Without slots it runs no stage: another one does, and what it made is put in `values_`.
  Pipeline(std::shared_ptr<const Network> network, bool has_slots);
  // Adds the sizes of the network's inputs without the one at `left_out`; -1: of all.
  void add_input_sizes(int left_out, std::vector<int64_t>* sizes) const noexcept;

  std::vector<std::vector<Value>> values_;  // of each stage, by boundary
  InputCall call_;
  std::vector<int64_t> sizes_;        // of each dimension in this call
  std::vector<std::vector<std::vector<int>>> output_dimensions_;  // of each stage

 private:
  // What a modality held when its encoders last ran.
  struct Held {
    bool cached = false;  // whether it has encoders that need not run again
    bool skip = false;    // of this call: they do not run
    std::vector<TensorView> views;
    std::vector<std::vector<uint8_t>> memory;
    bool valid = false;
  };

  bool holds(size_t modality) noexcept;
  void hold(size_t modality) noexcept;
  void reserve_copies(size_t modality);
  void find_sizes() noexcept;
  Code begin_states(size_t stage, const State* state) noexcept;
  Code run_stage(size_t stage) noexcept;
  const TensorView& find_output(size_t stage, size_t output) const noexcept;

  std::shared_ptr<const Network> network_;
  std::vector<std::unique_ptr<RunSlot>> slots_;
  std::vector<Held> held_;                  // by modality
  std::vector<FirstMemory> first_;    // of each stage
  std::vector<TensorView> views_;     // of each of the network's outputs
  std::vector<std::vector<int>> input_dimensions_;  // of each input of the network, of each axis
};

}  // namespace mmedge::runtime

#endif  // MMEDGE_RUNTIME_PIPELINE_H_
