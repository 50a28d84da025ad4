// Threads of a stream: their names, the processors that they may use, and their priority.
#ifndef MMEDGE_RUNTIME_STREAM_THREAD_SETTINGS_H_
#define MMEDGE_RUNTIME_STREAM_THREAD_SETTINGS_H_

#include <pthread.h>

#include <string>
#include <vector>

#include "stream/text.h"

namespace mmedge::runtime::stream {

// What all threads of a stream have in common.
struct ThreadSettings {
  std::string name = "mmedge";  // a thread's name begins with it; the system keeps 15 characters
  std::vector<int> cpus;        // numbers of processors; none: those of the thread that makes them
  int priority = 0;             // of SCHED_FIFO, 1 to 99; 0: that of the thread that makes them
};

// Throws Error(kInput): numbers that no system has.
void check_settings(const ThreadSettings& settings);
// Gives the calling thread a name, processors and a priority. False: the system does not permit
// them, and `why` says what it takes.
bool apply_settings(const ThreadSettings& settings, const char* role, Text* why) noexcept;

// A thread that runs one function. No signal of the process is handled on it.
class Thread {
 public:
  Thread() = default;
  ~Thread() { join(); }
  Thread(const Thread&) = delete;
  Thread& operator=(const Thread&) = delete;

  // Throws Error(kBackend): the system gives no further thread.
  void start(void* (*work)(void*), void* argument);
  // Waits for its end, if it was started.
  void join() noexcept;
  // Whether it is the calling one.
  bool is_current() const noexcept { return is_there_ && pthread_equal(thread_, pthread_self()); }

 private:
  pthread_t thread_{};
  bool is_there_ = false;
};

}  // namespace mmedge::runtime::stream

#endif  // MMEDGE_RUNTIME_STREAM_THREAD_SETTINGS_H_
