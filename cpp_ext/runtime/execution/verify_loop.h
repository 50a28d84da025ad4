// Replay of a bundle's loop on its golden samples: mmedge/execution/verify_loop.py.
#ifndef MMEDGE_RUNTIME_EXECUTION_VERIFY_LOOP_H_
#define MMEDGE_RUNTIME_EXECUTION_VERIFY_LOOP_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "bundle/samples.h"
#include "execution/tolerance.h"
#include "pipeline.h"

namespace mmedge::runtime {

// Takes the name of a tensor of the loop, what it is here, and the golden tensor.
using CompareTensors = std::function<void(const std::string& name, const TensorView& got,
                                          const TensorView& golden)>;

// A token that the loop chose in place of the golden one.
struct TokenChoice {
  size_t step = 0;
  size_t row = 0;
  std::optional<int64_t> got;     // none: the row had ended
  std::optional<int64_t> golden;  // none: the golden row had ended
  double gap = 0;                 // how far the golden token's score lies below the best
  double scale = 0;               // largest magnitude of the scores

  // The gap as a share of what two scores that are within tolerance may differ by.
  double limit_used(const Tolerance& tolerance) const;
  std::string text() const;
};

// Runs the loop `generate` on one golden sample: hands each step's scores to `compare`, and adds the
// first other token of each row that has one. Throws Error(kBackend) where a stage fails.
void replay_generate(Pipeline* pipeline, const Sample& sample, const CompareTensors& compare,
                     std::vector<TokenChoice>* choices);

// Runs the loop `denoise` on one golden sample: hands the latent after the first, a middle and the
// last step to `compare`. Throws Error(kBackend) where a stage fails.
void replay_denoise(Pipeline* pipeline, const Sample& sample, const CompareTensors& compare);

// The choice that takes most of its limit, as a difference; none is no difference.
Difference worst_choice(const std::vector<TokenChoice>& choices, const Tolerance& tolerance);

}  // namespace mmedge::runtime

#endif  // MMEDGE_RUNTIME_EXECUTION_VERIFY_LOOP_H_
