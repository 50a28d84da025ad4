// Keys and values in buffers that ONNX Runtime writes in place.
#include "in_place_slot.h"

#include <algorithm>
#include <cstring>
#include <limits>

namespace mmedge::runtime::onnxruntime {
namespace {

// Places for tokens to come in a new buffer, at most: a loop's limit may be far beyond its answers.
constexpr int64_t kRoom = 512;

// The axis along which a state grows.
constexpr size_t kLength = 2;

size_t place_of(const std::vector<TensorSpec>& specs, const std::string& name) {
  const auto spec = std::find_if(specs.begin(), specs.end(),
                                 [&](const TensorSpec& each) { return each.name == name; });
  if (spec == specs.end()) throw Error(Code::kBackend, "the graph has no '" + name + "'");
  return static_cast<size_t>(spec - specs.begin());
}

TensorView shaped(DType dtype, std::initializer_list<int64_t> shape) noexcept {
  TensorView view;
  view.dtype = dtype;
  view.rank = shape.size();
  std::copy(shape.begin(), shape.end(), view.shape);
  return view;
}

// Copies `bytes` of each of `rows` rows, which begin `from_step` and `to_step` bytes apart.
void copy_rows(const void* from, size_t from_step, void* to, size_t to_step, size_t rows,
               size_t bytes) noexcept {
  const auto* source = static_cast<const uint8_t*>(from);
  auto* target = static_cast<uint8_t*>(to);
  for (size_t row = 0; row < rows && bytes > 0; ++row) {
    // Within one buffer, rows move toward its beginning.
    std::memmove(target + row * to_step, source + row * from_step, bytes);
  }
}

// Copies the first `length` places of a state [batch, heads, places, size] to one of other places.
void spread(const TensorView& from, int64_t length, const TensorView& to) noexcept {
  const size_t place = static_cast<size_t>(from.shape[3]) * item_size(from.dtype);
  copy_rows(from.data, static_cast<size_t>(from.shape[kLength]) * place, to.data,
            static_cast<size_t>(to.shape[kLength]) * place,
            static_cast<size_t>(from.shape[0] * from.shape[1]),
            static_cast<size_t>(length) * place);
}

}  // namespace

InPlaceCache::InPlaceCache(const Manifest& manifest, const GenerateLoop& loop, const Stage& stage,
                           const std::vector<TensorSpec>& inputs,
                           const std::vector<TensorSpec>& outputs)
    : room(std::min(loop.limit, kRoom)) {
  token = place_of(inputs, loop.token);
  last = place_of(inputs, kCacheLast);
  total = place_of(inputs, kCacheTotal);
  if (loop.position) position = place_of(inputs, *loop.position);
  std::vector<bool> is_state(outputs.size());
  for (const StateSpec& state : manifest.states) {
    if (state.stage != stage.name) continue;
    const Pair pair{place_of(inputs, state.input), place_of(outputs, state.output)};
    is_state[pair.output] = true;
    if (!state.axis) {
      others.push_back(pair);
      continue;
    }
    growing.push_back(pair);
    const Axis& axis = outputs[pair.output].shape.at(kLength);
    std::optional<int64_t> limit = axis.size;
    if (axis.is_dynamic()) limit = manifest.dimensions.at(axis.dimension).max;
    if (limit) most = std::min(most.value_or(*limit), *limit);
  }
  for (size_t i = 0; i < outputs.size(); ++i) {
    if (!is_state[i]) results.push_back(i);
  }
}

int64_t InPlaceCache::capacity(int64_t length, int64_t total) const noexcept {
  const int64_t capacity = total + std::max(length, room);
  return most ? std::max(total, std::min(capacity, *most)) : capacity;
}

InPlaceSlot::InPlaceSlot(const LoadedGraph& graph, const InPlaceCache& cache)
    : cache_(cache), slot_(graph), states_(cache.growing.size()), joined_(graph.outputs->size()) {
  for (size_t i = 0; i < states_.size(); ++i) states_[i].at = cache.growing[i];
  TensorView total = shaped(DType::kInt32, {});
  total.data = &total_value_;
  if (slot_.set_input(cache_.total, total) != Code::kOk) {
    throw Error(Code::kBackend, slot_.message());
  }
}

InPlaceSlot::State* InPlaceSlot::find(size_t place, size_t InPlaceCache::Pair::*of) noexcept {
  for (State& state : states_) {
    if (state.at.*of == place) return &state;
  }
  return nullptr;
}

const InPlaceSlot::State* InPlaceSlot::find(size_t place,
                                            size_t InPlaceCache::Pair::*of) const noexcept {
  return const_cast<InPlaceSlot*>(this)->find(place, of);
}

Code InPlaceSlot::set_input(size_t index, const TensorView& tensor) noexcept {
  const Code code = slot_.set_input(index, tensor);
  State* state = code == Code::kOk ? find(index, &InPlaceCache::Pair::input) : nullptr;
  if (state == nullptr) return code;
  // It is copied to a buffer when it is known how many tokens come.
  state->is_set = true;
  state->before = tensor;
  length_ = tensor.shape[kLength];
  capacity_ = 0;
  return code;
}

Code InPlaceSlot::set_input(size_t index, const Value& value) noexcept {
  if (find(index, &InPlaceCache::Pair::input) == nullptr) return slot_.set_input(index, value);
  // A value that was a buffer is larger for the engine than what it holds.
  return set_input(index, value.view());
}

Code InPlaceSlot::feed_back(size_t output, size_t input) noexcept {
  State* state = find(input, &InPlaceCache::Pair::input);
  if (state == nullptr || state->at.output != output) return slot_.feed_back(output, input);
  if (capacity_ == 0) {
    return slot_.fail(Code::kInput, "output %zu holds nothing that the engine made", output);
  }
  length_ = total_;
  state->before = state->after;
  return Code::kOk;
}

Code InPlaceSlot::set_output(size_t index, const TensorView& memory) noexcept {
  if (find(index, &InPlaceCache::Pair::output) == nullptr) return slot_.set_output(index, memory);
  return slot_.fail(Code::kInput, "output %zu is written in place", index);
}

void InPlaceSlot::reset_output(size_t index) noexcept {
  if (find(index, &InPlaceCache::Pair::output) == nullptr) slot_.reset_output(index);
}

Code InPlaceSlot::run() noexcept {
  for (Value& each : joined_) each = Value();
  for (const State& state : states_) {
    if (state.is_set) continue;
    return slot_.fail(Code::kInput, "the state of input %zu is not set", state.at.input);
  }
  const TensorView tokens = slot_.input(cache_.token);
  const int64_t rows = tokens.rank > 0 ? tokens.shape[0] : 0;
  const int64_t count = tokens.rank == 2 ? tokens.shape[1] : 1;
  if (rows < 1 || count < 1 || count > std::numeric_limits<int32_t>::max() - length_) {
    return slot_.fail(Code::kInput, "%lld rows of %lld tokens behind %lld others cannot be run",
                      static_cast<long long>(rows), static_cast<long long>(count),
                      static_cast<long long>(length_));
  }
  return count > 1 && rows > 1 && length_ > 0 ? run_each(rows, count) : run_once(rows, count);
}

Code InPlaceSlot::run_once(int64_t rows, int64_t count) noexcept {
  total_ = length_ + count;
  Code code = total_ > capacity_ ? move() : Code::kOk;
  if (code == Code::kOk && (!last_ || last_.view().shape[0] != rows)) {
    code = slot_.make_tensor(shaped(DType::kInt32, {rows}), &last_);
    if (code == Code::kOk) code = slot_.set_input(cache_.last, last_.view());
    if (code != Code::kOk) last_ = Value();
  }
  if (code != Code::kOk) return code;
  total_value_ = static_cast<int32_t>(total_);
  std::fill_n(static_cast<int32_t*>(last_.view().data), rows, total_value_ - 1);
  if (code = slot_.run(); code != Code::kOk) return code;
  for (State& state : states_) {
    state.after = state.buffer.view();
    state.after.shape[kLength] = total_;
    state.after.data = nullptr;
  }
  return code;
}

// The operator takes several tokens only of one row, or at the beginning.
Code InPlaceSlot::run_each(int64_t rows, int64_t count) noexcept {
  const int64_t length = length_;
  const TensorView tokens = slot_.input(cache_.token);
  TensorView positions;
  if (cache_.position) positions = slot_.input(*cache_.position);
  Value token, position;
  Code code = Code::kOk;
  for (int64_t i = 0; i < count && code == Code::kOk; ++i) {
    code = set_token(cache_.token, tokens, i, tokens.rank, &token);
    if (code == Code::kOk && cache_.position) {
      code = set_token(*cache_.position, positions, i, tokens.rank, &position);
    }
    for (const InPlaceCache::Pair& pair : cache_.others) {
      if (code == Code::kOk && i > 0) code = slot_.feed_back(pair.output, pair.input);
    }
    length_ = length + i;
    if (code == Code::kOk) code = run_once(rows, 1);
    if (code == Code::kOk) code = join(i, count);
  }
  length_ = length;
  // The values above end here, and the engine's inputs with them.
  const Code restored = slot_.set_input(cache_.token, tokens);
  if (code == Code::kOk) code = restored;
  if (cache_.position) {
    const Code other = slot_.set_input(*cache_.position, positions);
    if (code == Code::kOk) code = other;
  }
  return code;
}

// Sets an input to that of one token: of [batch, new] or [new] a part, of [] the next number.
Code InPlaceSlot::set_token(size_t input, const TensorView& of_all, int64_t index, size_t rank,
                            Value* memory) noexcept {
  TensorView one = of_all;
  if (of_all.rank > 0) one.shape[of_all.rank - 1] = 1;
  if (!*memory) {
    if (const Code code = slot_.make_tensor(one, memory); code != Code::kOk) return code;
  }
  const TensorView& made = memory->view();
  const size_t item = item_size(of_all.dtype);
  const uint8_t* from = static_cast<const uint8_t*>(of_all.data) + static_cast<size_t>(index) * item;
  if (of_all.rank == rank) {
    copy_rows(from, static_cast<size_t>(of_all.shape[1]) * item, made.data, item,
              static_cast<size_t>(of_all.shape[0]), item);
  } else if (of_all.rank > 0) {
    std::memcpy(made.data, from, item);
  } else if (of_all.dtype == DType::kInt32) {
    *static_cast<int32_t*>(made.data) =
        static_cast<int32_t>(*static_cast<const int32_t*>(of_all.data) + index);
  } else {
    *static_cast<int64_t*>(made.data) = *static_cast<const int64_t*>(of_all.data) + index;
  }
  return slot_.set_input(input, made);
}

// Adds what the run of one token gave to that of all, along axis 1 of what has three axes.
Code InPlaceSlot::join(int64_t index, int64_t count) noexcept {
  for (const size_t place : cache_.results) {
    const TensorView& part = slot_.output(place);
    if (part.rank != 3) continue;
    TensorView all = part;
    all.shape[1] = count;
    Value& joined = joined_[place];
    if (index == 0) {
      if (const Code code = slot_.make_tensor(all, &joined); code != Code::kOk) return code;
    }
    const TensorView& made = joined.view();
    if (part.shape[1] != 1 || part.shape[0] != made.shape[0] || part.shape[2] != made.shape[2]) {
      return slot_.fail(Code::kBackend, "output %zu has another shape for another token", place);
    }
    const size_t bytes = static_cast<size_t>(part.shape[2]) * item_size(part.dtype);
    auto* to = static_cast<uint8_t*>(made.data) + static_cast<size_t>(index) * bytes;
    copy_rows(part.data, bytes, to, static_cast<size_t>(count) * bytes,
              static_cast<size_t>(part.shape[0]), bytes);
  }
  return Code::kOk;
}

// Puts what there is so far into buffers for `total_` places and more to come. Those of an earlier
// call serve where they are large enough.
Code InPlaceSlot::move() noexcept {
  const int64_t held = capacity_;
  const Value& first = states_.front().buffer;
  int64_t capacity = held == 0 && first ? first.view().shape[kLength] : 0;
  bool is_reused = capacity >= total_;
  for (const State& state : states_) {
    const TensorView& old = slot_.input(state.at.input);
    if (old.shape[kLength] != (held ? held : length_)) {
      return slot_.fail(Code::kInput, "states begin with other lengths, %lld and %lld",
                        static_cast<long long>(old.shape[kLength]), static_cast<long long>(length_));
    }
    const TensorView& buffer = state.buffer.view();
    is_reused = is_reused && state.buffer && buffer.shape[0] == old.shape[0] &&
                buffer.shape[kLength] == capacity && buffer.data != old.data;
  }
  if (!is_reused) capacity = cache_.capacity(length_, total_);
  capacity_ = 0;  // until all have moved
  for (State& state : states_) {
    const TensorView old = slot_.input(state.at.input);
    Value made;
    if (is_reused) {
      made.swap(state.buffer);
    } else {
      TensorView all = old;
      all.shape[kLength] = capacity;
      if (const Code code = slot_.make_tensor(all, &made); code != Code::kOk) return code;
    }
    spread(old, length_, made.view());
    Code code = slot_.set_input(state.at.input, made.view());
    if (code == Code::kOk) code = slot_.set_output(state.at.output, made.view());
    state.is_set = code == Code::kOk;
    state.buffer = std::move(made);  // the one before is read no more
    if (code != Code::kOk) return code;
  }
  capacity_ = capacity;
  return Code::kOk;
}

// The state at this length; its buffer is the caller's from now on, without gaps.
Value InPlaceSlot::take(State* state, int64_t length) noexcept {
  state->is_set = false;
  TensorView view = state->buffer.view();
  view.shape[kLength] = length;
  spread(state->buffer.view(), length, view);
  return slot_.own(state->buffer.leave(), view);
}

const TensorView& InPlaceSlot::output(size_t index) const noexcept {
  if (const State* state = find(index, &InPlaceCache::Pair::output)) return state->after;
  return index < joined_.size() && joined_[index] ? joined_[index].view() : slot_.output(index);
}

Value InPlaceSlot::take_output(size_t index) noexcept {
  if (State* state = find(index, &InPlaceCache::Pair::output)) {
    return capacity_ > 0 && state->is_set ? take(state, total_) : Value();
  }
  if (index < joined_.size() && joined_[index]) return std::move(joined_[index]);
  return slot_.take_output(index);
}

const TensorView& InPlaceSlot::input(size_t index) const noexcept {
  const State* state = find(index, &InPlaceCache::Pair::input);
  return state != nullptr ? state->before : slot_.input(index);
}

Value InPlaceSlot::take_input(size_t index) noexcept {
  State* state = find(index, &InPlaceCache::Pair::input);
  if (state == nullptr) return slot_.take_input(index);
  return capacity_ > 0 && state->is_set ? take(state, length_) : Value();
}

Code InPlaceSlot::copy_input(size_t index, Value* out) noexcept {
  const State* state = find(index, &InPlaceCache::Pair::input);
  if (state == nullptr) return slot_.copy_input(index, out);
  if (!state->is_set) return slot_.fail(Code::kInput, "input %zu is not set", index);
  const Code code = slot_.make_tensor(state->before, out);
  if (code == Code::kOk) spread(slot_.input(index), state->before.shape[kLength], out->view());
  return code;
}

}  // namespace mmedge::runtime::onnxruntime
