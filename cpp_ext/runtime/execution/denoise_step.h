// The loop `denoise` without its stage: the latent, and the step that changes it.
//
// docs/reference/bundle.md ("Loop") specifies the arithmetic, float32 in the page's order, so that
// equal predictions give equal bits on every machine; mmedge/execution/denoise.py is the reference.
#ifndef MMEDGE_RUNTIME_EXECUTION_DENOISE_STEP_H_
#define MMEDGE_RUNTIME_EXECUTION_DENOISE_STEP_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <vector>

#include "execution/call_error.h"
#include "execution/loop_finish.h"
#include "spec.h"

namespace mmedge::runtime {

// One run of the loop after another, in memory that is set aside once. For one thread at a time.
//
//   step.begin(elements, seed, noise, deadline);
//   while (step.prepare(now)) {
//     ... run the stage on step.scaled() and its time ...
//     if (step.has_guidance()) {
//       step.keep_conditional(prediction);
//       ... run the stage again on the unconditional tensors ...
//     }
//     step.finish_step(prediction);
//   }
//   step.result(&latent, &error);
class DenoiseStep {
 public:
  // `elements`: most elements of a latent. Throws std::bad_alloc.
  DenoiseStep(const DenoiseLoop& loop, size_t elements);

  // Begins a run on a latent of at most so many elements. `noise` is the first noise before it is
  // scaled; null: normal numbers of the seed. No step begins once the clock is at `deadline`.
  void begin(size_t elements, uint64_t seed, const float* noise,
             double deadline = std::numeric_limits<double>::infinity()) noexcept;

  // Says whether there is a next step at the time `now`; then scaled() is what the stage takes.
  bool prepare(double now) noexcept;

  // What the stage takes as its latent. Valid until finish_step.
  const float* scaled() const noexcept { return scaled_.data(); }
  // Fills the stage's time, int32, int64 or float32, with that of the step.
  void fill_time(const TensorView& time) const noexcept;

  // Whether a step has an unconditional run.
  bool has_guidance() const noexcept { return guidance_.has_value(); }
  // Copies the prediction of the step's first run; only with guidance.
  void keep_conditional(const float* prediction) noexcept;
  // Ends the step with the prediction of its last run: with guidance, the unconditional one.
  void finish_step(const float* prediction) noexcept;

  // Takes no more steps; what was made so far stays.
  void cancel() noexcept;

  // Gives the latent, or after a deadline or a cancellation the estimate of the last step. Where
  // there is neither, kInput and `error` say why.
  Code result(const float** latent, CallError* error) const noexcept;
  // Whether `result` has nothing because the deadline passed first: Python raises TimeoutError.
  bool is_late() const noexcept;

  size_t elements() const noexcept { return elements_; }
  size_t index() const noexcept { return index_; }
  size_t steps() const noexcept { return schedule_.size(); }
  LoopFinish finish() const noexcept { return finish_; }
  // The latent as it is now.
  const float* latent() const noexcept { return latent_; }

 private:
  bool has_estimate() const noexcept;

  std::vector<std::array<double, 9>> schedule_;
  float initial_scale_;
  std::optional<float> clip_;
  std::optional<float> guidance_;
  std::vector<float> scaled_;
  std::vector<float> conditional_;
  std::vector<float> noise_;  // where a row adds some
  std::array<std::vector<float>, 4> buffers_;
  float* latent_;
  float* next_;
  float* estimate_;
  float* last_estimate_;
  size_t elements_ = 0;
  size_t index_ = 0;
  uint64_t seed_ = 0;
  double deadline_ = 0;
  LoopFinish finish_ = LoopFinish::kCancel;
};

}  // namespace mmedge::runtime

#endif  // MMEDGE_RUNTIME_EXECUTION_DENOISE_STEP_H_
