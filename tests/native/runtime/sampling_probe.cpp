// Random numbers, sums, numbers of 16 bits and choices of tokens, written as the bytes of arrays.
#include "execution/sampling.h"

#include "allocation_guard.h"
#include "case_reader.h"
#include "execution/float16.h"
#include "execution/random_numbers.h"

using namespace mmedge::runtime;

namespace {

template <typename T>
void write(const std::vector<T>& elements) {
  if (!elements.empty()) std::fwrite(elements.data(), sizeof(T), elements.size(), stdout);
}

void write_numbers(CaseReader* cases, bool is_normal) {
  const uint64_t seed = cases->natural(), stream = cases->natural();
  const auto count = static_cast<size_t>(cases->natural());
  const RandomStream random(seed, stream);
  if (is_normal) {
    std::vector<float> numbers(count);
    random.fill_normal(numbers.data(), count);
    return write(numbers);
  }
  std::vector<double> numbers(count);
  for (size_t i = 0; i < count; ++i) numbers[i] = random.uniform(i);
  write(numbers);
}

void write_halves(CaseReader* cases) {
  std::vector<float> floats;
  std::vector<double> spacings;
  for (uint32_t half = 0; half < 0x10000; ++half) {
    floats.push_back(half_to_float(static_cast<uint16_t>(half)));
    spacings.push_back(half_spacing(static_cast<uint16_t>(half & 0x7FFF)));
  }
  std::vector<uint16_t> halves;
  const Tensor numbers = cases->tensor();
  for (size_t at = 0; at < numbers.data.size(); at += 8) {
    double number;
    std::memcpy(&number, numbers.data.data() + at, 8);
    halves.push_back(double_to_half(number));
  }
  write(floats);
  write(spacings);
  write(halves);
}

// TEMPERATURE TOP_K TOP_P SEED FIRST CHOICES SUPPRESS SCORES: [choices, rows]; -1 where none is.
void write_choices(CaseReader* cases) {
  Sampling sampling;
  sampling.temperature = cases->number();
  sampling.top_k = cases->whole();
  sampling.top_p = cases->number();
  sampling.seed = cases->natural();
  const uint64_t first = cases->natural(), choices = cases->natural();
  const std::vector<int64_t> suppress = make_suppress_list(cases->wholes());
  Tensor tensor = cases->tensor();
  Scores scores;
  scores.dtype = tensor.dtype;
  scores.data = tensor.data.data();
  scores.rows = static_cast<size_t>(tensor.shape.at(0));
  scores.vocabulary = scores.stride = static_cast<size_t>(tensor.shape.at(1));
  TokenSampler sampler(scores.vocabulary);
  std::vector<int64_t> tokens(scores.rows);
  for (uint64_t choice = first; choice < first + choices; ++choice) {
    bool is_chosen;
    {
      const AllocationGuard guard;
      is_chosen = sampler.choose(scores, sampling, choice, suppress, tokens.data());
    }
    if (!is_chosen) tokens.assign(scores.rows, -1);
    write(tokens);
  }
}

}  // namespace

int main() {
  CaseReader cases;
  while (!cases.is_done()) {
    const std::string what = cases.word();
    if (what == "uniform" || what == "normal") {
      write_numbers(&cases, what == "normal");
    } else if (what == "halves") {
      write_halves(&cases);
    } else if (what == "sum") {
      const Tensor numbers = cases.tensor();
      const auto* elements = reinterpret_cast<const double*>(numbers.data.data());
      write(std::vector<double>{sum_pairwise(elements, numbers.data.size() / 8)});
    } else {
      write_choices(&cases);
    }
  }
}
