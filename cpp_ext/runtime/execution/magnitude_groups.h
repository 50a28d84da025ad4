// Slices of a tensor along one axis (channels, rows) and the scale of each: that of its group.
//
// docs/reference/bundle.md ("Differences", "A channel's scale") specifies the groups.
#ifndef MMEDGE_RUNTIME_EXECUTION_MAGNITUDE_GROUPS_H_
#define MMEDGE_RUNTIME_EXECUTION_MAGNITUDE_GROUPS_H_

#include <cstddef>
#include <vector>

#include "tensor.h"

namespace mmedge::runtime {

// A share of the tensor's scale that every channel is granted: float32's rounding, 16 times.
constexpr double kScaleFloor = 1e-6;
// Scales that are this many times apart are of another magnitude.
constexpr double kApart = 10.0;
// Magnitudes that say so, at the least: of fewer, all may be small by chance.
constexpr size_t kEvidence = 4;

// Of every slice: largest error, largest magnitude, smallest value, and some magnitudes.
class MagnitudeGroups {
 public:
  // The slices of one sample along `axis` of `shape`; `errors`, `sizes` (magnitudes) and `values`
  // have the elements of the tensor in C order, at least one.
  MagnitudeGroups(const TensorView& shape, size_t axis, const std::vector<double>& errors,
                  const std::vector<double>& sizes, const std::vector<double>& values);

  // Takes another sample in. If it has another number of slices, they are fixed no longer.
  void merge(MagnitudeGroups&& other);

  // False once samples had other numbers of slices: those are no channels.
  bool is_fixed() const { return is_fixed_; }
  const std::vector<double>& errors() const { return errors_; }
  const std::vector<double>& sizes() const { return sizes_; }
  // The scale of every slice.
  std::vector<double> scales() const;

 private:
  // kEvidence magnitudes of each slice, no two alike and none 0, ascending, then NaN.
  void add_magnitudes(size_t slice, std::vector<double>* magnitudes);
  size_t count_magnitudes(size_t slice) const;

  std::vector<double> errors_;
  std::vector<double> sizes_;
  std::vector<double> least_;
  std::vector<double> magnitudes_;
  bool is_fixed_ = true;
};

}  // namespace mmedge::runtime

#endif  // MMEDGE_RUNTIME_EXECUTION_MAGNITUDE_GROUPS_H_
