// Ends runs that take too long.
#include "run_limit.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <string>

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
      stop_(eventfd(0, EFD_CLOEXEC)) {
  if (stop_ < 0) {
    throw Error(Code::kBackend, std::string("no descriptor for a limit to runs: ") +
                                    std::strerror(errno));
  }
  thread_ = std::thread([this] { watch(); });
}

RunWatch::~RunWatch() {
  const uint64_t one = 1;
  // An eventfd of 0 always takes it.
  [[maybe_unused]] const ssize_t written = ::write(stop_, &one, sizeof one);
  thread_.join();
  ::close(stop_);
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
  pollfd event{stop_, POLLIN, 0};
  const int pause_ms = static_cast<int>(pause_ns_ / 1'000'000);
  while ((event.revents & POLLIN) == 0) {
    {
      const std::lock_guard<std::mutex> held(lock_);
      const int64_t time = now();
      for (LimitedRun* run : runs_) run->end_late(time);
    }
    poll(&event, 1, pause_ms);
  }
}

}  // namespace mmedge::runtime::onnxruntime
