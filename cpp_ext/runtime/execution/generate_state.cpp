// The loop `generate` without its stage: what each run takes, and which token its scores choose.
#include "execution/generate_state.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "error.h"
#include "execution/convert.h"

namespace mmedge::runtime {
namespace {

// Most tokens that memory is set aside for: 1 GiB of them.
constexpr int64_t kMaxCapacity = int64_t{1} << 27;
constexpr int64_t kMaxVocabulary = int64_t{1} << 31;

// The number of scores of a row that memory is set aside for.
size_t vocabulary_of(const TokenLoop& loop, const GenerateCapacity& capacity) {
  const int64_t words = loop.words ? loop.words : capacity.vocabulary;
  if (words < 1 || words > kMaxVocabulary) {
    throw Error(Code::kInput, "a loop needs a vocabulary of 1 to 2147483648 tokens, got " +
                                  std::to_string(words));
  }
  return static_cast<size_t>(words);
}

// Writes a whole number as int32 or int64.
void put(std::vector<uint8_t>* data, DType dtype, int64_t place, int64_t value) noexcept {
  if (dtype == DType::kInt32) {
    const auto narrow = static_cast<int32_t>(value);
    std::memcpy(data->data() + place * 4, &narrow, 4);
  } else {
    std::memcpy(data->data() + place * 8, &value, 8);
  }
}

int64_t get(const TensorView& tensor, int64_t place) noexcept {
  const auto* bytes = static_cast<const uint8_t*>(tensor.data);
  if (tensor.dtype == DType::kInt32) {
    int32_t narrow;
    std::memcpy(&narrow, bytes + place * 4, 4);
    return narrow;
  }
  int64_t value;
  std::memcpy(&value, bytes + place * 8, 8);
  return value;
}

}  // namespace

GenerateState::GenerateState(const TokenLoop& loop, const GenerateCapacity& capacity)
    : loop_(loop), capacity_(capacity), sampler_(vocabulary_of(loop, capacity)) {
  const int64_t limit = loop.loop.limit;
  const int64_t batch = capacity.batch, first = capacity.first_tokens;
  if (batch < 1 || first < 1 || first > kMaxCapacity / batch || limit > kMaxCapacity / batch) {
    throw Error(Code::kInput, "a loop was to set memory aside for " + std::to_string(batch) +
                                  " rows of " + std::to_string(first) + " tokens and up to " +
                                  std::to_string(limit) +
                                  " more; expected at least 1 of each, and " +
                                  std::to_string(kMaxCapacity) + " tokens at most in all");
  }
  const auto rows = static_cast<size_t>(batch), places = static_cast<size_t>(batch * first);
  stops_.reserve(kMaxStops);
  first_.resize(places);
  token_data_.resize(places * 8);
  position_data_.resize(places * 8);
  chosen_.resize(rows * static_cast<size_t>(limit));
  lengths_.resize(rows);
}

Code GenerateState::begin(const GenerateCall& call, const GenerateOptions& options,
                          CallError* error) noexcept {
  finish_ = LoopFinish::kCancel;  // until all is well
  index_ = batch_ = first_count_ = begin_ = end_ = 0;
  has_begun_ = false;
  if (set_options(options, error) != Code::kOk) return error->code;
  if (!loop_.token.shape[0].is_dynamic()) {
    batch_ = loop_.token.shape[0].size;
  } else if (call.batch) {
    batch_ = *call.batch;
  } else if (call.prompt) {
    batch_ = call.prompt->rank ? call.prompt->shape[0] : 0;
  } else {
    batch_ = loop_.default_batch;
  }
  if (batch_ < 1 || batch_ > capacity_.batch) {
    const auto rows = static_cast<long long>(batch_);
    batch_ = 0;
    return error->set(Code::kInput, "this call has %lld rows, memory was set aside for 1 to %lld",
                      rows, static_cast<long long>(capacity_.batch));
  }
  taken_ = call.taken, first_choice_ = call.choices;
  if (set_first_tokens(call, error) != Code::kOk) return error->code;
  if (options_.forced != nullptr && options_.forced_rows != batch_) {
    return error->set(Code::kInput, "forced: expected tokens for %lld rows, got %lld",
                      static_cast<long long>(batch_), static_cast<long long>(options_.forced_rows));
  }
  const int64_t most = loop_.most_new(batch_);
  run_most_ = most ? most : first_count_;
  if (loop_.loop.whole_prompt && first_count_ > run_most_) {
    return error->set(Code::kInput,
                      "the call begins with %lld tokens; this network's see each other, so one run "
                      "takes all, up to %lld; give fewer",
                      static_cast<long long>(first_count_), static_cast<long long>(run_most_));
  }
  if (set_limit(call.state_sizes, error) != Code::kOk) return error->code;
  std::fill(lengths_.begin(), lengths_.end(), -1);
  finish_ = LoopFinish::kNone;
  return Code::kOk;
}

Code GenerateState::set_options(const GenerateOptions& options, CallError* error) noexcept {
  const Code code = check_generate_options(options, loop_.loop, loop_.most_token, error);
  if (code != Code::kOk) return code;
  options_ = options;
  limit_ = options.limit.value_or(loop_.loop.limit);
  const std::vector<int64_t>& stops = loop_.loop.stop;
  const TokenList stop =
      options.stop.value_or(TokenList{stops.data(), std::min(stops.size(), kMaxStops)});
  stops_.assign(stop.data, stop.data + stop.count);  // within what was reserved
  fill_ = stops_.empty() ? 0 : stops_[0];
  sampling_ = {options.temperature.value_or(loop_.loop.temperature),
               options.top_k.value_or(loop_.loop.top_k), options.top_p.value_or(loop_.loop.top_p),
               options.seed};
  return Code::kOk;
}

Code GenerateState::set_first_tokens(const GenerateCall& call, CallError* error) noexcept {
  const char* name = loop_.loop.token.c_str();
  const int64_t* first = loop_.loop.start.data();
  int64_t first_count = static_cast<int64_t>(loop_.loop.start.size()), first_stride = 0;
  if (call.pending != nullptr) {
    first = call.pending;
    first_count = first_stride = call.pending_count;
    if (call.pending_rows != batch_) {
      return error->set(Code::kInput,
                        "the State given has %lld rows, this call has %lld; call with as many, or "
                        "with a new State",
                        static_cast<long long>(call.pending_rows), static_cast<long long>(batch_));
    }
  }
  int64_t prompt_count = 0;
  if (call.prompt) {
    const TensorView& prompt = *call.prompt;
    if ((prompt.dtype != DType::kInt32 && prompt.dtype != DType::kInt64) || prompt.rank < 1 ||
        prompt.rank > 2) {
      return error->set(Code::kInput, "input '%s': expected int32 or int64 tokens, [batch, n]",
                        name);
    }
    prompt_count = prompt.rank == 2 ? prompt.shape[1] : 1;
    int64_t least = 0;
    const int64_t elements = prompt.elements();
    for (int64_t i = 0; i < elements; ++i) least = std::min(least, get(prompt, i));
    if (least < 0) {  // a graph may take it for one that is counted from the end
      return error->set(Code::kInput,
                        "input '%s' holds %lld; tokens are numbers from 0, and padding is left out",
                        name, static_cast<long long>(least));
    }
    if (prompt.shape[0] != batch_) {
      return error->set(Code::kInput,
                        "input '%s' has %lld rows, the other inputs of this call have %lld; give "
                        "each row its own tokens",
                        name, static_cast<long long>(prompt.shape[0]),
                        static_cast<long long>(batch_));
    }
  }
  const int64_t total = first_count + prompt_count;
  if (total == 0) {
    return error->set(Code::kInput,
                      "input '%s' holds no token, and the loop has none to start with; give one at "
                      "least",
                      name);
  }
  if (total > capacity_.first_tokens) {
    return error->set(Code::kInput,
                      "the call begins with %lld tokens, memory was set aside for %lld; give fewer",
                      static_cast<long long>(total), static_cast<long long>(capacity_.first_tokens));
  }
  int64_t* out = first_.data();
  for (int64_t row = 0; row < batch_; ++row) {
    out = std::copy_n(first + row * first_stride, first_count, out);
    for (int64_t i = 0; i < prompt_count; ++i) *out++ = get(*call.prompt, row * prompt_count + i);
  }
  first_count_ = total;
  return Code::kOk;
}

// How many tokens may be chosen before a state is larger than it may be.
Code GenerateState::set_limit(const int64_t* sizes, CallError* error) noexcept {
  const int64_t taken = first_count_;
  // Of the last run of the first tokens, whose size is what one run takes at most.
  const int64_t last = taken - (taken - 1) % run_most_ - 1;
  for (size_t i = 0; i < loop_.growing.size(); ++i) {
    const GrowingState& state = loop_.growing[i];
    const int64_t size = sizes[i];
    int64_t room = 0;
    if (state.most_after) {
      room = std::min(room, *state.most_after - size - taken);
      limit_ = std::min(limit_, 1 + *state.most_after - size - taken);
    }
    if (state.most_before) {
      room = std::min(room, *state.most_before - size - last);
      limit_ = std::min(limit_, 2 + *state.most_before - size - taken);
    }
    if (room < 0) {
      return error->set(Code::kInput,
                        "the call begins with %lld tokens, %lld more than state '%s' of stage '%s' "
                        "takes beside the %lld that it holds; give fewer",
                        static_cast<long long>(taken), static_cast<long long>(-room),
                        state.input.c_str(), loop_.loop.stage.c_str(),
                        static_cast<long long>(size));
    }
  }
  limit_ = std::max<int64_t>(limit_, 1);
  return Code::kOk;
}

int64_t GenerateState::count_common(const int64_t* tokens, int64_t rows,
                                    int64_t count) const noexcept {
  if (rows != batch_ || loop_.loop.whole_prompt) return 0;
  const int64_t least = std::min(first_count_, count);
  int64_t common = least;
  for (int64_t row = 0; row < batch_; ++row) {
    const int64_t* mine = first_.data() + row * first_count_;
    const int64_t* other = tokens + row * count;
    common = std::mismatch(mine, mine + common, other).first - mine;
  }
  if (common == first_count_ && common == count) return common;
  if (common < count) {
    // The scores of what follows are not there: the last token is run.
    common = loop_.can_cut ? std::min(common, first_count_ - 1) : 0;
  }
  // What every call starts with is not worth it.
  return common > static_cast<int64_t>(loop_.loop.start.size()) ? common : 0;
}

void GenerateState::skip(int64_t count) noexcept { begin_ = end_ = count; }

void GenerateState::set_run(const int64_t* tokens, int64_t stride, int64_t count, int64_t position,
                            TokenRun* run) noexcept {
  TensorView& token = run->token;
  token = {};
  token.dtype = loop_.token.dtype;
  token.rank = loop_.token.shape.size();
  token.shape[0] = batch_;
  if (token.rank == 2) token.shape[1] = count;
  token.data = token_data_.data();
  for (int64_t row = 0; row < batch_; ++row) {
    for (int64_t i = 0; i < count; ++i) {
      put(&token_data_, loop_.token.dtype, row * count + i, tokens[row * stride + i]);
    }
  }
  run->position = {};
  if (!loop_.position) return;
  TensorView& places = run->position;
  places.dtype = loop_.position->dtype;
  places.rank = loop_.position->shape.size();
  places.data = position_data_.data();
  const bool is_per_row = places.rank == token.rank;
  if (is_per_row) {
    std::copy_n(token.shape, token.rank, places.shape);
  } else if (places.rank) {
    places.shape[0] = count;
  }
  const int64_t rows = is_per_row ? batch_ : 1, columns = places.rank ? count : 1;
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t i = 0; i < columns; ++i) {
      put(&position_data_, places.dtype, row * columns + i, position + i);
    }
  }
}

bool GenerateState::next_run(double now, TokenRun* run) noexcept {
  if (finish_ != LoopFinish::kNone) return false;
  if (has_begun_) {
    set_run(tokens(), 1, 1, taken_, run);
    run->are_scores_used = true;
    ++taken_;
    return true;
  }
  if (now >= options_.deadline) {
    end(LoopFinish::kDeadline);
    return false;
  }
  end_ = std::min(first_count_, begin_ + run_most_);
  set_run(first_.data() + begin_, first_count_, end_ - begin_, taken_ + begin_, run);
  run->are_scores_used = end_ == first_count_;
  return true;
}

Code GenerateState::read_scores(const TensorView& logits, Scores* scores,
                                CallError* error) const noexcept {
  const size_t rank = logits.rank;
  const int64_t words = rank == 2 || rank == 3 ? logits.shape[rank - 1] : 0;
  const int64_t each = rank == 3 ? logits.shape[1] : 1;
  const bool fits = loop_.words ? words == loop_.words
                                : 1 <= words && words <= static_cast<int64_t>(sampler_.vocabulary());
  if (!is_float(logits.dtype) || !fits || logits.shape[0] != batch_ || each < 1) {
    return error->set(Code::kBackend,
                      "stage '%s' gives '%s' with %zu axes and %lld scores, expected %lld rows of "
                      "%s %zu",
                      loop_.loop.stage.c_str(), loop_.loop.logits.c_str(), rank,
                      static_cast<long long>(words), static_cast<long long>(batch_),
                      loop_.words ? "exactly" : "at most", sampler_.vocabulary());
  }
  scores->dtype = logits.dtype;
  scores->rows = static_cast<size_t>(batch_);
  scores->vocabulary = static_cast<size_t>(words);
  scores->stride = static_cast<size_t>(each * words);
  scores->data = static_cast<const uint8_t*>(logits.data) +
                 static_cast<size_t>((each - 1) * words) * item_size(logits.dtype);
  return Code::kOk;
}

Code GenerateState::accept(const TensorView& logits, double now, CallError* error) noexcept {
  if (finish_ != LoopFinish::kNone) {
    return error->set(Code::kInput, "the loop has ended and takes no scores; begin another run");
  }
  if (!has_begun_) {
    begin_ = end_;
    if (begin_ < first_count_) return Code::kOk;
    taken_ += first_count_;
    has_begun_ = true;
  }
  Scores scores;
  if (read_scores(logits, &scores, error) != Code::kOk) return error->code;
  int64_t* chosen = chosen_.data() + index_ * batch_;
  const int64_t choice = first_choice_ + index_;
  if (options_.forced != nullptr && index_ < options_.forced_count) {
    for (int64_t row = 0; row < batch_; ++row) {
      chosen[row] = options_.forced[row * options_.forced_count + index_];
    }
  } else if (!sampler_.choose(scores, sampling_, static_cast<uint64_t>(choice),
                              choice ? loop_.suppress : loop_.suppress_first, chosen)) {
    return error->set(Code::kBackend,
                      "the scores for token %lld hold NaN or infinity, or nothing but minus infinity, "
                      "so that no token can be chosen; look at the inputs of this call, and run "
                      "mmedge verify on the bundle",
                      static_cast<long long>(choice));
  }
  bool has_ended = true;
  for (int64_t row = 0; row < batch_; ++row) {
    int64_t& length = lengths_[static_cast<size_t>(row)];
    if (length >= 0) {
      chosen[row] = fill_;
    } else if (is_stop(chosen[row])) {
      length = index_;
    } else {
      has_ended = false;
    }
  }
  ++index_;
  if (has_ended) {
    finish_ = LoopFinish::kStop;
  } else if (index_ == limit_) {
    finish_ = LoopFinish::kLimit;
  } else if (now >= options_.deadline) {
    finish_ = LoopFinish::kDeadline;
  }
  return Code::kOk;
}

void GenerateState::cancel() noexcept {
  if (finish_ == LoopFinish::kNone) end(LoopFinish::kCancel);
}

// Ends the loop before its time. First tokens that the stage has taken are pending no more.
void GenerateState::end(LoopFinish finish) noexcept {
  if (!has_begun_) taken_ += begin_;
  finish_ = finish;
}

bool GenerateState::is_stop(int64_t token) const noexcept {
  return std::find(stops_.begin(), stops_.end(), token) != stops_.end();
}

bool GenerateState::is_active(int64_t row) const noexcept {
  return lengths_[static_cast<size_t>(row)] < 0;
}

bool GenerateState::has_just_ended(int64_t row) const noexcept {
  return lengths_[static_cast<size_t>(row)] == index_ - 1;
}

int64_t GenerateState::length(int64_t row) const noexcept {
  const int64_t length = lengths_[static_cast<size_t>(row)];
  return length < 0 ? index_ : length;
}

int64_t GenerateState::longest() const noexcept {
  int64_t longest = 0;
  for (int64_t row = 0; row < batch_; ++row) longest = std::max(longest, length(row));
  return longest;
}

LoopFinish GenerateState::row_finish(int64_t row) const noexcept {
  if (lengths_[static_cast<size_t>(row)] >= 0) return LoopFinish::kStop;
  return finish_ == LoopFinish::kNone ? LoopFinish::kCancel : finish_;
}

void GenerateState::write_tokens(int64_t* out) const noexcept {
  const int64_t columns = longest();
  for (int64_t row = 0; row < batch_; ++row) {
    for (int64_t i = 0; i < columns; ++i) {
      *out++ = i < length(row) ? chosen_[static_cast<size_t>(i * batch_ + row)] : fill_;
    }
  }
}

int64_t GenerateState::pending_count() const noexcept {
  return index_ ? 1 : first_count_ - begin_;
}

void GenerateState::write_pending(int64_t* out) const noexcept {
  if (index_) {
    std::copy_n(tokens(), batch_, out);
    return;
  }
  const int64_t count = pending_count();
  for (int64_t row = 0; row < batch_; ++row) {
    const int64_t* first = first_.data() + row * first_count_;
    out = std::copy_n(first + (first_count_ - count), count, out);
  }
}

}  // namespace mmedge::runtime
