// Joins the loop `generate` with the stage that it runs.
#include "generate_run.h"

#include <algorithm>

#include "clock.h"
#include "error.h"
#include "schema/constraints.h"

namespace mmedge::runtime {
namespace {

// Runs of a warm-up, and steps of each.
constexpr int kWarmRuns = 3;

}  // namespace

GenerateRun::GenerateRun(Pipeline* pipeline)
    : pipeline_(*pipeline),
      loop_(*pipeline->network()->token_loop()),
      step_(pipeline->network()->loop_stages().front()) {
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
  for (int i = 0; i < kWarmRuns; ++i) {
    // Zeros may choose the end at once.
    GenerateOptions options;
    options.stop = TokenList{};
    bool taken = false;
    Code code = begin(tensors, count, options, false, nullptr);
    for (int step = 0; step < kWarmRuns && code == Code::kOk; ++step) code = this->step(&taken);
    if (code != Code::kOk) throw Error(code, message());
  }
  give_up();
  has_begun_ = false;
}

// Sizes of dimensions in this call, by all tensors but the tokens.
void GenerateRun::find_sizes() noexcept {
  pipeline_.find_loop_sizes(step_.stage(), prompt_ ? static_cast<int>(*prompt_) : -1, &sizes_);
}

Code GenerateRun::fail(Code code) noexcept {
  give_up();
  has_begun_ = false;
  return code;
}

Code GenerateRun::begin(const NamedTensor* tensors, size_t count, const GenerateOptions& options,
                        bool cached, State* state) noexcept {
  fail(Code::kOk);
  if (state != nullptr) {
    const Code code = state->acquire(pipeline_.network().get(), &error_);
    if (code != Code::kOk) return code;
  }
  const Code code = begin_call(tensors, count, options, cached, state);
  if (code == Code::kOk) {
    state_ = state;
    has_begun_ = is_open_ = true;
  } else if (state != nullptr) {
    state->release();
  }
  return code;
}

Code GenerateRun::begin_call(const NamedTensor* tensors, size_t count, const GenerateOptions& options,
                             bool cached, const State* state) noexcept {
  Code code = check_generate_options(options, loop_.loop, loop_.most_token, &error_);
  if (code != Code::kOk) return code;
  code = pipeline_.compute(tensors, count, cached, state);
  if (code == Code::kOk && state != nullptr) code = pipeline_.check_states();
  if (code != Code::kOk) return error_.set(code, "%s", pipeline_.message());
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
  code = step_.begin(pipeline_, sizes_.data(), state, &error_);
  if (code != Code::kOk) return code;
  for (size_t i = 0; i < growing_.size(); ++i) {
    growing_sizes_[i] = step_.size_along(growing_[i], loop_.growing[i].axis);
  }
  call.state_sizes = growing_sizes_.data();
  code = progress_->begin(call, options, &error_);
  if (code != Code::kOk) return code;
  return Code::kOk;
}

Code GenerateRun::step(bool* taken) noexcept {
  *taken = false;
  if (!has_begun_) return error_.set(Code::kInput, "no loop was begun; call mmedge_loop_begin()");
  TokenRun run;
  while (is_open_ && progress_->next_run(now(), &run)) {
    RunSlot& slot = step_.slot();
    Code code = slot.set_input(token_, run.token);
    if (code == Code::kOk && run.position.data != nullptr) {
      code = slot.set_input(position_, run.position);
    }
    if (code != Code::kOk) return fail(error_.set(code, "%s", slot.message()));
    if (code = step_.run(&error_); code != Code::kOk) return fail(code);
    code = progress_->accept(slot.output(logits_), now(), &error_);
    if (code != Code::kOk) return fail(code);
    if (!run.are_scores_used) continue;
    *taken = true;
    break;
  }
  if (is_open_ && progress_->finish() != LoopFinish::kNone) leave();
  return Code::kOk;
}

void GenerateRun::leave() noexcept {
  is_open_ = false;
  if (state_ == nullptr) return;
  pipeline_.leave_states(state_);
  step_.leave(state_);
  state_->position = progress_->taken();
  state_->choices = progress_->choices();
  state_->pending_rows = progress_->batch();
  state_->pending_count = progress_->pending_count();
  progress_->write_pending(state_->pending.data());
  state_->release();
  state_ = nullptr;
}

void GenerateRun::cancel() noexcept {
  if (!is_open_) return;
  progress_->cancel();
  leave();
}

void GenerateRun::give_up() noexcept {
  if (is_open_) progress_->cancel();
  is_open_ = false;
  if (state_ != nullptr) state_->release();
  state_ = nullptr;
}

TensorView GenerateRun::scores(int64_t* stride) const noexcept {
  const TensorView& logits = const_cast<LoopSlot&>(step_).slot().output(logits_);
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
