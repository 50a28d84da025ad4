// A stream with threads of its own: sensors' threads push, and never wait for a stage.
//
// mmedge/stream/executors.py is the same in Python: a thread for each modality with an encoder, one
// for ticks and fusion, and one that delivers, where that is asked for. The state machine is that of
// Stream; a mutex guards it, and is held for bookkeeping alone. Stages run without it, and so does
// what a push does with its value (checks, the copy): for that each modality has a gate, which keeps
// its pushes in their order. After it was made, nothing here allocates, throws or logs.
#ifndef MMEDGE_RUNTIME_STREAM_THREADED_STREAM_H_
#define MMEDGE_RUNTIME_STREAM_THREADED_STREAM_H_

#include <atomic>
#include <memory>
#include <optional>
#include <vector>

#include "stream/stream.h"
#include "stream/thread_settings.h"
#include "stream/thread_sync.h"

namespace mmedge::runtime::stream {

class ThreadedStream {
 public:
  // A clock that `is_trusted` is that of now() in clock.h, by which threads can sleep; another one is
  // looked at every 5 ms, with a mutex held. `deliver` is called for each result that there is, on a thread of its own,
  // and has to take it; null: nobody is told. Others stay as long as the stream. Throws Error: as
  // Stream, and settings that the system does not permit (kBackend).
  ThreadedStream(const Manifest& manifest, StageRunner* runner, const StreamOptions& options,
                 Clock clock, const ThreadSettings& settings, void (*deliver)(void*),
                 void* context);
  // Waits for stages that run, and for calls that other threads are in.
  ~ThreadedStream();
  ThreadedStream(const ThreadedStream&) = delete;
  ThreadedStream& operator=(const ThreadedStream&) = delete;

  // Lets the threads work. Before this nobody is told of a result.
  void begin() noexcept;

  // For a push: hold the gate, set the inputs, push, read the message.
  Mutex* gate(size_t modality) noexcept { return &sources_[modality]->gate; }
  TensorView* inputs(size_t modality) noexcept { return sources_[modality]->inputs.data(); }
  size_t input_count(size_t modality) const noexcept { return sources_[modality]->inputs.size(); }
  // As Stream::push. kBackend: the stream is closed, or failed.
  Code push(size_t modality, std::optional<double> t, int64_t* seq) noexcept;
  const char* message(size_t modality) const noexcept { return sources_[modality]->error.text; }

  Code forget(size_t modality, CallError* error) noexcept;
  Code reset(CallError* error) noexcept;
  // Waits for a result, at most until `time` of now(); says whether there is one.
  Code wait_until(double time, bool* is_there, CallError* error) noexcept;
  // As Stream::take; the result stays until the next one is taken. One thread at a time takes.
  Code take(bool latest, const Result** result, CallError* error) noexcept;
  // When something is due next.
  double next_time() noexcept;
  // kBackend: the stream is closed, or failed.
  Code check_open(CallError* error) noexcept;

  // Ends the stream: threads wake up, and end once their stage does. From any thread.
  void stop() noexcept;
  // The same because of a fault, which further calls report.
  void fail(const Text& why) noexcept;

  // Snapshots of counters are read with this held.
  Mutex* mutex() noexcept { return &mutex_; }
  const Health& health() noexcept;

  // Whether no thread has anything to do at this time of the clock.
  bool is_idle() noexcept;
  // Fusion stages with state, of which results have notes: their names do not change.
  const FusionStates& states() const noexcept { return core_.states(); }
  // Whether the calling thread is one of the stream's.
  bool is_own_thread() const noexcept;
  // Whether results go to `deliver`, and nobody else takes them.
  bool has_delivery() const noexcept { return deliver_ != nullptr; }

  // Counts a call that the destructor waits for.
  class Call {
   public:
    explicit Call(ThreadedStream* stream) noexcept : stream_(stream) {
      if (stream_ != nullptr) ++stream_->calls_;
    }
    ~Call() {
      if (stream_ != nullptr) --stream_->calls_;
    }
    Call(const Call&) = delete;
    Call& operator=(const Call&) = delete;

   private:
    ThreadedStream* stream_;
  };

 private:
  // What the pushes of one modality share.
  struct Source {
    Mutex gate;
    std::vector<TensorView> inputs;
    std::vector<int64_t> sizes;
    CallError error;
  };
  // A thread, and what it works on.
  struct Worker {
    ThreadedStream* stream = nullptr;
    const char* role = "";
    void (ThreadedStream::*work)(Worker*) noexcept = nullptr;
    ModalityState* track = nullptr;  // of an encoder
    Item* item = nullptr;            // that it is to encode
    bool is_busy = false;            // it runs a stage
    Condition turn;
    Thread thread;
  };

  static void* run(void* worker) noexcept;
  void encode(Worker* worker) noexcept;
  void fuse(Worker* worker) noexcept;
  void take_steps(int64_t serial) noexcept;
  void hand_over(Worker* worker) noexcept;
  // The rest is called with the mutex held.
  double read_clock() noexcept;
  Code open_code(CallError* error) const noexcept;
  bool is_over(int64_t serial) const noexcept;
  void dispatch() noexcept;
  void wake_all() noexcept;
  void look() noexcept;
  void end(const Text& why) noexcept;
  std::optional<double> due() const noexcept;

  Mutex mutex_;
  const bool can_sleep_;  // by the clock
  const ThreadSettings settings_;
  void (*deliver_)(void*);
  void* context_;
  Stream stream_;
  StreamStateMachine& core_;
  std::vector<std::unique_ptr<Source>> sources_;
  std::vector<std::unique_ptr<Worker>> encoders_;
  Worker fusion_, delivery_;
  Condition result_there_, started_;
  size_t starting_ = 0;
  bool has_begun_ = false;
  std::optional<double> alarm_;  // the one that the thread of the fusion waits for
  Result taken_;
  std::atomic<int> calls_{0};
};

}  // namespace mmedge::runtime::stream

#endif  // MMEDGE_RUNTIME_STREAM_THREADED_STREAM_H_
