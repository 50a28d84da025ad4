// Compares outputs with their references: each case is RTOL ATOL SAMPLES and two tensors a sample.
#include "execution/tolerance.h"

#include "case_reader.h"

using namespace mmedge::runtime;

int main() {
  CaseReader cases;
  while (!cases.is_done()) {
    Tolerance tolerance;
    tolerance.rtol = cases.number();
    tolerance.atol = cases.number();
    OutputComparison comparison(tolerance);
    for (int64_t samples = cases.whole(); samples > 0; --samples) {
      Tensor got = cases.tensor(), golden = cases.tensor();
      comparison.add(got.view(), golden.view());
    }
    const Difference worst = comparison.result();
    std::printf("%a|%a|%a|%a|%s|%s|%d|%s\n", worst.max_abs, worst.max_rel, worst.limit_used,
                worst.scale, worst.where.c_str(), worst.reason.c_str(), worst.passes(),
                worst.text().c_str());
  }
}
