// The loop `denoise` without its stage: the latent, and the step that changes it.
//
// Compiled without contraction: a fused multiply-add rounds once where the page rounds twice.
#include "execution/denoise_step.h"

#include <algorithm>
#include <utility>

#include "execution/random_numbers.h"

namespace mmedge::runtime {
namespace {

struct Term {
  float number;
  const float* array;
};

// Elements that stay in the first cache while all terms are added.
constexpr size_t kBlock = 2048;

// `total` becomes the sum of number times array, from the left, without those of number 0.
void add_terms(float* total, size_t count, const Term* terms, size_t term_count) noexcept {
  for (size_t begin = 0; begin < count; begin += kBlock) {
    const size_t size = std::min(kBlock, count - begin);
    float* out = total + begin;
    bool is_first = true;
    for (size_t i = 0; i < term_count; ++i) {
      const float number = terms[i].number;
      if (number == 0.0f) continue;
      const float* array = terms[i].array + begin;
      if (is_first) {
        for (size_t k = 0; k < size; ++k) out[k] = array[k] * number;
      } else {
        for (size_t k = 0; k < size; ++k) out[k] += array[k] * number;
      }
      is_first = false;
    }
    if (is_first) std::fill(out, out + size, 0.0f);
  }
}

template <typename T>
void fill(const TensorView& tensor, double value) noexcept {
  auto* elements = static_cast<T*>(tensor.data);
  std::fill(elements, elements + tensor.elements(), static_cast<T>(value));
}

std::optional<float> to_float(const std::optional<double>& number) {
  if (!number) return std::nullopt;
  return static_cast<float>(*number);
}

}  // namespace

DenoiseStep::DenoiseStep(const DenoiseLoop& loop, size_t elements)
    : schedule_(loop.schedule),
      initial_scale_(static_cast<float>(loop.initial_scale)),
      clip_(to_float(loop.clip)),
      guidance_(to_float(loop.guidance)),
      scaled_(elements),
      conditional_(guidance_ ? elements : 0) {
  for (std::vector<float>& buffer : buffers_) buffer.resize(elements);
  const bool adds_noise = std::any_of(schedule_.begin(), schedule_.end(), [](const auto& row) {
    return static_cast<float>(row[8]) != 0.0f;
  });
  if (adds_noise) noise_.resize(elements);
  latent_ = buffers_[0].data(), next_ = buffers_[1].data();
  estimate_ = buffers_[2].data(), last_estimate_ = buffers_[3].data();
}

void DenoiseStep::begin(size_t elements, uint64_t seed, const float* noise,
                        double deadline) noexcept {
  elements_ = std::min(elements, scaled_.size());
  seed_ = seed, deadline_ = deadline, index_ = 0, finish_ = LoopFinish::kNone;
  if (noise == nullptr) {
    RandomStream(seed, 0).fill_normal(latent_, elements_);
  } else {
    std::copy(noise, noise + elements_, latent_);
  }
  for (size_t i = 0; i < elements_; ++i) latent_[i] *= initial_scale_;
  std::fill(last_estimate_, last_estimate_ + elements_, 0.0f);
}

bool DenoiseStep::prepare(double now) noexcept {
  if (finish_ != LoopFinish::kNone) return false;
  if (now >= deadline_) {
    finish_ = LoopFinish::kDeadline;
    return false;
  }
  const float a = static_cast<float>(schedule_[index_][1]);
  for (size_t i = 0; i < elements_; ++i) scaled_[i] = latent_[i] * a;
  return true;
}

void DenoiseStep::fill_time(const TensorView& time) const noexcept {
  const double value = schedule_[index_][0];
  switch (time.dtype) {
    case DType::kInt32: return fill<int32_t>(time, value);
    case DType::kInt64: return fill<int64_t>(time, value);
    default: return fill<float>(time, value);
  }
}

void DenoiseStep::keep_conditional(const float* prediction) noexcept {
  std::copy(prediction, prediction + elements_, conditional_.data());
}

void DenoiseStep::finish_step(const float* prediction) noexcept {
  const auto number = [this](size_t column) noexcept {
    return static_cast<float>(schedule_[index_][column]);
  };
  const float* m = prediction;
  if (guidance_) {
    const float guidance = *guidance_;
    // Written where the stage needs its latent no more.
    for (size_t i = 0; i < elements_; ++i) {
      const float apart = conditional_[i] - prediction[i];
      scaled_[i] = apart * guidance + prediction[i];
    }
    m = scaled_.data();
  }
  const Term estimate_terms[] = {{number(2), latent_}, {number(3), m}};
  add_terms(estimate_, elements_, estimate_terms, 2);
  if (clip_) {
    const float limit = *clip_;
    for (size_t i = 0; i < elements_; ++i) {  // NaN stays
      const float e = estimate_[i] < -limit ? -limit : estimate_[i];
      estimate_[i] = e > limit ? limit : e;
    }
  }
  const float c = number(8);
  if (c != 0.0f) RandomStream(seed_, index_ + 1).fill_normal(noise_.data(), elements_);
  const Term terms[] = {{number(4), estimate_},
                        {number(5), latent_},
                        {number(6), m},
                        {number(7), last_estimate_},
                        {c, noise_.data()}};
  add_terms(next_, elements_, terms, 5);
  std::swap(latent_, next_);
  std::swap(estimate_, last_estimate_);
  if (++index_ == schedule_.size()) finish_ = LoopFinish::kSchedule;
}

void DenoiseStep::cancel() noexcept {
  if (finish_ == LoopFinish::kNone) finish_ = LoopFinish::kCancel;
}

bool DenoiseStep::has_estimate() const noexcept {
  if (finish_ == LoopFinish::kNone || index_ == 0) return false;
  return schedule_[index_ - 1][2] != 0.0 || schedule_[index_ - 1][3] != 0.0;
}

bool DenoiseStep::is_late() const noexcept {
  return finish_ == LoopFinish::kDeadline && !has_estimate();
}

Code DenoiseStep::result(const float** latent, CallError* error) const noexcept {
  if (finish_ == LoopFinish::kSchedule || has_estimate()) {
    *latent = finish_ == LoopFinish::kSchedule ? latent_ : last_estimate_;
    return Code::kOk;
  }
  const size_t steps = schedule_.size();
  if (is_late()) {
    return error->set(Code::kInput,
                      "the deadline passed before the loop had an estimate: %zu of %zu steps were "
                      "taken%s. Allow more time",
                      index_, steps, index_ ? "; its schedule states no estimates" : "");
  }
  if (finish_ == LoopFinish::kNone) {
    return error->set(
        Code::kInput, "the loop has no result: %zu of %zu steps were taken; take all of its steps",
        index_, steps);
  }
  return error->set(Code::kInput,
                    "the loop was canceled before it had an estimate: %zu of %zu steps were taken",
                    index_, steps);
}

}  // namespace mmedge::runtime
