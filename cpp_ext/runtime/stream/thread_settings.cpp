// Threads of a stream: their names, the processors that they may use, and their priority.
#include "stream/thread_settings.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>

#include <cstdio>

#include "error.h"

namespace mmedge::runtime::stream {

void check_settings(const ThreadSettings& settings) {
  for (int cpu : settings.cpus) {
    if (cpu >= 0 && cpu < CPU_SETSIZE) continue;
    throw Error(Code::kInput, "threads: CPU " + std::to_string(cpu) + ", expected 0 to " +
                                  std::to_string(CPU_SETSIZE - 1));
  }
  if (settings.priority >= 0 && settings.priority <= 99) return;
  throw Error(Code::kInput, "threads: priority " + std::to_string(settings.priority) +
                                ", expected 1 to 99 (SCHED_FIFO), or 0 for that of the caller");
}

bool apply_settings(const ThreadSettings& settings, const char* role, Text* why) noexcept {
  char name[16];
  std::snprintf(name, sizeof name, "%s %s", settings.name.c_str(), role);
  prctl(PR_SET_NAME, name);
  if (!settings.cpus.empty()) {
    cpu_set_t wanted, given;
    CPU_ZERO(&wanted);
    CPU_ZERO(&given);
    for (int cpu : settings.cpus) CPU_SET(static_cast<size_t>(cpu), &wanted);
    // A system takes those of a set that there are; that would not be what was asked for.
    sched_setaffinity(0, sizeof wanted, &wanted);
    sched_getaffinity(0, sizeof given, &given);
    for (int cpu : settings.cpus) {
      if (CPU_ISSET(static_cast<size_t>(cpu), &given)) continue;
      why->add("thread '").add(name).add("' cannot run on CPU ").add_whole(cpu);
      why->add(": this system has none of that number, or this process may not use it");
      return false;
    }
  }
  if (settings.priority == 0) return true;
  sched_param param{};
  param.sched_priority = settings.priority;
  if (sched_setscheduler(0, SCHED_FIFO, &param) == 0) return true;
  why->add("thread '").add(name).add("' cannot have priority ").add_whole(settings.priority);
  if (errno == EPERM) {
    why->add(" of SCHED_FIFO: the system does not permit it to this process; raise RLIMIT_RTPRIO or "
             "give CAP_SYS_NICE, or ask for priority 0");
  } else {
    why->add(" of SCHED_FIFO: error ").add_whole(errno).add(" of the system");
  }
  return false;
}

void Thread::start(void* (*work)(void*), void* argument) {
  sigset_t all, before;
  sigfillset(&all);
  sigprocmask(SIG_SETMASK, &all, &before);  // of this thread; the new one begins with it
  const int failed = pthread_create(&thread_, nullptr, work, argument);
  sigprocmask(SIG_SETMASK, &before, nullptr);
  is_there_ = failed == 0;
  if (is_there_) return;
  throw Error(Code::kBackend, "the system gives no further thread: error " +
                                  std::to_string(failed));
}

void Thread::join() noexcept {
  if (is_there_) pthread_join(thread_, nullptr);
  is_there_ = false;
}

}  // namespace mmedge::runtime::stream
