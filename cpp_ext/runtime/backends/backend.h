// What an engine offers that can run a stage: a table of functions, loaded stages, and slots that
// run them.
//
// Backend is the one seam for another engine, as mmedge/backends/registry.py is in Python: an
// application fills one and adds it to a Backends. Opening and making slots may fail and throw.
// What a RunSlot does afterwards is noexcept, and our own code in it neither allocates, locks nor
// logs; what an engine allocates in its own run is the engine's share.
//
// Slots and values belong to the session that made them, and end before it does.
#ifndef MMEDGE_RUNTIME_BACKENDS_BACKEND_H_
#define MMEDGE_RUNTIME_BACKENDS_BACKEND_H_

#include <cstddef>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "../error.h"
#include "../spec.h"
#include "../tensor.h"

namespace mmedge::runtime {

// How a session uses the machine, SessionOptions of mmedge/backends/__init__.py.
struct SessionOptions {
  std::optional<int> threads;   // most intra-op threads; none: the engine's default
  std::optional<bool> kernels;  // mmedge's own kernels; none: where they were measured to pay
  std::optional<bool> spin;     // idle threads wait awake; none: those of a stage by itself do
  std::optional<double> run_timeout_s;  // most seconds of one run of a stage; none: no limit
};

// Throws Error(kInput) unless threads are 1 or more and seconds above 0, where they are given.
void check_options(const SessionOptions& options);

// What runs a stage's attention over segments.
struct Attention {
  int64_t nodes = 0;
  std::string kernel;  // its instruction set; empty: the bodies of standard operators run
  std::string reason;  // why there is no kernel

  // As in reports of both runtimes: "3 nodes by kernel (avx512)".
  std::string text() const;
};

// A tensor that an engine made, and that is handed to runs without a copy. Owns it; move only.
// Between engines, and everywhere else, it is a TensorView.
class Value {
 public:
  // Gives the engine's tensor back; `engine` tells tensors of different engines apart.
  using Release = void (*)(const void* engine, void* tensor) noexcept;

  Value() = default;
  Value(const void* engine, void* tensor, Release release, const TensorView& view) noexcept
      : engine_(engine), tensor_(tensor), release_(release), view_(view) {}
  Value(Value&& other) noexcept { swap(other); }
  Value& operator=(Value&& other) noexcept {
    Value moved(std::move(other));
    swap(moved);
    return *this;
  }
  ~Value() {
    if (tensor_ != nullptr) release_(engine_, tensor_);
  }

  explicit operator bool() const noexcept { return tensor_ != nullptr; }
  const TensorView& view() const noexcept { return view_; }
  const void* engine() const noexcept { return engine_; }
  void* tensor() const noexcept { return tensor_; }
  // Leaves the tensor to the caller.
  void* leave() noexcept { return std::exchange(tensor_, nullptr); }
  void swap(Value& other) noexcept {
    std::swap(engine_, other.engine_);
    std::swap(tensor_, other.tensor_);
    std::swap(release_, other.release_);
    std::swap(view_, other.view_);
  }

 private:
  const void* engine_ = nullptr;
  void* tensor_ = nullptr;
  Release release_ = nullptr;
  TensorView view_;
};

// Inputs and outputs of one thread's runs of a session, by their places in it. What was set stays
// for later runs. Each function may be called by one thread at a time; slots of one session run at
// the same time. After a code other than kOk message() says why, and nothing was changed but that
// outputs of a run that failed are gone.
class RunSlot {
 public:
  virtual ~RunSlot() = default;

  // Take this tensor. It is read in each run, where it lies: it has to stay until another is set,
  // and may be written to between runs. The same address and shape again costs nothing.
  virtual Code set_input(size_t index, const TensorView& tensor) noexcept = 0;
  // The same for what an engine made; one of another engine is taken where it lies.
  virtual Code set_input(size_t index, const Value& value) noexcept = 0;
  // Take what `output` holds after a run as `input` of the next: a state. What was there before is
  // let go of; the output is empty until the next run.
  virtual Code feed_back(size_t output, size_t input) noexcept = 0;
  // Write an output here from now on; its shape has to be exactly the one that a run makes. It may
  // be the memory of an input for which the graph allows that.
  virtual Code set_output(size_t index, const TensorView& memory) noexcept = 0;
  // Have an output made by the engine, as at the beginning.
  virtual void reset_output(size_t index) noexcept = 0;

  // Runs once. All inputs have to be set.
  virtual Code run() noexcept = 0;

  // An output of the last run: until the next run of this slot, or where set_output said. Its data
  // is null before the first run, after one that failed, and after it was taken.
  virtual const TensorView& output(size_t index) const noexcept = 0;
  // An output that the engine made; the caller's from now on, and may be kept across runs. Empty
  // where there is none.
  virtual Value take_output(size_t index) noexcept = 0;
  // What an input is at present: of a state, what feed_back left there.
  virtual const TensorView& input(size_t index) const noexcept = 0;
  // What feed_back left at an input; the caller's from now on. Empty where the slot owns nothing.
  virtual Value take_input(size_t index) noexcept = 0;

  // A tensor of this type and these sizes, and a copy of what an input is at present, in memory of the
  // engine. kBackend where there is none: then no call begins with what another one left.
  virtual Code make_tensor(const TensorView& /*shape*/, Value* /*out*/) noexcept {
    return Code::kBackend;
  }
  virtual Code copy_input(size_t /*index*/, Value* /*out*/) noexcept { return Code::kBackend; }

  virtual const char* message() const noexcept = 0;
};

// One loaded stage. Threads may make slots and run them at the same time.
class Session {
 public:
  virtual ~Session() = default;

  // In the graph's order, as the manifest declares them.
  const std::vector<TensorSpec>& inputs() const noexcept { return inputs_; }
  const std::vector<TensorSpec>& outputs() const noexcept { return outputs_; }
  // Place of an input or output of that name; -1 where there is none.
  int input_index(const std::string& name) const noexcept { return find(inputs_, name); }
  int output_index(const std::string& name) const noexcept { return find(outputs_, name); }
  // None where the stage has no attention over segments.
  const std::optional<Attention>& attention() const noexcept { return attention_; }

  // Throws Error(kBackend).
  virtual std::unique_ptr<RunSlot> make_slot() = 0;

 protected:
  std::vector<TensorSpec> inputs_, outputs_;
  std::optional<Attention> attention_;

 private:
  static int find(const std::vector<TensorSpec>& specs, const std::string& name) noexcept {
    for (size_t i = 0; i < specs.size(); ++i) {
      if (specs[i].name == name) return static_cast<int>(i);
    }
    return -1;
  }
};

// A stage's graph, from a file or from memory, and what a bundle says of it. What it refers to has
// to stay while the stage is opened; graph and weights in memory, as long as the session: an engine
// may read them there. ONNX Runtime copies weights from memory, and maps those of a file.
struct StageSource {
  const Stage* stage = nullptr;
  const Variant* variant = nullptr;
  std::vector<TensorSpec> inputs;  // of the graph: graph_inputs()
  // Of a stage that writes to a cache in place; the session takes and gives what the stage does.
  const Manifest* manifest = nullptr;
  const GenerateLoop* cache_loop = nullptr;
  bool alone = false;              // has the cores to itself: Manifest::has_cores
  // Calls of functions of the domain "mmedge": in this graph for ONNX Runtime, which runs them; in the
  // stage's own for others, whose files have their bodies in place of them.
  int64_t functions = 0;
  // Sizes of each of `inputs` in each golden sample, in order; none where every run has others. Reads
  // the samples; throws Error(kBundle) where they are not what the manifest declares.
  std::function<std::vector<std::vector<std::vector<int64_t>>>()> golden_shapes;
  std::string path;                // of the graph's file, weights beside it; empty: in memory
  Bytes graph;                     // for OpenVINO beside a path, too
  std::map<std::string, Bytes> weights;  // files, by the names that the graph has for them

  // As errors name it: "stage 'net', variant ort-fp32-cpu".
  std::string where() const;
};

// The loop whose stage writes to a cache in place in this variant, if this is that stage; else null.
const GenerateLoop* in_place_loop(const Manifest& manifest, const Stage& stage,
                                  const Variant& variant);
// Inputs of a stage's graph in a variant: the stage's, and what a cache in place takes beside them
// (docs/reference/bundle.md, "Cache in place").
std::vector<TensorSpec> graph_inputs(const Manifest& manifest, const Stage& stage,
                                     const Variant& variant);

// An engine. `context` is handed to each function. Functions may throw Error.
struct Backend {
  std::string name;          // in a variant
  bool limits_runs = false;  // whether run_timeout_s ends its runs
  bool of_application = false;  // not mmedge's own: what it loads is always verified
  std::shared_ptr<void> context;
  // Version of the engine; empty where it is not here.
  std::string (*version)(void* context) = nullptr;
  // Why it does not run here, and what to do: under its name, and under the name of each of its
  // targets that it does not reach; nothing where it runs.
  std::map<std::string, std::string> (*missing)(void* context) = nullptr;
  // Targets of variants that it runs here.
  std::vector<std::string> (*targets)(void* context) = nullptr;
  // Loads a stage. Error(kBackend): the engine refuses it, or would run a node elsewhere than the
  // variant says.
  std::unique_ptr<Session> (*open_stage)(void* context, const StageSource& source,
                                         const SessionOptions& options) = nullptr;
};

// The backends of a process, or of one bundle.
class Backends {
 public:
  // A later one of the same name takes the place of an earlier one. Throws Error(kInput) where a
  // name or a function is missing.
  void add(Backend backend);
  const std::vector<Backend>& all() const noexcept { return backends_; }
  const Backend* find(const std::string& name) const noexcept;  // null where there is none
  // Loads a stage by the backend of its variant. Throws Error(kBackend).
  std::unique_ptr<Session> open_stage(const StageSource& source,
                                      const SessionOptions& options) const;

 private:
  std::vector<Backend> backends_;
};

}  // namespace mmedge::runtime

#endif  // MMEDGE_RUNTIME_BACKENDS_BACKEND_H_
