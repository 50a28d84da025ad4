// Ends a program that takes memory where it must not. For the one source file of a probe.
#ifndef MMEDGE_TESTS_NATIVE_RUNTIME_ALLOCATION_GUARD_H_
#define MMEDGE_TESTS_NATIVE_RUNTIME_ALLOCATION_GUARD_H_

#include <cstdio>
#include <cstdlib>
#include <new>

namespace mmedge::runtime {

// Of this thread.
inline thread_local int guards = 0;

// While one lives, `new` on its thread ends the program.
class AllocationGuard {
 public:
  AllocationGuard() { ++guards; }
  ~AllocationGuard() { --guards; }
  AllocationGuard(const AllocationGuard&) = delete;
  AllocationGuard& operator=(const AllocationGuard&) = delete;
};

}  // namespace mmedge::runtime

// Not inlined, or GCC sees malloc and free where it expects new and delete to match.
__attribute__((noinline)) void* operator new(size_t size) {
  if (mmedge::runtime::guards) {
    std::fprintf(stderr, "%zu bytes were taken in a call that must take none\n", size);
    std::exit(3);
  }
  if (void* memory = std::malloc(size ? size : 1)) return memory;
  throw std::bad_alloc();
}

__attribute__((noinline)) void operator delete(void* memory) noexcept { std::free(memory); }
__attribute__((noinline)) void operator delete(void* memory, size_t) noexcept {
  std::free(memory);
}

#endif  // MMEDGE_TESTS_NATIVE_RUNTIME_ALLOCATION_GUARD_H_
