// A limit to the time of a run in ONNX Runtime: mmedge/backends/run_limit.py.
//
// ONNX Runtime looks between two operators whether a run is to end, inside loops too; one operator
// by itself is not interrupted. A thread of the session ends the runs that are late. A run tells it
// its end by an atomic number alone, so it looks at all slots eight times in a limit, at least four
// times a second: a run may take that much longer.
#ifndef MMEDGE_RUNTIME_BACKENDS_ONNXRUNTIME_RUN_LIMIT_H_
#define MMEDGE_RUNTIME_BACKENDS_ONNXRUNTIME_RUN_LIMIT_H_

#include <atomic>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

#include "library.h"

namespace mmedge::runtime::onnxruntime {

// Runs of one slot, which may be ended.
class LimitedRun {
 public:
  // Throws Error(kBackend).
  LimitedRun(const Library& library, double seconds);
  ~LimitedRun();
  LimitedRun(const LimitedRun&) = delete;
  LimitedRun& operator=(const LimitedRun&) = delete;

  const ort::RunOptions* options() const noexcept { return options_; }
  // Before a run. Not null: it cannot be limited.
  ort::Status* begin() noexcept;
  // After a run: whether it was late and was told to end.
  bool end() noexcept;
  // From the watching thread: ends the run if it is late.
  void end_late(int64_t now) noexcept;

 private:
  const Library& library_;
  const int64_t nanoseconds_;
  ort::RunOptions* options_ = nullptr;
  std::atomic<int64_t> end_{0};  // of the run, in time of the steady clock; or a state
};

// The thread that ends late runs of a session.
class RunWatch {
 public:
  explicit RunWatch(double seconds);
  ~RunWatch();
  RunWatch(const RunWatch&) = delete;
  RunWatch& operator=(const RunWatch&) = delete;

  void add(LimitedRun* run);
  void remove(LimitedRun* run) noexcept;

 private:
  void watch() noexcept;

  const int64_t pause_ns_;
  std::mutex lock_;  // of runs_
  std::vector<LimitedRun*> runs_;
  // Written to once, at the end. A wait for it goes by the clock that never jumps, on every C library;
  // std::condition_variable's does so since glibc 2.30 alone.
  int stop_;
  std::thread thread_;
};

}  // namespace mmedge::runtime::onnxruntime

#endif  // MMEDGE_RUNTIME_BACKENDS_ONNXRUNTIME_RUN_LIMIT_H_
