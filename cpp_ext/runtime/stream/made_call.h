// A call whose stages before the loop have run elsewhere.
#ifndef MMEDGE_RUNTIME_STREAM_MADE_CALL_H_
#define MMEDGE_RUNTIME_STREAM_MADE_CALL_H_

#include <memory>
#include <vector>

#include "pipeline.h"

namespace mmedge::runtime::stream {

// What a loop begins with is given to it: what the call took, and what stages made of it. All of it
// stays until the loop has ended.
class MadeCall final : public Pipeline {
 public:
  explicit MadeCall(std::shared_ptr<const Network> network);

  // Forgets the sizes of the call before.
  void clear() noexcept;
  // By place among the network's inputs.
  void set_input(size_t place, const TensorView& view) noexcept { call_.values[place] = view; }
  // Notes the sizes of what a stage of the plan made, by its place among the stage's outputs.
  void add_sizes(size_t stage, size_t output, const TensorView& view) noexcept;
  // The same of what the loop takes, by its place among the stage's boundaries.
  void set_made(size_t stage, size_t boundary, Value value) noexcept;

  Code compute(const NamedTensor*, size_t, bool, const State*) noexcept override {
    return Code::kOk;
  }
  void find_all_sizes(std::vector<int64_t>* sizes) const noexcept override;

 private:
  std::vector<int64_t> made_sizes_;
};

}  // namespace mmedge::runtime::stream

#endif  // MMEDGE_RUNTIME_STREAM_MADE_CALL_H_
