// How long the next result takes: a decaying 95 % quantile of what was observed.
#ifndef MMEDGE_RUNTIME_STREAM_LATENCY_PREDICTOR_H_
#define MMEDGE_RUNTIME_STREAM_LATENCY_PREDICTOR_H_

#include <cstddef>
#include <cstdint>
#include <optional>

namespace mmedge::runtime::stream {

// mmedge/stream/latency_predictor.py. All times in seconds.
class LatencyPredictor {
 public:
  void observe(double latency) noexcept;
  // Trusts the observations less, because none was made this time.
  void relax() noexcept;
  // None before any observation.
  std::optional<double> estimate() const noexcept;

 private:
  static constexpr size_t kKept = 64;

  struct Observation {
    double value;
    int64_t number;

    bool operator<(const Observation& other) const {
      return value < other.value || (!(other.value < value) && number < other.number);
    }
  };

  Observation sorted_[kKept];
  size_t size_ = 0;
  int64_t count_ = 0;
};

}  // namespace mmedge::runtime::stream

#endif  // MMEDGE_RUNTIME_STREAM_LATENCY_PREDICTOR_H_
