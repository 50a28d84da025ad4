// Distrust of sensors: values that are not finite, never change, or lie far outside the known.
#ifndef MMEDGE_RUNTIME_STREAM_SANITY_H_
#define MMEDGE_RUNTIME_STREAM_SANITY_H_

#include <optional>
#include <vector>

#include "stream/drop_reason.h"
#include "stream/sample.h"

namespace mmedge::runtime::stream {

// Whether tensors are bitwise equal.
bool has_same_content(const TensorView* one, const TensorView* other, size_t count) noexcept;

// Checks the samples of one modality in their order: mmedge/stream/sanity.py.
class Checker {
 public:
  Checker(const Sanity& sanity, const ModalityLayout& layout, const Manifest& manifest);

  // Why a sample is bad (kNan, kInf, kOutOfRange, kFrozen); kNone: it is good. Where samples are
  // compared, its memory is pinned until the next call.
  DropReason check(Sample* sample) noexcept;
  // Begins anew, as if no sample had come.
  void forget() noexcept;

 private:
  struct Limits {
    bool is_there = false;
    double low = 0, high = 0;
  };

  bool is_frozen(Sample* sample) noexcept;
  DropReason check(const TensorView& value, const Limits& limits) const noexcept;

  const ModalityLayout& layout_;
  bool finite_;
  std::vector<Limits> limits_;  // of each input
  std::optional<int64_t> frozen_after_;
  Sample* previous_ = nullptr;
  int64_t alike_ = 0;
};

}  // namespace mmedge::runtime::stream

#endif  // MMEDGE_RUNTIME_STREAM_SANITY_H_
