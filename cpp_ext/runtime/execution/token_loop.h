// The loop `generate` of a bundle: what does not change from call to call.
#ifndef MMEDGE_RUNTIME_EXECUTION_TOKEN_LOOP_H_
#define MMEDGE_RUNTIME_EXECUTION_TOKEN_LOOP_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "spec.h"

namespace mmedge::runtime {

// A state of the stage that grows.
struct GrowingState {
  std::string input;
  size_t axis = 0;
  // Most elements along the axis before and after a run.
  std::optional<int64_t> most_before;
  std::optional<int64_t> most_after;
};

class TokenLoop {
 public:
  // `source` begins messages: the bundle's path. Throws Error (kBundle) where the stage cannot take
  // one token at a time, or an output has the name of what a loop gives; kInput where the bundle
  // has no such loop.
  TokenLoop(const Manifest& manifest, const std::string& source);

  // Most tokens of a row that one run takes; 0: any number.
  int64_t most_new(int64_t batch) const noexcept;

  GenerateLoop loop;
  TensorSpec token;
  std::optional<TensorSpec> position;
  std::vector<GrowingState> growing;  // in the manifest's order
  bool can_cut = false;      // whether the states of fewer tokens are a part of those of more
  int64_t words = 0;         // of the vocabulary; 0: not known
  int64_t most_token = 0;    // the largest token that can be chosen
  int64_t default_batch = 1;
  // Ascending; the second is for the first choice, and has those of the first list, too.
  std::vector<int64_t> suppress;
  std::vector<int64_t> suppress_first;

 private:
  int64_t most_new_ = 0;     // most tokens of a row that the stage takes; 0: any number
  int64_t scores_each_ = 0;  // scores that a run gives for each token; 0: one set, or not known
};

}  // namespace mmedge::runtime

#endif  // MMEDGE_RUNTIME_EXECUTION_TOKEN_LOOP_H_
