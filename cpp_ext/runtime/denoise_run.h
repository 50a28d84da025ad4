// The loop `denoise` of a loaded network in one handle: what is before it, its steps, the decoder.
//
// mmedge/execution/denoise.py and latent_loop.py are the reference.
#ifndef MMEDGE_RUNTIME_DENOISE_RUN_H_
#define MMEDGE_RUNTIME_DENOISE_RUN_H_

#include <limits>
#include <memory>
#include <optional>
#include <vector>

#include "execution/denoise_step.h"
#include "loop_run.h"

namespace mmedge::runtime {

struct DenoiseOptions {
  uint64_t seed = 0;
  std::optional<TensorView> noise;  // the first noise, before it is scaled; none: of the seed
  // The time of now() after which no step begins.
  double deadline = std::numeric_limits<double>::infinity();
};

class DenoiseRun final : public LoopRun {
 public:
  // The pipeline stays as long as this does. Throws Error.
  explicit DenoiseRun(Pipeline* pipeline);
  ~DenoiseRun() { give_up(); }

  // Sets aside what a latent of so many elements needs. Throws Error(kInput), std::bad_alloc.
  void reserve(int64_t elements);
  // The same for the pipeline's last call, and what else calls of its sizes need.
  void reserve_for_call();
  // The same, and takes some steps, so that later ones meet no first time. Throws Error.
  void warm_up(const NamedTensor* tensors, size_t count);

  // As those of GenerateRun. The noise is read in begin() alone.
  Code begin(const NamedTensor* tensors, size_t count, const DenoiseOptions& options, bool cached,
             State* state) noexcept;
  Code step(bool* taken) noexcept;

  // Makes what the loop gives, for output(); kInput where there is no estimate: is_late() says
  // whether the deadline is why.
  Code make_result() noexcept;
  bool is_late() const noexcept { return progress_->is_late(); }
  // By place among Network::loop_outputs().
  TensorView output(size_t index) noexcept;

  const DenoiseStep& progress() const noexcept { return *progress_; }
  // As it is now.
  TensorView latent() const noexcept;

 private:
  TensorView shape_of(const TensorSpec& spec, const std::vector<int>& places) const noexcept;
  Code take_noise(const TensorView& noise) noexcept;
  Code fit_unconditional() noexcept;
  Code predict(LoopSlot* slot, const float** prediction) noexcept;
  Code begin_latent(const DenoiseOptions& options) noexcept;
  void stop() noexcept override { progress_->cancel(); }
  Code leave_states(State* state) noexcept override;

  // What stands for an input in the unconditional run.
  struct Replacement {
    size_t input = 0;
    TensorView stored;
    std::vector<uint8_t> shared;  // by axis: whether another input has its dimension
    std::vector<int> places;
    std::vector<uint8_t> memory;
  };
  TensorView shape_of(const Replacement& replacement) const noexcept;

  const DenoiseLoop& loop_;
  std::shared_ptr<const Samples> samples_;
  std::optional<LoopSlot> unconditional_, decoder_;
  std::vector<Replacement> replacements_;
  size_t latent_ = 0, time_ = 0, prediction_ = 0, decoder_latent_ = 0;  // places in the stages
  TensorSpec latent_spec_, time_spec_;
  std::vector<int> latent_places_, time_places_;
  std::vector<int64_t> first_sizes_, sizes_;
  std::vector<Dimension> dimensions_;
  int64_t capacity_ = 0;
  std::optional<DenoiseStep> progress_;
  TensorView latent_view_, time_view_;
  std::vector<uint8_t> time_memory_;
  const float* result_ = nullptr;
};

}  // namespace mmedge::runtime

#endif  // MMEDGE_RUNTIME_DENOISE_RUN_H_
