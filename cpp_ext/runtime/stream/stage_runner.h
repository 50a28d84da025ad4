// What runs the stages for a stream: the seam between its bookkeeping and a loaded network.
#ifndef MMEDGE_RUNTIME_STREAM_STAGE_RUNNER_H_
#define MMEDGE_RUNTIME_STREAM_STAGE_RUNNER_H_

#include <cstddef>
#include <cstdint>

#include "error.h"
#include "tensor.h"

namespace mmedge::runtime::stream {

// What stands for one modality in a fusion: features in a slot, or, of a modality without encoder,
// its inputs.
struct FusionPart {
  int slot = -1;                       // -1: `inputs`
  const TensorView* inputs = nullptr;  // in the order of the modality's inputs
};

// Runs stages. Features of a modality live in slots that it sets aside, and so do the outputs of
// results. One thread calls it at a time.
//
// `seconds` is for a clock that is simulated: a run adds what each stage that ran costs, one after
// the other, also a stage that failed. On a real clock nothing is added.
class StageRunner {
 public:
  virtual ~StageRunner() = default;

  // Sets aside slots 0 to `slots` - 1 for the features of a modality, by its place in the manifest.
  // `input_bytes` is the most that each of its inputs takes. Throws Error.
  virtual void reserve(size_t modality, size_t slots, const size_t* input_bytes) = 0;
  // The same for the outputs of results. Throws Error.
  virtual void reserve_results(size_t slots) = 0;

  // Runs the encoder's stages of a modality on its inputs, and keeps the features in a slot.
  virtual Code encode(size_t modality, const TensorView* inputs, size_t slot,
                      double* seconds) noexcept = 0;
  // The same with what stands in for an absent modality. `sizes` are of the manifest's dimensions
  // in order of name; those that are -1 are to be completed. Of a modality without encoder the slot
  // holds the inputs.
  virtual Code stand_in(size_t modality, const int64_t* sizes, size_t slot,
                        double* seconds) noexcept = 0;
  // Runs the fusion stages on what stands for each modality, in the manifest's order, and keeps the
  // network's outputs in a slot.
  virtual Code fuse(const FusionPart* parts, size_t result, double* seconds) noexcept = 0;

  // Why the last run failed, with the kind of the error: "BackendError: ...".
  virtual const char* message() const noexcept = 0;
};

}  // namespace mmedge::runtime::stream

#endif  // MMEDGE_RUNTIME_STREAM_STAGE_RUNNER_H_
