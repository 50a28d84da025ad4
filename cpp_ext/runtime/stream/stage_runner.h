// What runs the stages for a stream: the seam between its bookkeeping and a loaded network.
#ifndef MMEDGE_RUNTIME_STREAM_STAGE_RUNNER_H_
#define MMEDGE_RUNTIME_STREAM_STAGE_RUNNER_H_

#include <cstddef>
#include <cstdint>

#include "error.h"
#include "execution/loop_finish.h"
#include "tensor.h"

namespace mmedge::runtime::stream {

// What stands for one modality in a fusion: features in a slot, or, of a modality without encoder,
// its inputs.
struct FusionPart {
  int slot = -1;                       // -1: `inputs`
  const TensorView* inputs = nullptr;  // in the order of the modality's inputs
};

// Runs stages. Features of a modality live in slots that it sets aside, and so do the outputs of
// results. The encoder of each modality may run on a thread of its own: encode(). All that makes a
// result (stand_in(), fuse(), step(), end()) is for one thread; it may be another.
//
// `seconds` is for a clock that is simulated: a run adds what each stage that ran costs, one after
// the other, also a stage that failed. On a real clock nothing is added.
//
// A run of stages with state takes the states that were kept where it `goes_on`, else their first
// values. What it leaves replaces those only when it is told to keep them, while no such run is under
// way.
class StageRunner {
 public:
  virtual ~StageRunner() = default;

  // Sets aside slots 0 to `slots` - 1 for the features of a modality, by its place in the manifest.
  // `input_bytes` is the most that each of its inputs takes. Throws Error.
  virtual void reserve(size_t modality, size_t slots, const size_t* input_bytes) = 0;
  // The same for the outputs of results. Throws Error.
  virtual void reserve_results(size_t slots) = 0;

  // Runs the encoder's stages of a modality on its inputs, and keeps the features in a slot.
  virtual Code encode(size_t modality, const TensorView* inputs, bool goes_on, size_t slot,
                      double* seconds) noexcept = 0;
  // Keeps the states that the last encode() left.
  virtual void keep_states(size_t modality) noexcept = 0;
  // As encode(), with what stands in for an absent modality, and on first states. `sizes` are of the
  // manifest's dimensions in order of name; those that are -1 are to be completed. Of a modality
  // without encoder the slot holds the inputs.
  virtual Code stand_in(size_t modality, const int64_t* sizes, size_t slot,
                        double* seconds) noexcept = 0;
  // Runs the fusion stages on what stands for each modality, in the manifest's order, keeps the
  // network's outputs in a slot, and begins the loop where there is one. What was begun before is
  // given up. `goes_on` is by fusion stage with state, in the plan's order.
  virtual Code fuse(const FusionPart* parts, const uint8_t* goes_on, size_t result,
                    double* seconds) noexcept = 0;
  // Keeps the states that the last fuse() left, of those stages.
  virtual void keep_fusion_states(const uint8_t* which) noexcept = 0;

  virtual bool has_loop() const noexcept = 0;
  // Takes the next step; whether there are more.
  virtual Code step(bool* more, double* seconds) noexcept = 0;
  // Takes no more steps, and adds what the loop gives to the outputs in the slot. What ended before
  // its time did so for `why`. `*has_outputs` is false where there is nothing to give yet.
  virtual Code end(LoopFinish why, size_t result, bool* has_outputs, double* seconds) noexcept = 0;

  // Why the last run failed, with the kind of the error: "BackendError: ...". Of encode(), by its
  // modality; -1: of the others.
  virtual const char* message(int modality) const noexcept = 0;
};

}  // namespace mmedge::runtime::stream

#endif  // MMEDGE_RUNTIME_STREAM_STAGE_RUNNER_H_
