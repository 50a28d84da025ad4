// A stack that code runs on until it hands back.
#ifndef EMULATOR_FIBER_H_
#define EMULATOR_FIBER_H_

#include <cstddef>
#include <memory>

namespace emulator {

class Fiber {
 public:
  Fiber();
  ~Fiber();
  Fiber(const Fiber&) = delete;

  // Makes the next resume() call entry(argument). What ran here before is forgotten.
  void start(void (*entry)(void*), void* argument);
  // Runs until pause() or the end of `entry`.
  void resume();
  // Called inside: back to resume().
  void pause();

  struct State;

 private:
  static void enter();
  std::unique_ptr<State> state_;
};

}  // namespace emulator

#endif  // EMULATOR_FIBER_H_
