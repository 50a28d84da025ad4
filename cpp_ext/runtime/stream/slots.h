// Numbers of places that several may hold.
#ifndef MMEDGE_RUNTIME_STREAM_SLOTS_H_
#define MMEDGE_RUNTIME_STREAM_SLOTS_H_

#include <cstddef>
#include <vector>

namespace mmedge::runtime::stream {

class Slots {
 public:
  explicit Slots(size_t count) : holders_(count, 0) {}

  size_t size() const noexcept { return holders_.size(); }
  // A free one, held once; -1: there is none.
  int take() noexcept {
    for (size_t i = 0; i < holders_.size(); ++i) {
      if (holders_[i] == 0) {
        holders_[i] = 1;
        return static_cast<int>(i);
      }
    }
    return -1;
  }
  // Of -1 nothing is noted.
  void hold(int slot) noexcept {
    if (slot >= 0) ++holders_[static_cast<size_t>(slot)];
  }
  void release(int slot) noexcept {
    if (slot >= 0) --holders_[static_cast<size_t>(slot)];
  }

 private:
  std::vector<int> holders_;
};

}  // namespace mmedge::runtime::stream

#endif  // MMEDGE_RUNTIME_STREAM_SLOTS_H_
