// mmedge for C++17: owners around the C API of mmedge/mmedge.h and mmedge/stream.h, which explain what
// each call does.
//
// Nothing throws. What can fail gives a Result: a value, or a status and a message.
//
//   auto bundle = mmedge::Bundle::open("vqa.mmedge");
//   if (!bundle) return report(bundle.error());
//   auto pipeline = mmedge::Pipeline::load(*bundle);
//   ...
#ifndef MMEDGE_MMEDGE_HPP_
#define MMEDGE_MMEDGE_HPP_

#include <initializer_list>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "mmedge/mmedge.h"
#include "mmedge/stream.h"
#include "mmedge/text.h"

namespace mmedge {

// What went wrong: a status of mmedge/base.h, and what to do in words.
struct Failure {
  mmedge_status status = MMEDGE_OK;
  std::string message;
};

// A value or a failure. `*result` of a failure is undefined.
template <class T>
class [[nodiscard]] Result {
 public:
  Result(T value) : value_(std::move(value)) {}            // NOLINT: from a value
  Result(Failure failure) : failure_(std::move(failure)) {}  // NOLINT: from a failure

  explicit operator bool() const { return value_.has_value(); }
  T& operator*() { return *value_; }
  T* operator->() { return &*value_; }
  const Failure& error() const { return failure_; }

 private:
  std::optional<T> value_;
  Failure failure_;
};

// A status of a call that gives nothing. The message is that of mmedge_last_error(), which a further
// call of this thread replaces: text() copies it, and a Status itself costs nothing.
class [[nodiscard]] Status {
 public:
  Status(mmedge_status status) : status_(status) {}  // NOLINT: from a status
  explicit operator bool() const { return status_ == MMEDGE_OK; }
  mmedge_status code() const { return status_; }
  Failure error() const { return {status_, mmedge_last_error()}; }

 private:
  mmedge_status status_;
};

// A value or a status, of calls that are real-time: as a Result, and error() copies the text. `*outcome`
// of a failure is undefined.
template <class T>
class [[nodiscard]] Outcome {
 public:
  Outcome(const T& value) noexcept : value_(value) {}                 // NOLINT: from a value
  Outcome(mmedge_status status) noexcept : value_(), status_(status) {}  // NOLINT: from a status

  explicit operator bool() const noexcept { return status_ == MMEDGE_OK; }
  const T& operator*() const noexcept { return value_; }
  const T* operator->() const noexcept { return &value_; }
  mmedge_status code() const noexcept { return status_; }
  Failure error() const { return {status_, mmedge_last_error()}; }

 private:
  T value_;
  mmedge_status status_ = MMEDGE_OK;
};

inline Failure last_failure(mmedge_status status) { return {status, mmedge_last_error()}; }

// The mmedge_dtype of a C++ type.
template <class T>
struct dtype_of;
template <> struct dtype_of<bool> { static constexpr mmedge_dtype value = MMEDGE_BOOL; };
template <> struct dtype_of<float> { static constexpr mmedge_dtype value = MMEDGE_F32; };
template <> struct dtype_of<double> { static constexpr mmedge_dtype value = MMEDGE_F64; };
template <> struct dtype_of<int8_t> { static constexpr mmedge_dtype value = MMEDGE_I8; };
template <> struct dtype_of<int16_t> { static constexpr mmedge_dtype value = MMEDGE_I16; };
template <> struct dtype_of<int32_t> { static constexpr mmedge_dtype value = MMEDGE_I32; };
template <> struct dtype_of<int64_t> { static constexpr mmedge_dtype value = MMEDGE_I64; };
template <> struct dtype_of<uint8_t> { static constexpr mmedge_dtype value = MMEDGE_U8; };
template <> struct dtype_of<uint16_t> { static constexpr mmedge_dtype value = MMEDGE_U16; };
template <> struct dtype_of<uint32_t> { static constexpr mmedge_dtype value = MMEDGE_U32; };
template <> struct dtype_of<uint64_t> { static constexpr mmedge_dtype value = MMEDGE_U64; };

// An input of a call: elements in C order that the caller owns. `name` has to outlive the call.
template <class T>
mmedge_tensor input(const char* name, const T* data, std::initializer_list<int64_t> shape) {
  mmedge_tensor tensor{};
  tensor.name = name;
  tensor.data = const_cast<T*>(data);  // inputs are not written to
  tensor.dtype = dtype_of<T>::value;
  tensor.rank = static_cast<int32_t>(shape.size());
  size_t axis = 0, elements = 1;
  for (const int64_t size : shape) {
    if (axis < MMEDGE_MAX_RANK) tensor.shape[axis] = size;
    ++axis;
    elements *= static_cast<size_t>(size);
  }
  tensor.bytes = elements * sizeof(T);
  return tensor;
}

// An output of a call that is written to `data`, which has room for `count` elements.
template <class T>
mmedge_tensor output(const char* name, T* data, size_t count) {
  mmedge_tensor tensor{};
  tensor.name = name;
  tensor.data = data;
  tensor.bytes = count * sizeof(T);
  return tensor;
}

// An output that stays in the pipeline's memory until its next call.
inline mmedge_tensor output(const char* name) {
  mmedge_tensor tensor{};
  tensor.name = name;
  return tensor;
}

// Options of opening a bundle, to be changed before it: `auto options = mmedge::open_options();`.
inline mmedge_open_options open_options() {
  mmedge_open_options options = MMEDGE_OPEN_OPTIONS;
  return options;
}

class Bundle {
 public:
  static Result<Bundle> open(const std::string& path,
                             const mmedge_open_options& options = open_options()) {
    mmedge_bundle* handle = nullptr;
    const mmedge_status status = mmedge_bundle_open_with(path.c_str(), &options, &handle);
    if (status != MMEDGE_OK) return last_failure(status);
    return Bundle(handle);
  }

  std::string digest() const { return mmedge_bundle_digest(handle_.get()); }
  std::string manifest() const {
    size_t size = 0;
    const char* text = mmedge_bundle_manifest(handle_.get(), &size);
    return std::string(text, size);
  }
  // What it was signed as, and how far that is known to be right.
  mmedge_release release() const {
    mmedge_release release = MMEDGE_RELEASE;
    mmedge_bundle_release(handle_.get(), &release);
    return release;
  }
  // Id of the key of a signature, and whether it was verified; empty: no such signature.
  std::string signature(int32_t index, bool* verified = nullptr) const {
    const char* key_id = "";
    int32_t is_verified = 0;
    mmedge_bundle_signature(handle_.get(), index, &key_id, &is_verified);
    if (verified != nullptr) *verified = is_verified != 0;
    return key_id;
  }
  // Reads what opening leaves for later, and checks it.
  Status verify() { return mmedge_bundle_verify(handle_.get()); }
  mmedge_bundle* handle() const { return handle_.get(); }

 private:
  struct Close {
    void operator()(mmedge_bundle* handle) const { mmedge_bundle_close(handle); }
  };
  explicit Bundle(mmedge_bundle* handle) : handle_(handle) {}
  std::unique_ptr<mmedge_bundle, Close> handle_;
};

// Options of a load, to be changed before it: `auto options = mmedge::load_options();`.
inline mmedge_load_options load_options() {
  mmedge_load_options options = MMEDGE_LOAD_OPTIONS;
  return options;
}

class State;

class Pipeline {
 public:
  static Result<Pipeline> load(const Bundle& bundle,
                               const mmedge_load_options& options = load_options()) {
    mmedge_pipeline* handle = nullptr;
    const mmedge_status status = mmedge_pipeline_load(bundle.handle(), &options, &handle);
    if (status != MMEDGE_OK) return last_failure(status);
    return Pipeline(handle);
  }

  // A handle for another thread.
  Result<Pipeline> clone() const {
    mmedge_pipeline* handle = nullptr;
    const mmedge_status status = mmedge_pipeline_clone(handle_.get(), &handle);
    if (status != MMEDGE_OK) return last_failure(status);
    return Pipeline(handle);
  }

  // With inputs of the largest sizes that calls will have; without any: of the example's.
  Status warm_up() { return mmedge_pipeline_warm_up(handle_.get(), nullptr, 0); }
  template <size_t N>
  Status warm_up(const mmedge_tensor (&inputs)[N]) {
    return mmedge_pipeline_warm_up(handle_.get(), inputs, static_cast<int32_t>(N));
  }

  template <size_t N, size_t M>
  Status run(const mmedge_tensor (&inputs)[N], mmedge_tensor (&outputs)[M]) noexcept {
    return mmedge_pipeline_run(handle_.get(), inputs, static_cast<int32_t>(N), outputs,
                               static_cast<int32_t>(M));
  }

  // The next call runs every stage, also where inputs hold what they held.
  void forget() noexcept { mmedge_pipeline_forget(handle_.get()); }

  // Begins with what `state` holds, and leaves the new state in it.
  template <size_t N, size_t M>
  Status run(const mmedge_tensor (&inputs)[N], mmedge_tensor (&outputs)[M], State& state) noexcept;

  // The steps of a loop, as mmedge.h says. `state` may be null.
  template <size_t N>
  Status begin(const mmedge_tensor (&inputs)[N], const mmedge_loop_options& options,
               State* state = nullptr) noexcept;
  Status step(mmedge_loop_step_info& step) noexcept {
    return mmedge_loop_step(handle_.get(), &step);
  }
  void cancel() noexcept { mmedge_loop_cancel(handle_.get()); }
  template <size_t R, size_t M>
  Status result(int32_t (&finish)[R], mmedge_tensor (&outputs)[M]) noexcept {
    return mmedge_loop_result(handle_.get(), finish, static_cast<int32_t>(R), outputs,
                              static_cast<int32_t>(M));
  }

  // Replays the golden samples; an accuracy error where an output is off.
  Status verify() { return mmedge_pipeline_verify(handle_.get(), nullptr, nullptr); }

  mmedge_choice choice() const {
    mmedge_choice choice = MMEDGE_CHOICE;
    mmedge_pipeline_choice(handle_.get(), &choice);
    return choice;
  }
  mmedge_pipeline* handle() const { return handle_.get(); }

 private:
  struct Close {
    void operator()(mmedge_pipeline* handle) const { mmedge_pipeline_close(handle); }
  };
  explicit Pipeline(mmedge_pipeline* handle) : handle_(handle) {}
  std::unique_ptr<mmedge_pipeline, Close> handle_;
};

// What the stages of a network hand to themselves from call to call.
class State {
 public:
  static Result<State> create(const Pipeline& pipeline) {
    mmedge_state* handle = nullptr;
    const mmedge_status status = mmedge_state_create(pipeline.handle(), &handle);
    if (status != MMEDGE_OK) return last_failure(status);
    return State(handle);
  }

  // Another state of the same content.
  Result<State> copy() const {
    mmedge_state* handle = nullptr;
    const mmedge_status status = mmedge_state_copy(handle_.get(), &handle);
    if (status != MMEDGE_OK) return last_failure(status);
    return State(handle);
  }

  // Memory for calls as large as the pipeline is warm for.
  Status reserve(const Pipeline& pipeline) {
    return mmedge_state_reserve(handle_.get(), pipeline.handle());
  }
  void reset() noexcept { mmedge_state_reset(handle_.get()); }
  int64_t position() const noexcept { return mmedge_state_position(handle_.get()); }
  mmedge_state* handle() const { return handle_.get(); }

 private:
  struct Close {
    void operator()(mmedge_state* handle) const { mmedge_state_close(handle); }
  };
  explicit State(mmedge_state* handle) : handle_(handle) {}
  std::unique_ptr<mmedge_state, Close> handle_;
};

template <size_t N, size_t M>
Status Pipeline::run(const mmedge_tensor (&inputs)[N], mmedge_tensor (&outputs)[M],
                     State& state) noexcept {
  return mmedge_pipeline_run_state(handle_.get(), inputs, static_cast<int32_t>(N), outputs,
                                   static_cast<int32_t>(M), state.handle());
}

template <size_t N>
Status Pipeline::begin(const mmedge_tensor (&inputs)[N], const mmedge_loop_options& options,
                       State* state) noexcept {
  return mmedge_loop_begin(handle_.get(), inputs, static_cast<int32_t>(N), &options,
                           state != nullptr ? state->handle() : nullptr);
}

// Options of a stream, to be changed before it is opened.
inline mmedge_stream_options stream_options() {
  mmedge_stream_options options = MMEDGE_STREAM_OPTIONS;
  return options;
}

inline mmedge_stream_threads stream_threads() {
  mmedge_stream_threads threads = MMEDGE_STREAM_THREADS;
  return threads;
}

// How a stream uses one modality. `name` has to stay until the stream is open.
inline mmedge_stream_modality stream_modality(const char* name, mmedge_policy policy) {
  mmedge_stream_modality modality = MMEDGE_STREAM_MODALITY;
  modality.modality = name;
  modality.policy = policy;
  return modality;
}

// Sensors push at their own rates, fused results come out. Which functions any thread may call, and
// which only the reader of results, is said in mmedge/stream.h.
class Stream {
 public:
  static Result<Stream> open(const Pipeline& pipeline, const mmedge_stream_options& options) {
    mmedge_stream* handle = nullptr;
    const mmedge_status status = mmedge_stream_open(pipeline.handle(), &options, &handle);
    if (status != MMEDGE_OK) return last_failure(status);
    return Stream(handle);
  }

  // A sample that was measured at `stamp`, seconds of the stream's clock; without: now.
  template <size_t N>
  Status push(const char* modality, const mmedge_tensor (&inputs)[N],
              std::optional<double> stamp = std::nullopt) noexcept {
    return mmedge_stream_push(handle_.get(), modality, inputs, static_cast<int32_t>(N),
                              stamp ? &*stamp : nullptr, nullptr);
  }
  Status push(const char* modality, const mmedge_tensor& input,
              std::optional<double> stamp = std::nullopt) noexcept {
    return mmedge_stream_push(handle_.get(), modality, &input, 1, stamp ? &*stamp : nullptr,
                              nullptr);
  }
  Status forget(const char* modality) noexcept {
    return mmedge_stream_forget(handle_.get(), modality);
  }
  Status reset() noexcept { return mmedge_stream_reset(handle_.get()); }

  // On the caller's thread: does what is due by now.
  Status poll() noexcept { return mmedge_stream_poll(handle_.get()); }
  double next_time() const noexcept { return mmedge_stream_next_time(handle_.get()); }

  // The oldest result, or the newest; where there is none, one that is not `available`.
  Outcome<mmedge_result> take(bool latest = false) noexcept {
    mmedge_result result = MMEDGE_RESULT;
    const mmedge_status status = mmedge_stream_take(handle_.get(), latest, &result);
    if (status != MMEDGE_OK) return status;
    return result;
  }
  // The same, where one comes in time; else MMEDGE_TIMEOUT.
  Outcome<mmedge_result> wait(double timeout_s, bool latest = false) noexcept {
    const mmedge_status status = mmedge_stream_wait(handle_.get(), timeout_s);
    if (status != MMEDGE_OK) return status;
    return take(latest);
  }
  // Of the result that was taken last: an output, and what it says of a modality.
  Status output(mmedge_tensor& output) noexcept {
    return mmedge_stream_output(handle_.get(), &output);
  }
  // Why each row of its loop ended; how many rows there are.
  template <size_t R>
  Outcome<int32_t> finish(int32_t (&finish)[R]) noexcept {
    int32_t rows = 0;
    const mmedge_status status =
        mmedge_stream_finish(handle_.get(), finish, static_cast<int32_t>(R), &rows);
    if (status != MMEDGE_OK) return status;
    return rows;
  }
  Outcome<mmedge_result_modality> modality(int32_t index) noexcept {
    mmedge_result_modality modality = MMEDGE_RESULT_MODALITY;
    const mmedge_status status = mmedge_stream_result_modality(handle_.get(), index, &modality);
    if (status != MMEDGE_OK) return status;
    return modality;
  }

  // Samples of a modality that were dropped so far, for a reason or for any.
  Outcome<uint64_t> dropped(const char* modality, const char* reason = nullptr) noexcept {
    uint64_t count = 0;
    const mmedge_status status =
        mmedge_stream_dropped(handle_.get(), modality, reason, &count);
    if (status != MMEDGE_OK) return status;
    return count;
  }
  mmedge_stream_health counters() noexcept {
    mmedge_stream_health health = MMEDGE_STREAM_HEALTH;
    mmedge_stream_counters(handle_.get(), &health);
    return health;
  }

  // Ends it from any thread: waits end, and calls fail from now on.
  void stop() noexcept { mmedge_stream_stop(handle_.get()); }
  mmedge_stream* handle() const { return handle_.get(); }

 private:
  struct Close {
    void operator()(mmedge_stream* handle) const { mmedge_stream_close(handle); }
  };
  explicit Stream(mmedge_stream* handle) : handle_(handle) {}
  std::unique_ptr<mmedge_stream, Close> handle_;
};

// Token ids of texts, and text of tokens: mmedge/text.h.
class Tokenizer {
 public:
  // `name` is that of a modality or of its input of ids; without one, of a loop's tokens.
  static Result<Tokenizer> open(const Pipeline& pipeline, const char* name = nullptr) {
    mmedge_tokenizer* handle = nullptr;
    const mmedge_status status = mmedge_tokenizer_open(pipeline.handle(), name, &handle);
    if (status != MMEDGE_OK) return last_failure(status);
    return Tokenizer(handle);
  }

  Result<Tokenizer> clone() const {
    mmedge_tokenizer* handle = nullptr;
    const mmedge_status status = mmedge_tokenizer_clone(handle_.get(), &handle);
    if (status != MMEDGE_OK) return last_failure(status);
    return Tokenizer(handle);
  }

  Status reserve(int64_t characters, int64_t tokens) {
    return mmedge_tokenizer_reserve(handle_.get(), characters, tokens);
  }

  // `tensors` has room for two; how many there are is in `*count`.
  Status encode(std::string_view text, mmedge_tensor* tensors, int32_t* count,
                int32_t* is_cut = nullptr) noexcept {
    return mmedge_tokenizer_encode(handle_.get(), text.data(), text.size(), tensors, count, is_cut);
  }

  // The text lies here until the next call.
  Status decode(const int64_t* tokens, int64_t count, std::string_view* text) noexcept {
    const char* data = nullptr;
    size_t size = 0;
    const Status status = mmedge_tokenizer_decode(handle_.get(), tokens, count, &data, &size);
    *text = {data, size};
    return status;
  }

  mmedge_tokenizer* handle() const { return handle_.get(); }

 private:
  struct Close {
    void operator()(mmedge_tokenizer* handle) const { mmedge_tokenizer_close(handle); }
  };
  explicit Tokenizer(mmedge_tokenizer* handle) : handle_(handle) {}
  std::unique_ptr<mmedge_tokenizer, Close> handle_;
};

// The text of one row of a loop's tokens, as they come.
class TextStream {
 public:
  static Result<TextStream> create(const Tokenizer& tokenizer) {
    mmedge_text_stream* handle = nullptr;
    const mmedge_status status = mmedge_text_stream_create(tokenizer.handle(), &handle);
    if (status != MMEDGE_OK) return last_failure(status);
    return TextStream(handle);
  }

  // A piece lies here until the next call; it is empty after a failure, which status() tells.
  std::string_view add(int64_t token, bool is_last = false) noexcept {
    const char* text = nullptr;
    size_t size = 0;
    status_ = mmedge_text_stream_add(handle_.get(), token, is_last, &text, &size);
    return {text, size};
  }
  std::string_view end() noexcept {
    const char* text = nullptr;
    size_t size = 0;
    status_ = mmedge_text_stream_end(handle_.get(), &text, &size);
    return {text, size};
  }
  void reset() noexcept { mmedge_text_stream_reset(handle_.get()); }
  Status status() const { return status_; }

  mmedge_text_stream* handle() const { return handle_.get(); }

 private:
  struct Close {
    void operator()(mmedge_text_stream* handle) const { mmedge_text_stream_close(handle); }
  };
  explicit TextStream(mmedge_text_stream* handle) : handle_(handle) {}
  std::unique_ptr<mmedge_text_stream, Close> handle_;
  mmedge_status status_ = MMEDGE_OK;
};

}  // namespace mmedge

#endif  // MMEDGE_MMEDGE_HPP_
