// How far an output lies from what it should be, and whether that is near enough.
#include "execution/tolerance.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <limits>
#include <utility>

#include "execution/convert.h"
#include "execution/fill_values.h"
#include "execution/float16.h"

namespace mmedge::runtime {
namespace {

constexpr double kInfinite = std::numeric_limits<double>::infinity();

// The later one only where it takes more of its limit.
Difference worse(const Difference& a, const Difference& b) {
  Difference worst = b.limit_used > a.limit_used ? b : a;
  worst.max_abs = std::max(a.max_abs, b.max_abs);
  worst.max_rel = std::max(a.max_rel, b.max_rel);
  return worst;
}

// `error / limit`: 0 where there is no error, infinite where nothing is allowed.
double share(double error, double limit) { return error > 0.0 ? error / limit : 0.0; }

// Largest of what is added, and its place; NaN is the largest, as in NumPy.
struct Largest {
  double value = -kInfinite;
  size_t place = 0;

  void add(double other, size_t at) {
    if (std::isnan(value) || !(other > value || std::isnan(other))) return;
    value = other, place = at;
  }
};

std::string shape_text(const TensorView& tensor) {
  std::string text = std::string(dtype_name(tensor.dtype)) + " [";
  for (size_t axis = 0; axis < tensor.rank; ++axis) {
    if (axis) text += ", ";
    text += std::to_string(tensor.shape[axis]);
  }
  return text + "]";
}

bool is_alike(const TensorView& a, const TensorView& b) {
  return a.dtype == b.dtype && a.rank == b.rank && std::equal(a.shape, a.shape + a.rank, b.shape);
}

Difference infinite(std::string reason) {
  return {kInfinite, kInfinite, kInfinite, 0.0, {}, std::move(reason)};
}

std::vector<double> float64_of(const TensorView& tensor) {
  std::vector<double> values(static_cast<size_t>(tensor.elements()));
  to_float64(tensor.dtype, tensor.data, values.size(), values.data());
  return values;
}

Difference compare_integers(const TensorView& got, const TensorView& golden) {
  const size_t count = static_cast<size_t>(golden.elements()), item = item_size(golden.dtype);
  const auto* a = static_cast<const uint8_t*>(got.data);
  const auto* b = static_cast<const uint8_t*>(golden.data);
  size_t wrong = 0;
  for (size_t i = 0; i < count; ++i) {
    if (golden.dtype == DType::kBool) {
      wrong += (a[i] != 0) != (b[i] != 0);
    } else {
      wrong += std::memcmp(a + i * item, b + i * item, item) != 0;
    }
  }
  if (!wrong) return {};
  const std::vector<double> numbers = float64_of(got), expected = float64_of(golden);
  // Beyond 2^53 float64 cannot tell two integers apart, but they differ by one at least.
  double far = 1.0, size = 0.0;
  for (size_t i = 0; i < count; ++i) {
    far = std::max(far, std::fabs(numbers[i] - expected[i]));
    size = std::max(size, std::fabs(expected[i]));
  }
  return {far, size != 0.0 ? far / size : kInfinite, kInfinite, size, {},
          "differs in " + std::to_string(wrong) + " of " + std::to_string(count) + " elements"};
}

}  // namespace

std::string Difference::text() const {
  if (!reason.empty()) return reason;
  char figures[160];
  if (!std::isfinite(max_rel)) {
    std::snprintf(figures, sizeof figures,
                  "differs by up to %.3g where it should be zero throughout", max_abs);
    return figures;
  }
  std::snprintf(figures, sizeof figures, "differs by up to %.3g, %.2g of ", max_abs, max_rel);
  std::string text = figures;
  if (where.empty()) return text + "its largest value";
  std::snprintf(figures, sizeof figures, ", %.3g", scale);
  return text + "the scale of " + where + figures;
}

void OutputComparison::add(const TensorView& got, const TensorView& golden) {
  Difference worst;
  if (!find_fault(got, golden, &worst)) worst = compare_floats(got, golden);
  worst_ = worse(worst_, worst);
  max_abs_ = std::max(max_abs_, worst.max_abs);
}

Difference OutputComparison::result() const {
  if (!worst_.reason.empty()) return worst_;
  Difference worst = worst_;
  for (const Channels& channels : channels_) {
    if (!channels.groups.is_fixed()) continue;
    const bool is_last = channels.axis + 1 == rank_;
    worst = worse(worst, compare_slices(channels.groups, is_last ? "channel" : "axis 1 at", size_));
  }
  // One row of figures: the largest of each, and the place that takes most of its limit.
  worst.max_abs = max_abs_;
  return worst;
}

// Says what is wrong or right without a tolerance; false where floats are to be compared.
bool OutputComparison::find_fault(const TensorView& got, const TensorView& golden,
                                  Difference* fault) const {
  if (!is_alike(got, golden)) {
    *fault = infinite("is " + shape_text(got) + ", expected " + shape_text(golden));
    return true;
  }
  if (golden.elements() == 0) return true;
  if (!is_float(golden.dtype)) {
    *fault = compare_integers(got, golden);
    return true;
  }
  const std::vector<double> a = float64_of(got), b = float64_of(golden);
  for (size_t i = 0; i < b.size(); ++i) {
    const bool is_same = std::isfinite(b[i]) ? std::isfinite(a[i])
                         : std::isnan(b[i])  ? std::isnan(a[i])
                                             : a[i] == b[i];
    if (is_same) continue;
    *fault = infinite("has NaN or infinities where the reference has not, or the other way round");
    return true;
  }
  return false;
}

Difference OutputComparison::compare_floats(const TensorView& got, const TensorView& golden) {
  std::vector<double> a = float64_of(got), values = float64_of(golden);
  const size_t count = values.size();
  std::vector<double> errors(count), sizes(count);
  std::vector<uint8_t> is_equal(count), is_fill;
  const bool has_steps = golden.dtype == DType::kFloat16 && tolerance_.rtol != 0.0;
  for (size_t i = 0; i < count; ++i) {
    is_equal[i] = a[i] == values[i];
    if (!std::isfinite(values[i])) a[i] = values[i] = 0.0;  // both have the same there
    errors[i] = std::fabs(a[i] - values[i]);
    sizes[i] = std::fabs(values[i]);
    // Numbers a hair apart may be rounded to neighbors, which lie up to 2^-10 apart.
    if (has_steps) errors[i] = std::max(errors[i] - half_spacing(double_to_half(sizes[i])), 0.0);
  }
  Difference worst;
  if (find_fill_values(sizes, is_equal, &is_fill)) {
    Largest error, relative, used;
    for (size_t i = 0; i < count; ++i) {
      if (!is_fill[i]) continue;
      const double limit = tolerance_.atol + tolerance_.rtol * sizes[i];
      error.add(errors[i], i);
      relative.add(errors[i] / sizes[i], i);
      used.add(share(errors[i], limit), i);
    }
    if (error.value > 0.0) {
      worst = {error.value, relative.value, used.value, sizes[used.place], "its fill values", {}};
    }
    for (size_t i = 0; i < count; ++i) {
      if (is_fill[i]) errors[i] = sizes[i] = values[i] = 0.0;
    }
  }
  const double size = *std::max_element(sizes.begin(), sizes.end());
  const double far = *std::max_element(errors.begin(), errors.end());
  size_ = std::max(size_, size);
  const double limit = tolerance_.atol + tolerance_.rtol * size;
  worst = worse(worst, {far, share(far, size), share(far, limit), size, {}, {}});
  if (has_rank_ && rank_ != golden.rank) channels_.clear();
  has_rank_ = true;
  rank_ = golden.rank;
  // The axes along which magnitudes may differ by meaning: the last, and the one after batch.
  size_t next = 0;
  for (size_t axis = 0; axis < rank_; ++axis) {
    if (axis + 1 != rank_ && (axis != 1 || rank_ < 3)) continue;
    MagnitudeGroups groups(golden, axis, errors, sizes, values);
    if (next < channels_.size()) {
      channels_[next++].groups.merge(std::move(groups));
    } else {
      channels_.push_back({axis, std::move(groups)});
      next = channels_.size();
    }
  }
  if (rank_ > 1 && golden.shape[0] > 1 && far > 0.0) {
    const MagnitudeGroups rows(golden, 0, errors, sizes, values);
    worst = worse(worst, compare_slices(rows, "row", 0.0));
  }
  return worst;
}

// The slice that takes most of its limit.
Difference OutputComparison::compare_slices(const MagnitudeGroups& groups, const char* what,
                                            double size) const {
  const std::vector<double>& errors = groups.errors();
  const double far = *std::max_element(errors.begin(), errors.end());
  if (far == 0.0) return {};
  const std::vector<double> scales = groups.scales();
  const double least = std::min(kScaleFloor, tolerance_.rtol) * size;
  Largest relative, used;
  for (size_t i = 0; i < errors.size(); ++i) {
    const double limit = tolerance_.atol + std::max(tolerance_.rtol * scales[i], least);
    relative.add(share(errors[i], scales[i]), i);
    used.add(share(errors[i], limit), i);
  }
  const double largest = *std::max_element(groups.sizes().begin(), groups.sizes().end());
  std::string where;
  if (scales[used.place] < largest) where = std::string(what) + " " + std::to_string(used.place);
  return {far, relative.value, used.value, scales[used.place], where, {}};
}

}  // namespace mmedge::runtime
