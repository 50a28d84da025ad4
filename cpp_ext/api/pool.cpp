// A pool of threads for callers of the CPU kernel that have none.
#include <pthread.h>

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>
#include <vector>

#include "mmedge/kernels.h"
#include "status.h"

namespace mmedge {
namespace {

// Looks at the next round before a thread goes to sleep: about 50 us, which is what waking one
// costs.
constexpr int kSpins = 4000;

// More threads than any processor has, so that a wrong number starts none.
constexpr int kMostThreads = 4096;

class Pool;

// A round of a pool that this thread works on, and the rounds in whose tasks it was asked for.
struct Round {
  const Pool* pool;
  const Round* above;
};

thread_local const Round* current = nullptr;

inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

class Pool {
 public:
  explicit Pool(int threads) {
    try {
      for (int i = 1; i < threads; ++i) threads_.emplace_back([this] { work(); });
    } catch (...) {
      end();
      throw;
    }
  }

  ~Pool() { end(); }

  // Whether this thread works on a task of this pool, or on one that such a task waits for.
  bool is_inside() const {
    for (const Round* round = current; round != nullptr; round = round->above) {
      if (round->pool == this) return true;
    }
    return false;
  }

  void run(size_t count, mmedge_task task, void* arg) {
    // Inside a task of its own it would wait for itself.
    if (threads_.empty() || count < 2 || is_inside()) {
      for (size_t i = 0; i < count; ++i) task(arg, i);
      return;
    }
    const std::lock_guard<std::mutex> turn(turns_);
    {
      const std::lock_guard<std::mutex> lock(sleep_);
      task_ = task;
      arg_ = arg;
      count_ = count;
      above_ = current;
      next_.store(0, std::memory_order_relaxed);
      round_.fetch_add(1, std::memory_order_relaxed);
      open_.store(true, std::memory_order_release);
    }
    wake_.notify_all();
    take_tasks();
    {
      // Who has not woken up by now is not waited for.
      const std::lock_guard<std::mutex> lock(sleep_);
      open_.store(false, std::memory_order_relaxed);
    }
    while (working_.load(std::memory_order_acquire) > 0) relax();
  }

 private:
  void end() {
    {
      const std::lock_guard<std::mutex> lock(sleep_);
      ended_ = true;
    }
    wake_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }

  void take_tasks() {
    const Round round{this, above_};
    const Round* const before = current;
    current = &round;
    for (;;) {
      const size_t i = next_.fetch_add(1, std::memory_order_relaxed);
      if (i >= count_) break;
      task_(arg_, i);
    }
    current = before;
  }

  void work() {
    uint64_t seen = 0;
    const auto is_new = [&] {
      return open_.load(std::memory_order_acquire) &&
             round_.load(std::memory_order_relaxed) != seen;
    };
    for (;;) {
      for (int i = 0; i < kSpins && !is_new(); ++i) relax();
      {
        const std::lock_guard<std::mutex> lock(sleep_);
        // Not wake_.wait: GCC 12 gives it a symbol that only libstdc++ of 2022 and later has, and
        // every other one that the library takes is there since glibc 2.27.
        while (!ended_ && !is_new()) {
          pthread_cond_wait(wake_.native_handle(), sleep_.native_handle());
        }
        if (ended_) return;
        seen = round_.load(std::memory_order_relaxed);
        working_.fetch_add(1, std::memory_order_relaxed);
      }
      take_tasks();
      working_.fetch_sub(1, std::memory_order_release);
    }
  }

  std::vector<std::thread> threads_;
  std::mutex turns_;
  std::mutex sleep_;
  std::condition_variable wake_;
  bool ended_ = false;
  std::atomic<bool> open_{false};
  std::atomic<uint64_t> round_{0};
  std::atomic<size_t> next_{0};
  std::atomic<int> working_{0};
  mmedge_task task_ = nullptr;
  void* arg_ = nullptr;
  size_t count_ = 0;
  const Round* above_ = nullptr;  // of the caller, which waits for the round to end
};

}  // namespace
}  // namespace mmedge

void* mmedge_pool_create(int threads) {
  if (threads > mmedge::kMostThreads) {
    mmedge::fail(MMEDGE_INVALID, "threads: expected at most %d, got %d", mmedge::kMostThreads,
                 threads);
    return nullptr;
  }
  try {
    return new mmedge::Pool(threads);
  } catch (const std::bad_alloc&) {
    mmedge::fail(MMEDGE_INVALID, "%d threads: out of memory", threads);
  } catch (const std::system_error& error) {
    mmedge::fail(MMEDGE_INVALID, "%d threads: %s", threads, error.what());
  }
  return nullptr;
}

void mmedge_pool_destroy(void* pool) {
  auto* const ended = static_cast<mmedge::Pool*>(pool);
  if (ended != nullptr && ended->is_inside()) {
    mmedge::fail(MMEDGE_INVALID, "a pool cannot be destroyed by a task of its own; it is kept");
    return;
  }
  delete ended;
}

void mmedge_pool_run(void* pool, size_t count, mmedge_task task, void* arg) {
  if (task == nullptr) {
    mmedge::fail(MMEDGE_INVALID, "task: expected a function, got null; nothing was run");
    return;
  }
  if (pool == nullptr) {
    for (size_t i = 0; i < count; ++i) task(arg, i);
    return;
  }
  static_cast<mmedge::Pool*>(pool)->run(count, task, arg);
}
