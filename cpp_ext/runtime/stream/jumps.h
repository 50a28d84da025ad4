// Jumps ahead of a stream's time that are no part of an age or of a latency.
#ifndef MMEDGE_RUNTIME_STREAM_JUMPS_H_
#define MMEDGE_RUNTIME_STREAM_JUMPS_H_

#include <cstddef>
#include <cstdint>

namespace mmedge::runtime::stream {

// The jumps that time made ahead, in order; a trigger knows the number of the first one after it
// came: mmedge/stream/jumps.py. Of more than kKept in the time of one trigger, the oldest count as
// one.
class Jumps {
 public:
  // The number of the next one.
  int64_t next() const noexcept { return next_; }

  // `within` is a time within it.
  void add(double within, double ahead) noexcept {
    if (count_ == kKept) {
      jumps_[0] = {jumps_[1].within, jumps_[0].ahead + jumps_[1].ahead};
      for (size_t i = 2; i < kKept; ++i) jumps_[i - 1] = jumps_[i];
      --count_;
    }
    jumps_[count_++] = {within, ahead};
    ++next_;
  }

  // Seconds of those from number `first` on.
  double since(int64_t first) const noexcept {
    double total = 0;
    for (size_t i = place(first); i < count_; ++i) total += jumps_[i].ahead;
    return total;
  }
  // The same of those since something came at `arrival`.
  double since(int64_t first, double arrival) const noexcept {
    double total = 0;
    for (size_t i = place(first); i < count_; ++i) {
      if (arrival < jumps_[i].within) total += jumps_[i].ahead;
    }
    return total;
  }

 private:
  static constexpr size_t kKept = 32;

  struct Jump {
    double within, ahead;
  };

  size_t place(int64_t first) const noexcept {
    const int64_t oldest = next_ - static_cast<int64_t>(count_);
    return first <= oldest ? 0 : static_cast<size_t>(first - oldest);
  }

  Jump jumps_[kKept];
  size_t count_ = 0;
  int64_t next_ = 0;
};

}  // namespace mmedge::runtime::stream

#endif  // MMEDGE_RUNTIME_STREAM_JUMPS_H_
