// Runs the stages for a stream: one modality's encoder, stand-ins, and the fusion.
#ifndef MMEDGE_RUNTIME_STREAM_COMPUTE_H_
#define MMEDGE_RUNTIME_STREAM_COMPUTE_H_

#include <memory>
#include <vector>

#include "stream/chooser.h"
#include "stream/modality_state.h"
#include "stream/stage_runner.h"
#include "stream/thread_sync.h"

namespace mmedge::runtime::stream {

// Why a loop takes no more steps, though it has some left.
enum class LoopEnd : uint8_t { kNone, kCanceled, kDeadline };

// Outcome of a fusion.
struct Fused {
  int slot = -1;          // of the outputs; -1: there are none
  Text message;           // what went wrong
  bool has_loop = false;  // steps are to follow, of which `steps` were taken
  bool has_more = false;  // after a step: there are more
  int64_t steps = 0;
  Text remark;            // why there were no more
};

// The work itself, without time: mmedge/stream/compute.py. It keeps nothing but which stand-ins are
// encoded.
class Compute {
 public:
  // Has the runner set aside its slots, and encodes the stand-ins of optional modalities. Throws
  // Error.
  Compute(StageRunner* runner, const std::vector<std::unique_ptr<ModalityState>>& tracks,
          const DimensionTable& table, size_t results, size_t fusion_states);

  // Says that threads share what tracks hold, under a mutex that begin_fusion() and end_fusion() are
  // called with, and no other function. One thread encodes a modality, and one fuses.
  void share(Mutex* mutex) noexcept { mutex_ = mutex; }

  // Runs a modality's encoder on an item, unless the one before had the same content; the outcome
  // is the track's. What it costs is added to `seconds`.
  void encode(ModalityState* track, const Item& item, double* seconds) noexcept;
  // Notes what was chosen of each modality, and keeps it for a fusion and its loop until end_fusion(),
  // whatever becomes of the trigger meanwhile.
  void begin_fusion(const Active& active, const FusionStates& states) noexcept;
  // Outputs from that, or from stand-ins, and a loop that is begun.
  void fuse(Slots* results, Fused* outcome, double* seconds) noexcept;
  void end_fusion() noexcept;
  // Takes the next step of a loop.
  void step(Slots* results, Fused* outcome, double* seconds) noexcept;
  // Takes what the loop gives.
  void end(LoopEnd why, Slots* results, Fused* outcome, double* seconds) noexcept;

 private:
  // Sets of sizes of a modality for which the features of its stand-in are kept. Python keeps so
  // many times the number of modalities, of all together.
  static constexpr size_t kMostStandIns = 16;

  // What a fusion at work uses of a modality; without item: its stand-in.
  struct Chosen {
    Item* item = nullptr;
    int features = -1;
  };
  struct StandIns {
    size_t first_slot = 0, most = 0, count = 0;
    std::vector<int64_t> keys;
  };

  // The slot of a stand-in; -1: it could not be encoded.
  int stand_in(const ModalityState& track, const int64_t* sizes, double* seconds) noexcept;

  StageRunner* runner_;
  const std::vector<std::unique_ptr<ModalityState>>& tracks_;
  const DimensionTable& table_;
  std::vector<StandIns> stand_ins_;  // by modality
  std::vector<FusionPart> parts_;
  std::vector<uint8_t> goes_on_;  // by fusion stage with state
  std::vector<Chosen> chosen_;    // by modality
  std::vector<int64_t> key_, no_sizes_, sizes_;
  Mutex* mutex_ = nullptr;
};

}  // namespace mmedge::runtime::stream

#endif  // MMEDGE_RUNTIME_STREAM_COMPUTE_H_
