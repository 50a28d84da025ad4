// A stage of a loop, and where each of its inputs comes from.
#ifndef MMEDGE_RUNTIME_LOOP_STAGE_H_
#define MMEDGE_RUNTIME_LOOP_STAGE_H_

#include <cstddef>
#include <memory>
#include <vector>

#include "backends/backend.h"
#include "execution/first_states.h"
#include "spec.h"

namespace mmedge::runtime {

struct LoopInput {
  enum class Source { kLoop, kState, kNetwork, kMade };  // kLoop: the loop writes it
  Source source = Source::kLoop;
  size_t stage = 0;  // of the plan, that makes it
  size_t place = 0;  // among that stage's boundaries, or the network's inputs
  std::vector<int> dimensions;  // of each axis: dimension_places()
};

struct LoopState {
  size_t input = 0, output = 0;  // of the stage
  size_t state = 0;              // among the manifest's states
  bool has_source = false;       // whether it begins with what a stage of the plan makes
  size_t stage = 0, place = 0;   // which, and its boundary
};

struct LoopStage {
  const Stage* stage = nullptr;
  std::unique_ptr<Session> session;
  std::vector<LoopInput> inputs;       // as the session's
  std::vector<LoopState> states;
  std::unique_ptr<FirstStates> first;  // in the order of `states`; null where there are none
};

}  // namespace mmedge::runtime

#endif  // MMEDGE_RUNTIME_LOOP_STAGE_H_
