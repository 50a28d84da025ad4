// Slices of a tensor along one axis (channels, rows) and the scale of each: that of its group.
#include "execution/magnitude_groups.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

namespace mmedge::runtime {
namespace {

constexpr double kNone = std::numeric_limits<double>::quiet_NaN();

}  // namespace

MagnitudeGroups::MagnitudeGroups(const TensorView& shape, size_t axis,
                                 const std::vector<double>& errors,
                                 const std::vector<double>& sizes,
                                 const std::vector<double>& values) {
  const size_t slices = static_cast<size_t>(shape.shape[axis]);
  size_t outer = 1, inner = 1;
  for (size_t i = 0; i < axis; ++i) outer *= static_cast<size_t>(shape.shape[i]);
  for (size_t i = axis + 1; i < shape.rank; ++i) inner *= static_cast<size_t>(shape.shape[i]);
  errors_.assign(slices, 0.0);
  sizes_.assign(slices, 0.0);
  least_.assign(slices, std::numeric_limits<double>::infinity());
  magnitudes_.assign(slices * kEvidence, kNone);
  size_t element = 0;
  for (size_t o = 0; o < outer; ++o) {
    for (size_t slice = 0; slice < slices; ++slice) {
      double error = errors_[slice], size = sizes_[slice], least = least_[slice];
      for (size_t i = 0; i < inner; ++i, ++element) {
        error = std::max(error, errors[element]);
        size = std::max(size, sizes[element]);
        least = std::min(least, values[element]);
      }
      errors_[slice] = error, sizes_[slice] = size, least_[slice] = least;
    }
  }
  const auto [smallest, largest] = std::minmax_element(sizes_.begin(), sizes_.end());
  if (*smallest * kApart > *largest) return;  // all are of one magnitude
  // Evenly spaced places of a slice, in float64 as NumPy's linspace computes them.
  const size_t count = outer * inner, places = std::min(count, 2 * kEvidence);
  const double step =
      places > 1 ? static_cast<double>(count - 1) / static_cast<double>(places - 1) : 0.0;
  std::vector<double> magnitudes;
  for (size_t slice = 0; slice < slices; ++slice) {
    magnitudes.clear();
    for (size_t i = 0; i < places; ++i) {
      const size_t place =
          i > 0 && i + 1 == places ? count - 1 : static_cast<size_t>(static_cast<double>(i) * step);
      magnitudes.push_back(sizes[(place / inner * slices + slice) * inner + place % inner]);
    }
    add_magnitudes(slice, &magnitudes);
  }
}

void MagnitudeGroups::add_magnitudes(size_t slice, std::vector<double>* magnitudes) {
  double* kept = &magnitudes_[slice * kEvidence];
  for (size_t i = 0; i < kEvidence && kept[i] > 0.0; ++i) magnitudes->push_back(kept[i]);
  std::sort(magnitudes->begin(), magnitudes->end());
  double last = 0.0;
  size_t count = 0;
  for (const double magnitude : *magnitudes) {
    if (magnitude == last || count == kEvidence) continue;
    kept[count++] = last = magnitude;
  }
}

size_t MagnitudeGroups::count_magnitudes(size_t slice) const {
  size_t count = 0;
  while (count < kEvidence && magnitudes_[slice * kEvidence + count] > 0.0) ++count;
  return count;
}

void MagnitudeGroups::merge(MagnitudeGroups&& other) {
  if (!is_fixed_ || sizes_.size() != other.sizes_.size()) {
    *this = std::move(other);
    is_fixed_ = false;
    return;
  }
  std::vector<double> magnitudes;
  for (size_t slice = 0; slice < sizes_.size(); ++slice) {
    errors_[slice] = std::max(errors_[slice], other.errors_[slice]);
    sizes_[slice] = std::max(sizes_[slice], other.sizes_[slice]);
    least_[slice] = std::min(least_[slice], other.least_[slice]);
    const double* more = &other.magnitudes_[slice * kEvidence];
    magnitudes.assign(more, more + other.count_magnitudes(slice));
    add_magnitudes(slice, &magnitudes);
  }
}

std::vector<double> MagnitudeGroups::scales() const {
  const size_t slices = sizes_.size();
  const double largest = *std::max_element(sizes_.begin(), sizes_.end());
  // A slice that is nearly zero throughout says nothing of its scale, and has the smallest.
  size_t count = 0;
  double smallest = largest;
  for (const double size : sizes_) {
    if (!(size > kScaleFloor * largest)) continue;
    ++count;
    smallest = std::min(smallest, size);
  }
  std::vector<double> scales(slices, largest);
  if (count < 2 || smallest * kApart > largest) return scales;
  std::vector<size_t> order(slices);
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [this](size_t a, size_t b) { return sizes_[a] > sizes_[b]; });
  // From each place on: how many magnitudes there are, and whether all are shares, from 0 to 1.
  std::vector<size_t> below(count);
  std::vector<bool> is_share(count);
  size_t magnitudes = 0;
  bool shares = true;
  for (size_t place = count; place-- > 0;) {
    const size_t slice = order[place];
    below[place] = magnitudes += count_magnitudes(slice);
    is_share[place] = shares = shares && least_[slice] >= 0.0 && sizes_[slice] <= 1.0;
  }
  std::vector<double> sorted_scales(slices, largest);
  bool all_shares = is_share[0];
  for (size_t place = 1; place < count; ++place) {
    const double size = sizes_[order[place]];
    const bool is_gap = size * kApart <= sizes_[order[place - 1]];
    if (!is_gap || below[place] < kEvidence || all_shares) continue;
    std::fill(sorted_scales.begin() + static_cast<std::ptrdiff_t>(place), sorted_scales.end(),
              size);
    all_shares = is_share[place];
  }
  for (size_t place = 0; place < slices; ++place) scales[order[place]] = sorted_scales[place];
  return scales;
}

}  // namespace mmedge::runtime
