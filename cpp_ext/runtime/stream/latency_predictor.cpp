// How long the next result takes.
#include "stream/latency_predictor.h"

#include <algorithm>
#include <array>

namespace mmedge::runtime::stream {
namespace {

// Share of the observed weight that may lie above the prediction, as Python's 1.0 - 0.95 rounds.
constexpr double kAbove = 1.0 - 0.95;
// What a skipped computation leaves of the estimate. Nothing is learned by skipping, so without
// this one slow spell would end all computing for ever.
constexpr double kRelaxed = 0.9;
// Rounding may leave a hair of the total.
constexpr double kHair = -1e-9;

// 2^(-n/16): an observation counts half after 16 newer ones.
constexpr double kRoots[16] = {
    0x1.0000000000000p+0, 0x1.ea4afa2a490dap-1, 0x1.d5818dcfba487p-1, 0x1.c199bdd85529cp-1,
    0x1.ae89f995ad3adp-1, 0x1.9c49182a3f090p-1, 0x1.8ace5422aa0dbp-1, 0x1.7a11473eb0187p-1,
    0x1.6a09e667f3bcdp-1, 0x1.5ab07dd485429p-1, 0x1.4bfdad5362a27p-1, 0x1.3dea64c123422p-1,
    0x1.306fe0a31b715p-1, 0x1.2387a6e756238p-1, 0x1.172b83c7d517bp-1, 0x1.0b5586cf9890fp-1,
};

constexpr size_t kMost = 64;

constexpr double weight(size_t newer) {
  double value = kRoots[newer % 16];
  for (size_t i = 0; i < newer / 16; ++i) value *= 0.5;
  return value;
}

constexpr std::array<double, kMost + 1> make_totals() {
  std::array<double, kMost + 1> totals{};
  for (size_t i = 0; i < kMost; ++i) totals[i + 1] = totals[i] + weight(i);
  return totals;
}
constexpr std::array<double, kMost + 1> kTotals = make_totals();

}  // namespace

void LatencyPredictor::observe(double latency) noexcept {
  if (size_ == kKept) {
    const int64_t oldest = count_ - static_cast<int64_t>(kKept);
    Observation* gone = std::find_if(sorted_, sorted_ + size_, [oldest](const Observation& each) {
      return each.number == oldest;
    });
    std::move(gone + 1, sorted_ + size_, gone);
    --size_;
  }
  const Observation observation{latency, count_++};
  Observation* place = std::upper_bound(sorted_, sorted_ + size_, observation);
  std::move_backward(place, sorted_ + size_, sorted_ + size_ + 1);
  *place = observation;
  ++size_;
}

void LatencyPredictor::relax() noexcept {
  for (size_t i = 0; i < size_; ++i) sorted_[i].value *= kRelaxed;
  std::sort(sorted_, sorted_ + size_);  // rounding may have made two values equal
}

std::optional<double> LatencyPredictor::estimate() const noexcept {
  // From the largest down, as long as what lies above is no more than the rest of the weight.
  double spare = kAbove * kTotals[size_];
  std::optional<double> quantile;
  for (size_t i = size_; i-- > 0;) {
    if (spare < kHair) break;
    quantile = sorted_[i].value;
    spare -= weight(static_cast<size_t>(count_ - 1 - sorted_[i].number));
  }
  return quantile;
}

}  // namespace mmedge::runtime::stream
