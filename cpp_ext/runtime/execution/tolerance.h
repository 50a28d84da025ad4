// How far an output lies from what it should be, and whether that is near enough.
//
// docs/reference/bundle.md ("Differences") specifies it, mmedge/tolerance.py is the reference. What
// an element may differ by is a share of a scale; fill values leave the scale, and channels and rows
// of another magnitude have a scale of their own.
#ifndef MMEDGE_RUNTIME_EXECUTION_TOLERANCE_H_
#define MMEDGE_RUNTIME_EXECUTION_TOLERANCE_H_

#include <cstddef>
#include <string>
#include <vector>

#include "execution/magnitude_groups.h"
#include "spec.h"
#include "tensor.h"

namespace mmedge::runtime {

// Worst difference of one output from its reference over what was compared.
struct Difference {
  double max_abs = 0;     // max |got - golden|; of float16 beyond the step that rounding may be
  double max_rel = 0;     // largest difference as a share of the scale of its place
  double limit_used = 0;  // largest share of the tolerance that an element takes
  double scale = 0;       // what the difference that takes most of its limit is held against
  std::string where;      // what has that scale, in words; empty for the whole tensor
  std::string reason;     // set where figures do not tell what is wrong

  // Whether it lies within the tolerance. NaN never does.
  bool passes() const { return limit_used <= 1.0; }
  // The difference in words, as of a message.
  std::string text() const;
};

// One output held against its reference over any number of samples. It takes memory as it goes.
class OutputComparison {
 public:
  explicit OutputComparison(const Tolerance& tolerance) : tolerance_(tolerance) {}

  // Compares one sample. Any tensors may be given: another shape or dtype is infinitely far.
  void add(const TensorView& got, const TensorView& golden);

  // The worst of all that was added.
  Difference result() const;

 private:
  struct Channels {
    size_t axis;
    MagnitudeGroups groups;
  };

  bool find_fault(const TensorView& got, const TensorView& golden, Difference* fault) const;
  Difference compare_floats(const TensorView& got, const TensorView& golden);
  Difference compare_slices(const MagnitudeGroups& groups, const char* what, double size) const;

  Tolerance tolerance_;
  Difference worst_;
  double max_abs_ = 0;
  double size_ = 0;
  std::vector<Channels> channels_;
  bool has_rank_ = false;
  size_t rank_ = 0;
};

}  // namespace mmedge::runtime

#endif  // MMEDGE_RUNTIME_EXECUTION_TOLERANCE_H_
