// The loop `generate` of a loaded network in one handle: what is before it, and token after token.
//
// mmedge/execution/generate.py is the reference.
#ifndef MMEDGE_RUNTIME_GENERATE_RUN_H_
#define MMEDGE_RUNTIME_GENERATE_RUN_H_

#include <array>
#include <optional>
#include <vector>

#include "execution/generate_state.h"
#include "execution/prefix_cache.h"
#include "loop_run.h"

namespace mmedge::runtime {

class GenerateRun final : public LoopRun {
 public:
  // The pipeline stays as long as this does. Throws Error(kBackend).
  explicit GenerateRun(Pipeline* pipeline);
  ~GenerateRun() { give_up(); }

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
  // Has the next call run all of its first tokens.
  void forget() noexcept { is_forgotten_ = true; }
  // Tokens that a State has to have room for.
  size_t pending_room() const noexcept {
    return static_cast<size_t>(capacity_.batch * capacity_.first_tokens);
  }

  // Runs the stages before the loop, and begins it. What an earlier call began is given up, and its
  // State is as it was. `cached`: as for Pipeline::run(), and first tokens that a cached call began
  // with are not run again where its other inputs were the same. The deadline of `options` is a time
  // of now(). After another code than kOk message() says why.
  Code begin(const NamedTensor* tensors, size_t count, const GenerateOptions& options, bool cached,
             State* state) noexcept;
  // Chooses a token for each row; `*taken` says whether there was one to choose. When the loop has
  // ended, its states are in the State.
  Code step(bool* taken) noexcept;
  const GenerateState& progress() const noexcept { return *progress_; }
  // What the stage gave for the last choice, [batch, vocabulary] with `*stride` elements from row to
  // row; valid until the next step.
  TensorView scores(int64_t* stride) const noexcept;
  // What the loop gives, so far: [batch, longest] and [batch].
  TensorView tokens() noexcept;
  TensorView lengths() noexcept;

 private:
  void find_sizes() noexcept;
  Code begin_tokens(const GenerateOptions& options, const State* state) noexcept;
  void find_key() noexcept;
  Code reuse_prefix(bool* taken) noexcept;
  Code keep_prefix() noexcept;
  void stop() noexcept override { progress_->cancel(); }
  Code leave_states(State* state) noexcept override;

  const TokenLoop& loop_;
  size_t token_ = 0, position_ = 0, logits_ = 0;  // places in the stage
  std::optional<size_t> prompt_;                  // the tokens' place among the network's inputs
  int rows_dimension_ = -1;
  std::vector<size_t> growing_;                   // by growing state: its place among the states
  std::vector<int64_t> sizes_, growing_sizes_;
  GenerateCapacity capacity_;
  std::optional<GenerateState> progress_;
  std::vector<int64_t> tokens_, lengths_;

  std::optional<PrefixCache> prefixes_;  // none where calls cannot begin with what others left
  // Of each modality's inputs without the loop's tokens, where they are known; and of all of them.
  std::vector<std::optional<std::array<uint8_t, 32>>> digests_;
  std::array<uint8_t, 32> key_{};
  bool has_key_ = false;        // whether this call may begin with what others left, and is kept
  bool is_forgotten_ = false;
  bool is_first_ = false;       // no run or choice was asked for yet
  const Prefix* whole_ = nullptr;  // whose scores are those of the last choice
};

}  // namespace mmedge::runtime

#endif  // MMEDGE_RUNTIME_GENERATE_RUN_H_
