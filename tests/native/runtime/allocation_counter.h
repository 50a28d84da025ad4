// Counts what a program's own code allocates, frees and locks. For the one source file of a program.
//
// The functions below take the place of the C library's. A call counts as ours where it comes from the
// program's code, of which the standard library of C++ is a part (-static-libstdc++), or from that of
// a library that the program names, such as the kernels. What ONNX Runtime does in its own code is
// counted beside it.
#ifndef MMEDGE_TESTS_NATIVE_RUNTIME_ALLOCATION_COUNTER_H_
#define MMEDGE_TESTS_NATIVE_RUNTIME_ALLOCATION_COUNTER_H_

#include <dlfcn.h>
#include <pthread.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <string>

extern "C" {
extern const char __executable_start, etext;
void* __libc_malloc(size_t);
void* __libc_calloc(size_t, size_t);
void* __libc_realloc(void*, size_t);
void* __libc_memalign(size_t, size_t);
void __libc_free(void*);
}

namespace {

thread_local bool counting = false;
// Code of a library that counts as ours.
const char *kernels_begin = nullptr, *kernels_end = nullptr;
std::atomic<long> allocations{0}, frees{0}, locks{0}, engine_allocations{0}, engine_locks{0};

bool from_here(const void* caller) {
  const auto* at = static_cast<const char*>(caller);
  return (at >= &__executable_start && at < &etext) || (at >= kernels_begin && at < kernels_end);
}

void count(std::atomic<long>& counter) {
  if (counting) counter.fetch_add(1, std::memory_order_relaxed);
}

// What our code allocated and did not free yet. Whose a call of free is, the caller does not tell:
// ONNX Runtime's functions that release something may end with a jump into free.
std::atomic<void*> own[1 << 14];

// Puts `next` in the place of `expected`, in one of the places where `memory` may be.
bool replace(void* memory, void* expected, void* next) {
  const size_t first = (reinterpret_cast<uintptr_t>(memory) >> 4) * 0x9E3779B97F4A7C15u >> 50;
  for (size_t i = 0; i < 32; ++i) {
    void* held = expected;
    std::atomic<void*>& place = own[(first + i) % (1 << 14)];
    if (place.load(std::memory_order_relaxed) != held) continue;
    if (place.compare_exchange_strong(held, next)) return true;
  }
  return false;
}

void* allocated(void* memory, const void* caller) {
  if (!from_here(caller)) {
    count(engine_allocations);
    return memory;
  }
  count(allocations);
  if (!replace(memory, nullptr, memory)) std::abort();  // the table is too small
  return memory;
}

void freed(void* memory) {
  if (memory != nullptr && replace(memory, memory, nullptr)) count(frees);
}

// Counts a lock as ours or the engine's, and takes it.
int lock_next(const char* name, void* object, const void* caller) {
  count(from_here(caller) ? locks : engine_locks);
  using Lock = int (*)(void*);
  return reinterpret_cast<Lock>(dlsym(RTLD_NEXT, name))(object);
}

}  // namespace

#define CALLER __builtin_return_address(0)

extern "C" {
void* malloc(size_t bytes) {
  return allocated(__libc_malloc(bytes), CALLER);
}
void* calloc(size_t items, size_t bytes) {
  return allocated(__libc_calloc(items, bytes), CALLER);
}
void* realloc(void* old, size_t bytes) {
  freed(old);
  return allocated(__libc_realloc(old, bytes), CALLER);
}
void* aligned_alloc(size_t alignment, size_t bytes) {
  return allocated(__libc_memalign(alignment, bytes), CALLER);
}
int posix_memalign(void** out, size_t alignment, size_t bytes) {
  *out = allocated(__libc_memalign(alignment, bytes), CALLER);
  return *out == nullptr ? 12 : 0;
}
void free(void* memory) {
  freed(memory);
  __libc_free(memory);
}
int pthread_mutex_lock(pthread_mutex_t* mutex) {
  return lock_next("pthread_mutex_lock", mutex, CALLER);
}
int pthread_mutex_trylock(pthread_mutex_t* mutex) {
  return lock_next("pthread_mutex_trylock", mutex, CALLER);
}
int pthread_rwlock_rdlock(pthread_rwlock_t* lock) {
  return lock_next("pthread_rwlock_rdlock", lock, CALLER);
}
int pthread_rwlock_wrlock(pthread_rwlock_t* lock) {
  return lock_next("pthread_rwlock_wrlock", lock, CALLER);
}
}

#undef CALLER

// Whether the counters see what they are to see; they are 0 afterwards.
inline bool counters_work() {
  std::mutex mutex;
  counting = true;
  {
    const std::lock_guard<std::mutex> held(mutex);
    const std::string text(100, 'x');
  }
  counting = false;
  const long seen[] = {allocations.exchange(0), frees.exchange(0), locks.exchange(0)};
  engine_allocations = engine_locks = 0;
  return seen[0] >= 1 && seen[1] >= 1 && seen[2] >= 1;
}

#endif  // MMEDGE_TESTS_NATIVE_RUNTIME_ALLOCATION_COUNTER_H_
