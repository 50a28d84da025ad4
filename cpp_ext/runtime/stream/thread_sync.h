// A mutex and a condition for threads of a stream: nothing of them allocates or throws.
//
// The mutex lends the priority of the thread that waits to the one that holds it, where the system
// has that, so that a sensor's thread of high priority never waits for one of middle priority. Times
// are those of CLOCK_MONOTONIC.
#ifndef MMEDGE_RUNTIME_STREAM_THREAD_SYNC_H_
#define MMEDGE_RUNTIME_STREAM_THREAD_SYNC_H_

#include <pthread.h>
#include <time.h>

#include <algorithm>

namespace mmedge::runtime::stream {

class Mutex {
 public:
  Mutex() noexcept {
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_setprotocol(&attributes, PTHREAD_PRIO_INHERIT);
    // A system without this protocol has the plain one.
    if (pthread_mutex_init(&mutex_, &attributes) != 0) pthread_mutex_init(&mutex_, nullptr);
    pthread_mutexattr_destroy(&attributes);
  }
  ~Mutex() { pthread_mutex_destroy(&mutex_); }
  Mutex(const Mutex&) = delete;
  Mutex& operator=(const Mutex&) = delete;

  void lock() noexcept { pthread_mutex_lock(&mutex_); }
  void unlock() noexcept { pthread_mutex_unlock(&mutex_); }

 private:
  friend class Condition;
  pthread_mutex_t mutex_;
};

// Holds a mutex while it lives; of none, nothing is held.
class Lock {
 public:
  explicit Lock(Mutex* mutex) noexcept : mutex_(mutex) {
    if (mutex_ != nullptr) mutex_->lock();
  }
  ~Lock() {
    if (mutex_ != nullptr) mutex_->unlock();
  }
  Lock(const Lock&) = delete;
  Lock& operator=(const Lock&) = delete;

 private:
  Mutex* mutex_;
};

// Lets go of a mutex that the thread holds while it lives: stages run in this time.
class Unlock {
 public:
  explicit Unlock(Mutex* mutex) noexcept : mutex_(mutex) { mutex_->unlock(); }
  ~Unlock() { mutex_->lock(); }
  Unlock(const Unlock&) = delete;
  Unlock& operator=(const Unlock&) = delete;

 private:
  Mutex* mutex_;
};

class Condition {
 public:
  Condition() noexcept {
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&condition_, &attributes);
    pthread_condattr_destroy(&attributes);
  }
  ~Condition() { pthread_cond_destroy(&condition_); }
  Condition(const Condition&) = delete;
  Condition& operator=(const Condition&) = delete;

  // The caller holds the mutex. It may return without a reason.
  void wait(Mutex* mutex) noexcept { pthread_cond_wait(&condition_, &mutex->mutex_); }
  // The same, until a time at most: seconds of CLOCK_MONOTONIC. Later than a system can count is
  // as late as it can.
  void wait_until(Mutex* mutex, double time) noexcept {
    time = std::min(std::max(time, 0.0), 4e9);
    timespec until;
    until.tv_sec = static_cast<time_t>(time);
    until.tv_nsec = static_cast<long>((time - static_cast<double>(until.tv_sec)) * 1e9);
    pthread_cond_timedwait(&condition_, &mutex->mutex_, &until);
  }
  void notify() noexcept { pthread_cond_signal(&condition_); }
  void notify_all() noexcept { pthread_cond_broadcast(&condition_); }

 private:
  pthread_cond_t condition_;
};

}  // namespace mmedge::runtime::stream

#endif  // MMEDGE_RUNTIME_STREAM_THREAD_SYNC_H_
