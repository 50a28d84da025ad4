// Distrust of sensors.
#include "stream/sanity.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "execution/finite.h"
#include "execution/float16.h"

namespace mmedge::runtime::stream {
namespace {

// A smaller input may well stand still (a parked robot's state); a picture or scan has noise.
constexpr int64_t kMinElements = 64;

bool is_float(DType dtype) {
  return dtype == DType::kFloat16 || dtype == DType::kFloat32 || dtype == DType::kFloat64;
}

// The smallest and largest finite value of a tensor.
struct Extremes {
  bool has_finite = false;
  double least = std::numeric_limits<double>::infinity();
  double most = -std::numeric_limits<double>::infinity();
};

struct Plain {
  template <class Element>
  double operator()(Element value) const noexcept {
    return static_cast<double>(value);
  }
};

struct FromHalf {
  double operator()(uint16_t value) const noexcept { return half_to_float(value); }
};

template <class Element, class Convert>
void find_extremes(const TensorView& view, Convert convert, Extremes* found) noexcept {
  const Element* elements = static_cast<const Element*>(view.data);
  const int64_t count = view.elements();
  for (int64_t i = 0; i < count; ++i) {
    const double value = convert(elements[i]);
    if (!std::isfinite(value)) continue;
    found->least = std::min(found->least, value);
    found->most = std::max(found->most, value);
    found->has_finite = true;
  }
}

Extremes find_extremes(const TensorView& view) noexcept {
  Extremes found;
  switch (view.dtype) {
    case DType::kFloat16:
      find_extremes<uint16_t>(view, FromHalf(), &found);
      break;
    case DType::kFloat32:
      find_extremes<float>(view, Plain(), &found);
      break;
    case DType::kFloat64:
      find_extremes<double>(view, Plain(), &found);
      break;
    case DType::kUint8:
      find_extremes<uint8_t>(view, Plain(), &found);
      break;
    case DType::kInt8:
      find_extremes<int8_t>(view, Plain(), &found);
      break;
    default:
      break;
  }
  return found;
}

// A limit as it is compared with elements of a type: rounded to it.
double round_to(DType dtype, double limit) {
  if (dtype == DType::kFloat32) return static_cast<double>(static_cast<float>(limit));
  if (dtype == DType::kFloat16) return half_to_float(double_to_half(limit));
  return limit;
}

}  // namespace

bool has_same_content(const TensorView* one, const TensorView* other, size_t count) noexcept {
  for (size_t k = 0; k < count; ++k) {
    const TensorView& a = one[k];
    const TensorView& b = other[k];
    if (a.dtype != b.dtype || a.rank != b.rank ||
        !std::equal(a.shape, a.shape + a.rank, b.shape)) {
      return false;
    }
    // As bytes: NaN equals itself, and 0.0 is not -0.0.
    const size_t bytes = a.bytes();
    if (bytes && a.data != b.data && std::memcmp(a.data, b.data, bytes) != 0) return false;
  }
  return true;
}

Checker::Checker(const Sanity& sanity, const ModalityLayout& layout, const Manifest& manifest)
    : layout_(layout), finite_(sanity.finite) {
  bool is_large = false;
  for (const InputLayout& input : layout.inputs) {
    Limits limits;
    const DType dtype = input.spec.dtype;
    const auto range = manifest.ranges.find(input.spec.name);
    if (sanity.range_margin && range != manifest.ranges.end() &&
        range->second.max > range->second.min &&
        (is_float(dtype) || dtype == DType::kUint8 || dtype == DType::kInt8)) {
      const double margin = *sanity.range_margin * (range->second.max - range->second.min);
      limits.is_there = true;
      limits.low = round_to(dtype, range->second.min - margin);
      limits.high = round_to(dtype, range->second.max + margin);
    }
    limits_.push_back(limits);
    double elements = 1;
    for (const Axis& axis : input.spec.shape) {
      const auto found = manifest.dimensions.find(axis.dimension);
      elements *= static_cast<double>(found == manifest.dimensions.end() ? axis.size
                                                                         : found->second.opt);
    }
    is_large = is_large || (elements >= static_cast<double>(kMinElements) &&
                            (dtype == DType::kUint8 || is_float(dtype)));
  }
  frozen_after_ = sanity.frozen_after;
  if (!sanity.is_frozen_auto) return;
  frozen_after_.reset();
  const Modality& modality = *layout.modality;
  const bool is_sound = layout.has_rows || modality.sample_rate_hz;
  if (modality.rate_hz && *modality.rate_hz > 0 && is_large && !is_sound) {
    // Half-way cases to the even neighbor, as Python rounds.
    const double rate = std::min(std::nearbyint(*modality.rate_hz), 1e15);
    frozen_after_ = std::max<int64_t>(2, static_cast<int64_t>(rate));
  }
}

DropReason Checker::check(Sample* sample) noexcept {
  const bool frozen = is_frozen(sample);
  for (size_t k = 0; k < limits_.size(); ++k) {
    if (sample->values[k].elements() == 0) continue;
    const DropReason reason = check(sample->values[k], limits_[k]);
    if (reason != DropReason::kNone) return reason;
  }
  return frozen ? DropReason::kFrozen : DropReason::kNone;
}

DropReason Checker::check(const TensorView& value, const Limits& limits) const noexcept {
  if (finite_ && !is_finite(value)) {
    return find_non_finite(value).nan ? DropReason::kNan : DropReason::kInf;
  }
  if (!limits.is_there) return DropReason::kNone;
  const Extremes found = find_extremes(value);
  const bool is_within =
      !found.has_finite || (found.least >= limits.low && found.most <= limits.high);
  return is_within ? DropReason::kNone : DropReason::kOutOfRange;
}

bool Checker::is_frozen(Sample* sample) noexcept {
  if (!frozen_after_) return false;
  const bool is_alike = previous_ != nullptr && has_same_content(sample->values, previous_->values,
                                                                 layout_.inputs.size());
  alike_ = is_alike ? alike_ + 1 : 1;
  ++sample->pins;
  if (previous_ != nullptr) --previous_->pins;
  previous_ = sample;
  return alike_ >= *frozen_after_;
}

void Checker::forget() noexcept {
  if (previous_ != nullptr) --previous_->pins;
  previous_ = nullptr;
  alike_ = 0;
}

}  // namespace mmedge::runtime::stream
