// Random numbers that are the same on every machine, for sampled tokens and first noise.
//
// docs/reference/bundle.md ("Random numbers") specifies them. A number depends on its seed, stream
// and index alone.
#ifndef MMEDGE_RUNTIME_EXECUTION_RANDOM_NUMBERS_H_
#define MMEDGE_RUNTIME_EXECUTION_RANDOM_NUMBERS_H_

#include <cstddef>
#include <cstdint>

namespace mmedge::runtime {

// The numbers of one stream of a seed.
class RandomStream {
 public:
  RandomStream(uint64_t seed, uint64_t stream) noexcept;

  // A number from 0 to below 1, a multiple of 2^-53.
  double uniform(uint64_t index) const noexcept;

  // Writes the first `count` normal numbers of mean 0 and variance 1.
  void fill_normal(float* out, size_t count) const noexcept;

 private:
  uint64_t base_;
};

}  // namespace mmedge::runtime

#endif  // MMEDGE_RUNTIME_EXECUTION_RANDOM_NUMBERS_H_
