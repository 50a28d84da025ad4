// Ticks at a fixed rate, and how many passed unseen.
#ifndef MMEDGE_RUNTIME_STREAM_TICKER_H_
#define MMEDGE_RUNTIME_STREAM_TICKER_H_

#include <algorithm>
#include <cstdint>

namespace mmedge::runtime::stream {

// Ticks at start + k / hz for k = 1, 2, ...: mmedge/stream/ticker.py.
class Ticker {
 public:
  Ticker(double start, double hz) noexcept : start_(start), hz_(hz) {}

  // Time of the next tick.
  double next() const noexcept { return at(count_ + 1); }

  // Whether a tick is due; the newest that is, and how many were missed before it.
  bool due(double now, double* t, int64_t* missed) noexcept {
    if (now < next()) return false;
    int64_t count = std::max(static_cast<int64_t>((now - start_) * hz_), count_ + 1);
    // Rounding in the product may be off by one tick in either direction.
    while (at(count + 1) <= now) ++count;
    while (at(count) > now) --count;
    *missed = count - count_ - 1;
    count_ = count;
    *t = at(count);
    return true;
  }

  // Ticks at `now`, and from then on: time jumped ahead, and nothing was missed.
  void restart(double now) noexcept {
    start_ = now - 1.0 / hz_;
    count_ = 0;
    // Rounding may have made the first tick a hair later than now.
    start_ -= std::max(0.0, next() - now);
  }

 private:
  double at(int64_t count) const noexcept { return start_ + static_cast<double>(count) / hz_; }

  double start_, hz_;
  int64_t count_ = 0;
};

}  // namespace mmedge::runtime::stream

#endif  // MMEDGE_RUNTIME_STREAM_TICKER_H_
