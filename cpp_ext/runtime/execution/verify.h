// Golden samples, replayed on this machine: mmedge/execution/verify.py.
#ifndef MMEDGE_RUNTIME_EXECUTION_VERIFY_H_
#define MMEDGE_RUNTIME_EXECUTION_VERIFY_H_

#include <string>
#include <vector>

#include "execution/tolerance.h"
#include "pipeline.h"

namespace mmedge::runtime {

// Worst difference of one output over all golden samples.
struct VerifiedOutput {
  std::string stage;  // "(whole network)" of the network's outputs
  std::string output;
  Tolerance tolerance;
  Difference worst;
};

struct Verification {
  std::string variant;
  size_t samples = 0;
  std::vector<VerifiedOutput> outputs;

  // Throws Error(kAccuracy), which names the first stage and output that is off.
  void check() const;
};

// Runs every stage of the loaded plan on the golden tensors that enter it, and the whole network on
// its inputs. Throws Error: kBundle where there are no samples, kBackend where a stage fails.
Verification verify(Pipeline& pipeline);

}  // namespace mmedge::runtime

#endif  // MMEDGE_RUNTIME_EXECUTION_VERIFY_H_
