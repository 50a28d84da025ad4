// Ends runs that take too long.
#include "run_limit.h"

#include <algorithm>
#include <chrono>

#include "../../error.h"

namespace mmedge::runtime::onnxruntime {
namespace {

// What `end_` holds where it is no time: no run, one that is being told to end, one that was told.
constexpr int64_t kIdle = 0, kEnding = -1, kEnded = -2;

// The longest limit that is counted, some 146 years.
constexpr double kMostSeconds = 4.6e9;

int64_t now() noexcept {
  using std::chrono::nanoseconds;
  const auto time = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration_cast<nanoseconds>(time).count();
}

int64_t to_nanoseconds(double seconds) noexcept {
  return std::max<int64_t>(1, static_cast<int64_t>(std::min(seconds, kMostSeconds) * 1e9));
}

}  // namespace

LimitedRun::LimitedRun(const Library& library, double seconds)
    : library_(library), nanoseconds_(to_nanoseconds(seconds)) {
  library.check(library.call<ort::CreateRunOptions>(&options_));
}

LimitedRun::~LimitedRun() { library_.call<ort::ReleaseRunOptions>(options_); }

ort::Status* LimitedRun::begin() noexcept {
  if (ort::Status* status = library_.call<ort::RunOptionsUnsetTerminate>(options_)) return status;
  end_.store(now() + nanoseconds_, std::memory_order_release);
  return nullptr;
}

bool LimitedRun::end() noexcept {
  int64_t state = end_.load(std::memory_order_acquire);
  // It is kEnding for as long as the other thread takes to set a flag.
  while (state == kEnding || !end_.compare_exchange_weak(state, kIdle)) {
    if (state == kEnding) state = end_.load(std::memory_order_acquire);
  }
  return state == kEnded;
}

void LimitedRun::end_late(int64_t time) noexcept {
  int64_t end = end_.load(std::memory_order_acquire);
  if (end <= kIdle || end > time || !end_.compare_exchange_strong(end, kEnding)) return;
  if (ort::Status* status = library_.call<ort::RunOptionsSetTerminate>(options_)) {
    library_.call<ort::ReleaseStatus>(status);
  }
  end_.store(kEnded, std::memory_order_release);
}

RunWatch::RunWatch(double seconds)
    : pause_ns_(std::clamp<int64_t>(to_nanoseconds(seconds) / 8, 1'000'000, 250'000'000)),
      thread_([this] { watch(); }) {}

RunWatch::~RunWatch() {
  {
    const std::lock_guard<std::mutex> held(lock_);
    stopped_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void RunWatch::add(LimitedRun* run) {
  const std::lock_guard<std::mutex> held(lock_);
  runs_.push_back(run);
}

void RunWatch::remove(LimitedRun* run) noexcept {
  const std::lock_guard<std::mutex> held(lock_);
  runs_.erase(std::remove(runs_.begin(), runs_.end(), run), runs_.end());
}

void RunWatch::watch() noexcept {
  std::unique_lock<std::mutex> held(lock_);
  while (!stopped_) {
    const int64_t time = now();
    for (LimitedRun* run : runs_) run->end_late(time);
    changed_.wait_for(held, std::chrono::nanoseconds(pause_ns_));
  }
}

}  // namespace mmedge::runtime::onnxruntime
