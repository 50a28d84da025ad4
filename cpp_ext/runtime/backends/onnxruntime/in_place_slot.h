// Runs of a loop's stage whose keys and values ONNX Runtime writes in place.
//
// docs/reference/bundle.md ("Cache in place") says what the file takes;
// mmedge/backends/onnxruntime/in_place.py is the reference.
#ifndef MMEDGE_RUNTIME_BACKENDS_ONNXRUNTIME_IN_PLACE_SLOT_H_
#define MMEDGE_RUNTIME_BACKENDS_ONNXRUNTIME_IN_PLACE_SLOT_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "run_slot.h"

namespace mmedge::runtime::onnxruntime {

// Names of what the file takes beside the stage's inputs.
constexpr const char* kCacheLast = "cache.last";
constexpr const char* kCacheTotal = "cache.total";

// What does not change from run to run.
struct InPlaceCache {
  // Of the loop's stage; `inputs` and `outputs` are the file's.
  InPlaceCache(const Manifest& manifest, const GenerateLoop& loop, const Stage& stage,
               const std::vector<TensorSpec>& inputs, const std::vector<TensorSpec>& outputs);

  // Places of a new buffer for `total`, where `length` are there already.
  int64_t capacity(int64_t length, int64_t total) const noexcept;

  // Places of inputs and outputs of the file.
  struct Pair {
    size_t input = 0;
    size_t output = 0;
  };
  std::vector<Pair> growing, others;  // states
  std::vector<size_t> results;        // outputs that are no states
  size_t token = 0, last = 0, total = 0;
  std::optional<size_t> position;
  std::optional<int64_t> most;  // places of a state after a run
  int64_t room = 0;             // places for tokens to come in a new buffer
};

// Takes and gives what the stage does. A state that grows is in a buffer, which is bound as input and
// as output: a run writes its new places and copies nothing. A full buffer is copied to a larger
// one. The engine allocates buffers, as it does the states of the growing form.
//
// Views of such a state have its sizes and no data: take_input() and take_output() give it. Several
// tokens of several rows behind a past are run one by one; the other states then are those before the
// last token, until they are fed back.
class InPlaceSlot final : public RunSlot {
 public:
  // Graph and cache stay as long as this does. Throws Error(kBackend).
  InPlaceSlot(const LoadedGraph& graph, const InPlaceCache& cache);

  Code set_input(size_t index, const TensorView& tensor) noexcept override;
  Code set_input(size_t index, const Value& value) noexcept override;
  Code feed_back(size_t output, size_t input) noexcept override;
  Code set_output(size_t index, const TensorView& memory) noexcept override;
  void reset_output(size_t index) noexcept override;
  Code run() noexcept override;
  const TensorView& output(size_t index) const noexcept override;
  Value take_output(size_t index) noexcept override;
  const TensorView& input(size_t index) const noexcept override;
  Value take_input(size_t index) noexcept override;
  Code make_tensor(const TensorView& shape, Value* out) noexcept override {
    return slot_.make_tensor(shape, out);
  }
  Code copy_input(size_t index, Value* out) noexcept override;
  const char* message() const noexcept override { return slot_.message(); }

 private:
  struct State {
    InPlaceCache::Pair at;
    bool is_set = false;
    Value buffer;              // [batch, heads, capacity, size]
    TensorView before, after;  // a run: what input() and output() give
  };

  State* find(size_t place, size_t InPlaceCache::Pair::*of) noexcept;
  const State* find(size_t place, size_t InPlaceCache::Pair::*of) const noexcept;
  Code run_once(int64_t rows, int64_t count) noexcept;
  Code run_each(int64_t rows, int64_t count) noexcept;
  Code set_token(size_t input, const TensorView& of_all, int64_t index, size_t rank,
                 Value* memory) noexcept;
  Code join(int64_t index, int64_t count) noexcept;
  Code move() noexcept;
  Value take(State* state, int64_t length) noexcept;

  const InPlaceCache& cache_;
  OrtRunSlot slot_;
  std::vector<State> states_;  // that grow
  std::vector<Value> joined_;  // by output: of a run for each token
  Value last_;                 // int32 [batch]
  int32_t total_value_ = 0;
  int64_t length_ = 0, total_ = 0;  // places before and after a run
  int64_t capacity_ = 0;            // of the buffers that hold the states; 0: none does yet
};

}  // namespace mmedge::runtime::onnxruntime

#endif  // MMEDGE_RUNTIME_BACKENDS_ONNXRUNTIME_IN_PLACE_SLOT_H_
