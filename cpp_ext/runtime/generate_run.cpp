// Joins the loop `generate` with the stage that it runs.
#include "generate_run.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "bundle/sha256.h"
#include "clock.h"
#include "error.h"
#include "schema/constraints.h"

namespace mmedge::runtime {
namespace {

TensorView shaped(DType dtype, int64_t rows, int64_t columns) noexcept {
  TensorView view;
  view.dtype = dtype;
  view.rank = 2;
  view.shape[0] = rows, view.shape[1] = columns;
  return view;
}

// Dtype, sizes and bytes.
void hash(const TensorView& tensor, Sha256* digest) noexcept {
  int64_t head[kMaxRank + 2] = {static_cast<int64_t>(tensor.dtype),
                                static_cast<int64_t>(tensor.rank)};
  std::copy_n(tensor.shape, tensor.rank, head + 2);
  digest->update({reinterpret_cast<const uint8_t*>(head), sizeof head});
  if (tensor.bytes() > 0) digest->update({static_cast<const uint8_t*>(tensor.data), tensor.bytes()});
}

}  // namespace

GenerateRun::GenerateRun(Pipeline* pipeline)
    : LoopRun(pipeline), loop_(*pipeline->network()->token_loop()) {
  const Network& network = *pipeline_.network();
  const Manifest& manifest = network.manifest();
  const Session& session = *step_.stage().session;
  token_ = static_cast<size_t>(session.input_index(loop_.loop.token));
  if (loop_.position) position_ = static_cast<size_t>(session.input_index(*loop_.loop.position));
  logits_ = static_cast<size_t>(session.output_index(loop_.loop.logits));
  const std::vector<TensorSpec>& inputs = network.inputs().specs();
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (inputs[i].name == loop_.loop.token) prompt_ = i;
  }
  rows_dimension_ = dimension_places(manifest, loop_.token).front();
  for (const GrowingState& state : loop_.growing) {
    for (size_t i = 0; i < step_.stage().states.size(); ++i) {
      if (step_.stage().first->state(i).input == state.input) growing_.push_back(i);
    }
  }
  sizes_.resize(manifest.dimensions.size());
  growing_sizes_.resize(growing_.size());
  capacity_.batch = capacity_.first_tokens = 0;
  const TensorSpec& logits = session.outputs()[logits_];
  if (const Axis& words = logits.shape.back(); words.is_dynamic()) {
    const Dimension& limits = manifest.dimensions.at(words.dimension);
    capacity_.vocabulary = limits.max.value_or(limits.opt);
  }
  // What is behind a stage with state depends on more than the inputs.
  const auto has_state = [](const PlanStage& stage) { return stage.first != nullptr; };
  if (network.options().cache && !loop_.loop.whole_prompt &&
      std::none_of(network.stages().begin(), network.stages().end(), has_state)) {
    prefixes_.emplace(step_.stage().states.size());
    digests_.resize(manifest.modalities.size());
  }
}

void GenerateRun::reserve(int64_t rows, int64_t tokens) {
  give_up();
  GenerateCapacity capacity = capacity_;
  capacity.batch = std::max(rows, capacity_.batch);
  capacity.first_tokens = std::max(tokens, capacity_.first_tokens);
  if (progress_ && capacity.batch == capacity_.batch &&
      capacity.first_tokens == capacity_.first_tokens) {
    return;
  }
  has_begun_ = false;
  progress_.emplace(loop_, capacity);
  const auto places = static_cast<size_t>(capacity.batch);
  tokens_.resize(places * static_cast<size_t>(loop_.loop.limit));
  lengths_.resize(places);
  capacity_ = capacity;
}

void GenerateRun::reserve_for_call() {
  find_sizes();
  int64_t rows = loop_.token.shape[0].size, tokens = 0;
  if (rows_dimension_ >= 0) {
    rows = sizes_[static_cast<size_t>(rows_dimension_)];
    if (rows == kUnknownSize) rows = loop_.default_batch;
  }
  if (prompt_) {
    const TensorView& prompt = pipeline_.input(*prompt_);
    if (rows_dimension_ >= 0) rows = std::max(rows, prompt.shape[0]);
    tokens = prompt.rank == 2 ? prompt.shape[1] : 1;
  }
  reserve(std::max<int64_t>(rows, 1),
          tokens + std::max<int64_t>(1, static_cast<int64_t>(loop_.loop.start.size())));
  if (rows_dimension_ >= 0) sizes_[static_cast<size_t>(rows_dimension_)] = std::max<int64_t>(rows, 1);
  step_.reserve(sizes_.data());
}

void GenerateRun::warm_up(const NamedTensor* tensors, size_t count) {
  reserve_for_call();
  for (int i = 0; i < kWarmLoopRuns; ++i) {
    // Zeros may choose the end at once.
    GenerateOptions options;
    options.stop = TokenList{};
    bool taken = false;
    Code code = begin(tensors, count, options, false, nullptr);
    for (int step = 0; step < kWarmLoopRuns && code == Code::kOk; ++step) code = this->step(&taken);
    if (code != Code::kOk) throw Error(code, message());
  }
  give_up();
  has_begun_ = false;
}

// Sizes of dimensions in this call, by all tensors but the tokens.
void GenerateRun::find_sizes() noexcept {
  pipeline_.find_loop_sizes(step_.stage(), prompt_ ? static_cast<int>(*prompt_) : -1, &sizes_);
}

Code GenerateRun::begin(const NamedTensor* tensors, size_t count, const GenerateOptions& options,
                        bool cached, State* state) noexcept {
  return begin_call(state, [&]() noexcept {
    Code code = check_generate_options(options, loop_.loop, loop_.most_token, &error_);
    if (code == Code::kOk) code = compute(tensors, count, cached, state);
    if (code == Code::kOk) code = begin_tokens(options, state);
    if (code != Code::kOk) return code;
    // What an earlier call left may be anything: nothing else begins so.
    const bool is_forgotten = std::exchange(is_forgotten_, false);
    has_key_ = cached && prefixes_ && !is_forgotten && (state == nullptr || state->is_new());
    if (prefixes_) find_key();
    is_first_ = true;
    whole_ = nullptr;
    return code;
  });
}

// Hashes what is not known to be the same as before.
void GenerateRun::find_key() noexcept {
  Sha256 all;
  for (size_t m = 0; m < digests_.size(); ++m) {
    if (!pipeline_.is_held(m)) digests_[m].reset();
    if (!has_key_) continue;
    if (!digests_[m]) {
      Sha256 each;
      const Inputs& inputs = pipeline_.network()->inputs();
      const size_t first = inputs.first_input(m);
      const size_t count = pipeline_.network()->manifest().modalities[m].inputs.size();
      for (size_t place = first; place < first + count; ++place) {
        if (place != prompt_) hash(pipeline_.input(place), &each);
      }
      digests_[m] = each.digest();
    }
    all.update({digests_[m]->data(), digests_[m]->size()});
  }
  if (has_key_) key_ = all.digest();
}

Code GenerateRun::begin_tokens(const GenerateOptions& options, const State* state) noexcept {
  find_sizes();
  GenerateCall call;
  if (prompt_) call.prompt = pipeline_.input(*prompt_);
  int64_t rows = loop_.token.shape[0].size;
  if (rows_dimension_ >= 0) {
    int64_t& known = sizes_[static_cast<size_t>(rows_dimension_)];
    if (known != kUnknownSize) call.batch = known;
    rows = call.batch.value_or(call.prompt ? call.prompt->shape[0] : loop_.default_batch);
    known = rows;
  }
  if (state != nullptr) {
    call.taken = state->position;
    call.choices = state->choices;
    call.pending_rows = state->pending_rows;
    call.pending_count = state->pending_count;
    if (state->pending_count > 0) call.pending = state->pending.data();
  }
  int64_t first = call.pending != nullptr ? call.pending_count
                                          : static_cast<int64_t>(loop_.loop.start.size());
  if (call.prompt) first += call.prompt->rank == 2 ? call.prompt->shape[1] : 1;
  if (!progress_ || rows > capacity_.batch || first > capacity_.first_tokens ||
      (state != nullptr && state->pending.size() < static_cast<size_t>(rows * first))) {
    return error_.set(Code::kNotWarm,
                      "the call has %lld rows that begin with %lld tokens, and memory was set aside "
                      "for %lld and %lld; warm up with the largest sizes of your calls before you "
                      "make a state, or call mmedge_loop_reserve()",
                      static_cast<long long>(rows), static_cast<long long>(first),
                      static_cast<long long>(capacity_.batch),
                      static_cast<long long>(capacity_.first_tokens));
  }
  Code code = step_.begin(pipeline_, sizes_.data(), state, &error_);
  if (code != Code::kOk) return code;
  for (size_t i = 0; i < growing_.size(); ++i) {
    growing_sizes_[i] = step_.size_along(growing_[i], loop_.growing[i].axis);
  }
  call.state_sizes = growing_sizes_.data();
  return progress_->begin(call, options, &error_);
}

// Begins with what an earlier call left. `*taken`: that was all of the first tokens, and the first
// choice was made.
Code GenerateRun::reuse_prefix(bool* taken) noexcept {
  if (!has_key_) return Code::kOk;
  int64_t common = 0;
  const Prefix* prefix = prefixes_->best(*progress_, key_, &common);
  if (prefix == nullptr) return Code::kOk;
  const int64_t left_out = prefix->tokens.view().shape[1] - common;
  const Code code = step_.begin_after(prefix->states, left_out, &error_);
  if (code != Code::kOk) return code;
  progress_->skip(common);
  if (common < progress_->first_count()) return code;
  whole_ = prefix;
  *taken = true;
  return progress_->accept(prefix->scores.view(), now(), &error_);
}

// Keeps what the run of the last first tokens left, for calls that begin with the same.
Code GenerateRun::keep_prefix() noexcept {
  int64_t stride = 0;
  const TensorView last = scores(&stride);
  const int64_t rows = progress_->batch(), count = progress_->first_count();
  if (last.rank != 2 || last.shape[0] != rows) return Code::kOk;  // accept() refuses it
  TensorView kept = shaped(last.dtype, rows, last.shape[1]);
  const TensorView tokens = shaped(DType::kInt64, rows, count);
  const size_t bytes = step_.state_bytes() + kept.bytes() +
                       static_cast<size_t>(rows * count) * item_size(loop_.token.dtype);
  Prefix* prefix = prefixes_->add(bytes);
  RunSlot& slot = step_.slot();
  if (prefix == nullptr || slot.make_tensor(kept, &prefix->scores) != Code::kOk ||
      slot.make_tensor(tokens, &prefix->tokens) != Code::kOk) {
    return Code::kOk;
  }
  prefix->key = key_;
  std::copy_n(progress_->first_tokens(), rows * count,
              static_cast<int64_t*>(prefix->tokens.view().data));
  const size_t item = item_size(last.dtype), row = static_cast<size_t>(last.shape[1]) * item;
  for (int64_t i = 0; i < rows; ++i) {
    std::memcpy(static_cast<uint8_t*>(prefix->scores.view().data) + static_cast<size_t>(i) * row,
                static_cast<const uint8_t*>(last.data) + static_cast<size_t>(i * stride) * item, row);
  }
  const Code code = step_.keep(&prefix->states, &error_);
  if (code != Code::kOk) prefix->tokens = Value();
  return code;
}

Code GenerateRun::step(bool* taken) noexcept {
  *taken = false;
  if (const Code code = check_begun(); code != Code::kOk || !is_open_) return code;
  if (is_first_) {
    is_first_ = false;
    if (const Code code = reuse_prefix(taken); code != Code::kOk) return fail(code);
  }
  TokenRun run;
  while (!*taken && progress_->next_run(now(), &run)) {
    RunSlot& slot = step_.slot();
    Code code = slot.set_input(token_, run.token);
    if (code == Code::kOk && run.position.data != nullptr) {
      code = slot.set_input(position_, run.position);
    }
    if (code != Code::kOk) return fail(error_.set(code, "%s", slot.message()));
    if (code = step_.run(&error_); code != Code::kOk) return fail(code);
    const bool is_kept = has_key_ && run.are_scores_used && progress_->index() == 0;
    whole_ = nullptr;
    if (is_kept) code = keep_prefix();
    if (code == Code::kOk) code = progress_->accept(slot.output(logits_), now(), &error_);
    if (code != Code::kOk) return fail(code);
    *taken = run.are_scores_used;
  }
  return progress_->finish() == LoopFinish::kNone ? Code::kOk : leave();
}

Code GenerateRun::leave_states(State* state) noexcept {
  const Code code = step_.leave(state, &error_);
  if (code != Code::kOk) return code;
  state->position = progress_->taken();
  state->choices = progress_->choices();
  state->pending_rows = progress_->batch();
  state->pending_count = progress_->pending_count();
  progress_->write_pending(state->pending.data());
  return code;
}

TensorView GenerateRun::scores(int64_t* stride) const noexcept {
  const TensorView& logits =
      whole_ != nullptr ? whole_->scores.view() : const_cast<LoopSlot&>(step_).slot().output(logits_);
  TensorView view = logits;
  const int64_t words = logits.rank > 0 ? logits.shape[logits.rank - 1] : 0;
  const int64_t each = logits.rank == 3 ? logits.shape[1] : 1;
  view.rank = 2;
  view.shape[1] = words;
  *stride = each * words;
  if (view.data != nullptr) {
    view.data = static_cast<uint8_t*>(view.data) +
                static_cast<size_t>((each - 1) * words) * item_size(view.dtype);
  }
  return view;
}

TensorView GenerateRun::tokens() noexcept {
  TensorView view;
  view.dtype = DType::kInt64;
  view.rank = 2;
  view.shape[0] = progress_->batch();
  view.shape[1] = progress_->longest();
  view.data = tokens_.data();
  progress_->write_tokens(tokens_.data());
  return view;
}

TensorView GenerateRun::lengths() noexcept {
  TensorView view;
  view.dtype = DType::kInt64;
  view.rank = 1;
  view.shape[0] = progress_->batch();
  view.data = lengths_.data();
  for (int64_t row = 0; row < progress_->batch(); ++row) {
    lengths_[static_cast<size_t>(row)] = progress_->length(row);
  }
  return view;
}

}  // namespace mmedge::runtime
