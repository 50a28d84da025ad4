// The loop `generate` without its stage: what each run takes, and which token its scores choose.
//
// docs/reference/bundle.md ("Loop", "Choosing a token") specifies it; mmedge/execution/generate.py
// is the reference.
#ifndef MMEDGE_RUNTIME_EXECUTION_GENERATE_STATE_H_
#define MMEDGE_RUNTIME_EXECUTION_GENERATE_STATE_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "execution/call_error.h"
#include "execution/generate_options.h"
#include "execution/loop_finish.h"
#include "execution/sampling.h"
#include "execution/token_loop.h"
#include "tensor.h"

namespace mmedge::runtime {

// For how much memory is set aside.
struct GenerateCapacity {
  int64_t batch = 1;
  int64_t first_tokens = 0;  // of a row: the start, or what a state left over, and the prompt
  int64_t vocabulary = 0;    // where the bundle's is dynamic
};

// What a run begins with, besides its options.
struct GenerateCall {
  // Rows by the call's other tensors, where they have the token's dynamic axis.
  std::optional<int64_t> batch;
  // The caller's tokens, int32 or int64, [batch] or [batch, n].
  std::optional<TensorView> prompt;
  // By state that grows, as TokenLoop::growing lists them: its size along its axis now.
  const int64_t* state_sizes = nullptr;
  // What a State of an earlier call says: tokens that the stage has taken, tokens chosen, and the
  // tokens [pending_rows, pending_count] that the stage has yet to take; null: it says none.
  int64_t taken = 0;
  int64_t choices = 0;
  const int64_t* pending = nullptr;
  int64_t pending_rows = 0;
  int64_t pending_count = 0;
};

// What one run of the stage takes; valid until the next run.
struct TokenRun {
  TensorView token;
  TensorView position;        // without data where the stage takes none
  bool are_scores_used = true;  // false: more first tokens follow
};

// One run of the loop after another, in memory that is set aside once. For one thread at a time.
//
//   state.begin(call, options, &error);
//   while (state.next_run(now, &run)) {
//     ... run the stage ...
//     state.accept(logits, now, &error);
//   }
class GenerateState {
 public:
  // The loop stays as long as this does. Throws Error (kInput) for a capacity out of range.
  GenerateState(const TokenLoop& loop, const GenerateCapacity& capacity);

  // Begins a run; kInput where options or tokens do not fit.
  Code begin(const GenerateCall& call, const GenerateOptions& options, CallError* error) noexcept;

  // What the first run takes, [batch, first_count()].
  const int64_t* first_tokens() const noexcept { return first_.data(); }
  int64_t first_count() const noexcept { return first_count_; }
  // How many of the first tokens need not be run, where `count` of `rows` rows have been in a call
  // of the same other tensors: 0 unless they are more than what every call starts with.
  int64_t count_common(const int64_t* tokens, int64_t rows, int64_t count) const noexcept;
  // Leaves out the first tokens whose states the stage has already. If that is all of them,
  // accept() comes next, with the scores that were kept of their run.
  void skip(int64_t count) noexcept;

  // Says what the next run takes; false where the loop has ended, at `now` by its deadline or
  // before. Only runs of first tokens look at the time, since accept() does for the others.
  bool next_run(double now, TokenRun* run) noexcept;

  // Takes the logits of the run, [batch, vocabulary] or [batch, new, vocabulary], and chooses a
  // token for each row if they are used. kBackend where they do not fit, or no token can be chosen.
  Code accept(const TensorView& logits, double now, CallError* error) noexcept;

  // Chooses no more tokens; what there is so far stays.
  void cancel() noexcept;

  int64_t batch() const noexcept { return batch_; }
  // Tokens chosen so far.
  int64_t index() const noexcept { return index_; }
  LoopFinish finish() const noexcept { return finish_; }
  // The tokens chosen last, one for each row.
  const int64_t* tokens() const noexcept { return chosen_.data() + (index_ - 1) * batch_; }
  // Whether the row's last token counts: no stop token, and of no row that ended before.
  bool is_active(int64_t row) const noexcept;
  // Whether the row ended with the last token: it was a stop token.
  bool has_just_ended(int64_t row) const noexcept;

  // What the loop gives, so far if it has not ended: tokens [batch, longest()], and for each row
  // its length and why it ended.
  int64_t longest() const noexcept;
  int64_t length(int64_t row) const noexcept;
  LoopFinish row_finish(int64_t row) const noexcept;
  void write_tokens(int64_t* out) const noexcept;

  // What a State holds after a run that has ended: GenerateCall's `taken` and `choices`, and its `pending`,
  // [batch, pending_count()].
  int64_t taken() const noexcept { return taken_; }
  int64_t choices() const noexcept { return first_choice_ + index_; }
  int64_t pending_count() const noexcept;
  void write_pending(int64_t* out) const noexcept;

 private:
  Code set_options(const GenerateOptions& options, CallError* error) noexcept;
  Code set_first_tokens(const GenerateCall& call, CallError* error) noexcept;
  Code set_limit(const int64_t* sizes, CallError* error) noexcept;
  void set_run(const int64_t* tokens, int64_t stride, int64_t count, int64_t position,
               TokenRun* run) noexcept;
  Code read_scores(const TensorView& logits, Scores* scores, CallError* error) const noexcept;
  bool is_stop(int64_t token) const noexcept;
  void end(LoopFinish finish) noexcept;

  const TokenLoop& loop_;
  GenerateCapacity capacity_;
  TokenSampler sampler_;

  Sampling sampling_;
  GenerateOptions options_;
  std::vector<int64_t> stops_;
  int64_t fill_ = 0;
  int64_t batch_ = 0;
  int64_t run_most_ = 0;  // most tokens of a row in one run of this call
  int64_t limit_ = 0;
  int64_t taken_ = 0;
  int64_t first_choice_ = 0;
  std::vector<int64_t> first_;
  int64_t first_count_ = 0;
  int64_t begin_ = 0;  // first tokens that the stage has taken
  int64_t end_ = 0;    // with those of the run that was asked for
  bool has_begun_ = false;
  std::vector<uint8_t> token_data_;
  std::vector<uint8_t> position_data_;
  std::vector<int64_t> chosen_;   // [limit, batch]
  std::vector<int64_t> lengths_;  // of rows that stopped; -1 of the others
  int64_t index_ = 0;
  LoopFinish finish_ = LoopFinish::kCancel;
};

}  // namespace mmedge::runtime

#endif  // MMEDGE_RUNTIME_EXECUTION_GENERATE_STATE_H_
