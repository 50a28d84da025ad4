#include "fiber.h"

#include <ucontext.h>

#include <cstdint>
#include <cstdlib>
#include <new>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

// swapcontext() makes two system calls, which would be most of the time of a run.
#if defined(__x86_64__)
extern "C" void emulator_switch(void** save, void* load);
asm(R"(
.text
.globl emulator_switch
.hidden emulator_switch
.type emulator_switch, @function
emulator_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size emulator_switch, .-emulator_switch
)");
#endif

namespace emulator {
namespace {

constexpr size_t kStack = 256 * 1024;

}  // namespace

struct Fiber::State {
  unsigned char* stack;
  void (*entry)(void*);
  void* argument;
#if defined(__x86_64__)
  void* inside;
  void* outside;
#else
  ucontext_t inside;
  ucontext_t outside;
#endif
#if defined(__SANITIZE_ADDRESS__)
  void* fake_inside = nullptr;
  void* fake_outside = nullptr;
  const void* bottom_outside = nullptr;
  size_t size_outside = 0;
#endif
};

namespace {

thread_local Fiber::State* entering = nullptr;

}  // namespace

Fiber::Fiber() : state_(new State{}) {
  state_->stack = static_cast<unsigned char*>(std::aligned_alloc(64, kStack));
  if (state_->stack == nullptr) throw std::bad_alloc();
}

Fiber::~Fiber() { std::free(state_->stack); }

void Fiber::enter() {
  State* state = entering;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &state->bottom_outside, &state->size_outside);
#endif
  state->entry(state->argument);
  std::abort();  // `entry` ends with pause() and is not resumed
}

void Fiber::start(void (*entry)(void*), void* argument) {
  state_->entry = entry;
  state_->argument = argument;
#if defined(__SANITIZE_ADDRESS__)
  state_->fake_inside = nullptr;
  __asan_unpoison_memory_region(state_->stack, kStack);
#endif
#if defined(__x86_64__)
  // As emulator_switch() leaves a stack: six registers, then where to return to. There the stack
  // must be 8 bytes off a multiple of 16, as after a call.
  void** top = reinterpret_cast<void**>(state_->stack + kStack - 56);
  *--top = reinterpret_cast<void*>(&Fiber::enter);
  for (int i = 0; i < 6; ++i) *--top = nullptr;
  state_->inside = top;
#else
  getcontext(&state_->inside);
  state_->inside.uc_stack.ss_sp = state_->stack;
  state_->inside.uc_stack.ss_size = kStack;
  state_->inside.uc_link = nullptr;
  makecontext(&state_->inside, &Fiber::enter, 0);
#endif
}

void Fiber::resume() {
  entering = state_.get();
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&state_->fake_outside, state_->stack, kStack);
#endif
#if defined(__x86_64__)
  emulator_switch(&state_->outside, state_->inside);
#else
  swapcontext(&state_->outside, &state_->inside);
#endif
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(state_->fake_outside, nullptr, nullptr);
#endif
}

void Fiber::pause() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&state_->fake_inside, state_->bottom_outside,
                                 state_->size_outside);
#endif
#if defined(__x86_64__)
  emulator_switch(&state_->inside, state_->outside);
#else
  swapcontext(&state_->inside, &state_->outside);
#endif
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(state_->fake_inside, &state_->bottom_outside,
                                  &state_->size_outside);
#endif
}

}  // namespace emulator
