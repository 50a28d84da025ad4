// The loop `generate` of a loaded network in one handle: what is before it, and token after token.
//
// mmedge/execution/generate.py is the reference. No prefix is kept from call to call, which changes
// no bit.
#ifndef MMEDGE_RUNTIME_GENERATE_RUN_H_
#define MMEDGE_RUNTIME_GENERATE_RUN_H_

#include <optional>
#include <vector>

#include "execution/generate_state.h"
#include "loop_slot.h"
#include "pipeline.h"

namespace mmedge::runtime {

class GenerateRun {
 public:
  // The pipeline stays as long as this does. Throws Error(kBackend).
  explicit GenerateRun(Pipeline* pipeline);
  ~GenerateRun() { give_up(); }
  GenerateRun(const GenerateRun&) = delete;
  GenerateRun& operator=(const GenerateRun&) = delete;

  // Sets aside what calls of so many rows and first tokens of each need. Throws Error(kInput) for
  // numbers out of range.
  void reserve(int64_t rows, int64_t tokens);
  // The same for the pipeline's last call, which was of these inputs; and takes some steps, so that
  // later ones meet no first time. Throws Error.
  void warm_up(const NamedTensor* tensors, size_t count);
  // The same without steps.
  void reserve_for_call();
  // Rows that memory is set aside for.
  int64_t most_rows() const noexcept { return capacity_.batch; }
  // Tokens that a State has to have room for.
  size_t pending_room() const noexcept {
    return static_cast<size_t>(capacity_.batch * capacity_.first_tokens);
  }

  // Runs the stages before the loop, and begins it. What an earlier call began is given up, and its
  // State is as it was. The deadline of `options` is a time of now(). After another code than kOk
  // message() says why.
  Code begin(const NamedTensor* tensors, size_t count, const GenerateOptions& options, bool cached,
             State* state) noexcept;
  // Chooses a token for each row; `*taken` says whether there was one to choose. When the loop has
  // ended, its states are in the State.
  Code step(bool* taken) noexcept;
  // Takes no more steps; the State holds what there is so far.
  void cancel() noexcept;
  // Ends a loop that is under way and leaves the State as it was.
  void give_up() noexcept;

  // Whether there is a call whose steps or results can be asked for.
  bool has_begun() const noexcept { return has_begun_; }
  const GenerateState& progress() const noexcept { return *progress_; }
  // What the stage gave for the last choice, [batch, vocabulary] with `*stride` elements from row to
  // row; valid until the next step.
  TensorView scores(int64_t* stride) const noexcept;
  // What the loop gives, so far: [batch, longest] and [batch].
  TensorView tokens() noexcept;
  TensorView lengths() noexcept;

  const char* message() const noexcept { return error_.text; }

 private:
  void find_sizes() noexcept;
  void leave() noexcept;
  Code begin_call(const NamedTensor* tensors, size_t count, const GenerateOptions& options, bool cached,
                  const State* state) noexcept;
  Code fail(Code code) noexcept;

  Pipeline& pipeline_;
  const TokenLoop& loop_;
  LoopSlot step_;
  size_t token_ = 0, position_ = 0, logits_ = 0;  // places in the stage
  std::optional<size_t> prompt_;                  // the tokens' place among the network's inputs
  int rows_dimension_ = -1;
  std::vector<size_t> growing_;                   // by growing state: its place among the states
  std::vector<int64_t> sizes_, growing_sizes_;
  GenerateCapacity capacity_;
  std::optional<GenerateState> progress_;
  std::vector<int64_t> tokens_, lengths_;
  State* state_ = nullptr;
  bool has_begun_ = false, is_open_ = false;
  CallError error_;
};

}  // namespace mmedge::runtime

#endif  // MMEDGE_RUNTIME_GENERATE_RUN_H_
