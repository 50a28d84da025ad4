// Choosing a token from the scores of all: the best, or one drawn by its probability.
//
// docs/reference/bundle.md ("Choosing a token") specifies it; mmedge/execution/sampling.py is the
// reference.
#ifndef MMEDGE_RUNTIME_EXECUTION_SAMPLING_H_
#define MMEDGE_RUNTIME_EXECUTION_SAMPLING_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "tensor.h"

namespace mmedge::runtime {

// How a token is chosen; as the fields of GenerateLoop.
struct Sampling {
  double temperature = 0;
  int64_t top_k = 0;
  double top_p = 1;
  uint64_t seed = 0;
};

// The scores of one choice, floats: row i begins `stride` elements after row i - 1.
struct Scores {
  DType dtype = DType::kFloat32;
  const void* data = nullptr;
  size_t rows = 0;
  size_t vocabulary = 0;
  size_t stride = 0;
};

// Tokens that are not chosen, in ascending order and each once.
std::vector<int64_t> make_suppress_list(std::vector<int64_t> tokens);

// Chooses tokens in memory that is set aside once. For one thread at a time.
class TokenSampler {
 public:
  // `vocabulary`: most scores of a row, below 2^32.
  explicit TokenSampler(size_t vocabulary);

  size_t vocabulary() const noexcept { return shares_.size(); }

  // Writes one token for each row; `choice` is which choice of the loop it is, from 0. False where
  // the scores of a row hold NaN, or none that may be chosen, or, with a temperature, plus infinity.
  // `suppress` comes from make_suppress_list. The scores have no more than vocabulary() in a row.
  bool choose(const Scores& scores, const Sampling& sampling, uint64_t choice,
              const std::vector<int64_t>& suppress, int64_t* tokens) noexcept;

 private:
  bool draw(const void* row, const Scores& scores, const Sampling& sampling, double u,
            const std::vector<int64_t>& suppress, int64_t* token) noexcept;
  size_t keep_largest(size_t count, size_t keep) noexcept;
  size_t find_place(size_t count, double top_p, double u) noexcept;

  std::vector<double> scores_;
  std::vector<double> shares_;
  std::vector<uint32_t> order_;
  std::vector<uint32_t> tokens_;
};

// The sum in NumPy's order: of up to 128 numbers in eight parts side by side, of more by halves.
double sum_pairwise(const double* numbers, size_t count) noexcept;

}  // namespace mmedge::runtime

#endif  // MMEDGE_RUNTIME_EXECUTION_SAMPLING_H_
