// Choosing a token from the scores of all: the best, or one drawn by its probability.
#include "execution/sampling.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <type_traits>

#include "execution/convert.h"
#include "execution/float16.h"
#include "execution/random_numbers.h"

namespace mmedge::runtime {
namespace {

constexpr double kInfinite = std::numeric_limits<double>::infinity();

// How many probabilities are put in order at first: of tens of thousands, most often the first
// hundreds hold the token.
constexpr size_t kFirstSorted = 256;

// Up to so many of the largest are kept in a heap, which takes few of all the scores.
constexpr size_t kMostInHeap = 1024;

// From the largest score to the smallest, equal ones in their own order.
struct OrderByScore {
  const double* scores;

  bool operator()(uint32_t a, uint32_t b) const noexcept {
    return scores[a] > scores[b] || (scores[a] == scores[b] && a < b);
  }
};

// Scores whose largest is found at once: the place of it is looked for in them alone.
constexpr size_t kBlock = 1024;

template <typename T>
T read(const uint8_t* bytes, size_t i) noexcept {
  T value;
  std::memcpy(&value, bytes + i * sizeof value, sizeof value);
  return value;
}

// Of bits as they are stored, what they are compared as.
inline float value_of(uint16_t bits) noexcept { return half_to_float(bits); }
inline float value_of(float value) noexcept { return value; }
inline double value_of(double value) noexcept { return value; }

// The largest of scores [begin, end); NaN where there is one.
template <typename Bits>
auto find_largest(const uint8_t* bytes, size_t begin, size_t end) noexcept {
  using Value = decltype(value_of(Bits{}));
  Value largest = -std::numeric_limits<Value>::infinity();
  bool is_nan = false;
  size_t i = begin;
  if constexpr (std::is_same_v<Bits, Value>) {
    // In the processor's vectors, several of them side by side: no compiler makes them of a loop at
    // the level that the library is built with.
    typedef Value Vector __attribute__((vector_size(16)));
    constexpr size_t kVectors = 4, kElements = sizeof(Vector) / sizeof(Value);
    Vector vectors[kVectors];
    for (Vector& vector : vectors) vector = Vector{} + largest;
    auto nan = vectors[0] != vectors[0];
    for (; i + kVectors * kElements <= end; i += kVectors * kElements) {
#pragma GCC unroll 4
      for (size_t k = 0; k < kVectors; ++k) {  // unrolled, vectors stay in registers
        Vector vector;
        std::memcpy(&vector, bytes + (i + k * kElements) * sizeof(Value), sizeof vector);
        nan |= vector != vector;
        vectors[k] = vector > vectors[k] ? vector : vectors[k];
      }
    }
    for (size_t lane = 0; lane < kElements; ++lane) {
      is_nan |= nan[lane] != 0;
      for (const Vector& vector : vectors) largest = std::max<Value>(largest, vector[lane]);
    }
  }
  for (; i < end; ++i) {
    const Value value = value_of(read<Bits>(bytes, i));
    is_nan |= value != value;
    largest = value > largest ? value : largest;
  }
  return is_nan ? std::numeric_limits<Value>::quiet_NaN() : largest;
}

// Takes scores [begin, end) into the largest so far and the place of the first of its value.
// False where there is NaN.
template <typename Bits>
bool take_best(const void* row, size_t begin, size_t end, double* best, size_t* place) noexcept {
  const auto* bytes = static_cast<const uint8_t*>(row);
  size_t block = end;
  for (; begin < end; begin += std::min(kBlock, end - begin)) {
    const double largest = find_largest<Bits>(bytes, begin, std::min(begin + kBlock, end));
    if (largest != largest) return false;
    if (largest > *best) *best = largest, block = begin;
  }
  if (block == end) return true;
  while (value_of(read<Bits>(bytes, block)) != *best) ++block;
  *place = block;
  return true;
}

bool take_best(const void* row, DType dtype, size_t begin, size_t end, double* best,
               size_t* place) noexcept {
  switch (dtype) {
    case DType::kFloat16: return take_best<uint16_t>(row, begin, end, best, place);
    case DType::kFloat32: return take_best<float>(row, begin, end, best, place);
    case DType::kFloat64: return take_best<double>(row, begin, end, best, place);
    default: return false;
  }
}

// The first of the largest scores that may be chosen; false where there is none, or NaN.
bool find_best(const void* row, const Scores& scores, const std::vector<int64_t>& suppress,
               int64_t* token) noexcept {
  double best = -kInfinite;
  size_t place = 0, begin = 0;
  for (const int64_t suppressed : suppress) {
    const size_t end = static_cast<size_t>(suppressed);
    if (suppressed < 0 || end >= scores.vocabulary) continue;
    if (!take_best(row, scores.dtype, begin, end, &best, &place)) return false;
    begin = end + 1;
  }
  if (!take_best(row, scores.dtype, begin, scores.vocabulary, &best, &place)) return false;
  *token = static_cast<int64_t>(place);
  return best > -kInfinite;
}

}  // namespace

std::vector<int64_t> make_suppress_list(std::vector<int64_t> tokens) {
  std::sort(tokens.begin(), tokens.end());
  tokens.erase(std::unique(tokens.begin(), tokens.end()), tokens.end());
  return tokens;
}

double sum_pairwise(const double* numbers, size_t count) noexcept {
  if (count < 8) {
    double sum = 0.0;
    for (size_t i = 0; i < count; ++i) sum += numbers[i];
    return sum;
  }
  if (count > 128) {
    const size_t half = count / 2 - count / 2 % 8;
    return sum_pairwise(numbers, half) + sum_pairwise(numbers + half, count - half);
  }
  double parts[8];
  std::copy(numbers, numbers + 8, parts);
  size_t i = 8;
  for (; i + 8 <= count; i += 8) {
    for (size_t part = 0; part < 8; ++part) parts[part] += numbers[i + part];
  }
  double sum = ((parts[0] + parts[1]) + (parts[2] + parts[3])) +
               ((parts[4] + parts[5]) + (parts[6] + parts[7]));
  for (; i < count; ++i) sum += numbers[i];
  return sum;
}

TokenSampler::TokenSampler(size_t vocabulary)
    : scores_(vocabulary), shares_(vocabulary), order_(vocabulary), tokens_(vocabulary) {}

bool TokenSampler::choose(const Scores& scores, const Sampling& sampling, uint64_t choice,
                          const std::vector<int64_t>& suppress, int64_t* tokens) noexcept {
  const auto* row = static_cast<const uint8_t*>(scores.data);
  const RandomStream numbers(sampling.seed, choice);
  const size_t step = scores.stride * item_size(scores.dtype);
  for (size_t i = 0; i < scores.rows; ++i, row += step) {
    const bool is_chosen =
        sampling.temperature == 0.0
            ? find_best(row, scores, suppress, &tokens[i])
            : draw(row, scores, sampling, numbers.uniform(i), suppress, &tokens[i]);
    if (!is_chosen) return false;
  }
  return true;
}

bool TokenSampler::draw(const void* row, const Scores& scores, const Sampling& sampling, double u,
                        const std::vector<int64_t>& suppress, int64_t* token) noexcept {
  size_t count = scores.vocabulary;
  to_float64(scores.dtype, row, count, scores_.data());
  for (const int64_t suppressed : suppress) {
    if (suppressed >= 0 && static_cast<size_t>(suppressed) < count) {
      scores_[static_cast<size_t>(suppressed)] = -kInfinite;
    }
  }
  double largest = -kInfinite;
  for (size_t i = 0; i < count; ++i) {
    const double score = scores_[i] /= sampling.temperature;
    if (std::isnan(score)) return false;
    largest = std::max(largest, score);
  }
  // Infinite scores have no probability: the difference of two is no number.
  if (!std::isfinite(largest)) return false;
  const bool is_cut = sampling.top_k > 0 && static_cast<uint64_t>(sampling.top_k) < count;
  if (is_cut) count = keep_largest(count, static_cast<size_t>(sampling.top_k));
  for (size_t i = 0; i < count; ++i) shares_[i] = std::exp(scores_[i] - largest);
  const size_t place = find_place(count, sampling.top_p, u);
  *token = static_cast<int64_t>(is_cut ? tokens_[place] : place);
  return true;
}

// Keeps the largest scores in their own order, of equal ones the first, and their tokens.
size_t TokenSampler::keep_largest(size_t count, size_t keep) noexcept {
  double* largest = shares_.data();  // free until the scores are chosen
  double least;                      // the smallest score that stays
  if (keep <= kMostInHeap) {
    std::copy_n(scores_.data(), keep, largest);
    std::make_heap(largest, largest + keep, std::greater<double>());
    for (size_t i = keep; i < count; ++i) {
      if (!(scores_[i] > largest[0])) continue;
      std::pop_heap(largest, largest + keep, std::greater<double>());
      largest[keep - 1] = scores_[i];
      std::push_heap(largest, largest + keep, std::greater<double>());
    }
    least = largest[0];
  } else {
    std::copy_n(scores_.data(), count, largest);
    std::nth_element(largest, largest + (keep - 1), largest + count, std::greater<double>());
    least = largest[keep - 1];
  }
  size_t equal = keep;
  for (size_t i = 0; i < count; ++i) equal -= scores_[i] > least;
  size_t kept = 0;
  for (size_t i = 0; i < count; ++i) {
    const double score = scores_[i];
    if (score < least || (score == least && equal == 0)) continue;
    equal -= score == least;
    tokens_[kept] = static_cast<uint32_t>(i);
    scores_[kept++] = score;  // never before its own place
  }
  return kept;
}

// The place that `u` falls on, where places lie from the largest score to the smallest, equal ones
// in their own order. By their shares, the order of two that are nearly equal would depend on the
// last bit of exp. Only as many are put in order as it takes.
size_t TokenSampler::find_place(size_t count, double top_p, double u) noexcept {
  const double total = sum_pairwise(shares_.data(), count);
  for (size_t i = 0; i < count; ++i) order_[i] = static_cast<uint32_t>(i);
  const OrderByScore is_before{scores_.data()};
  size_t sorted = 0;
  const auto sort_more = [&]() noexcept {
    const size_t end = std::min(count, sorted == 0 ? kFirstSorted : sorted * 16);
    const auto begin = order_.begin() + static_cast<std::ptrdiff_t>(sorted);
    const auto middle = order_.begin() + static_cast<std::ptrdiff_t>(end);
    const auto last = order_.begin() + static_cast<std::ptrdiff_t>(count);
    if (middle != last) std::nth_element(begin, middle, last, is_before);
    std::sort(begin, middle, is_before);
    sorted = end;
  };
  size_t end = count;
  double target = u * total, sum = 0.0;
  if (top_p < 1.0) {
    const double limit = top_p * total;
    for (size_t i = 0; i < count; ++i) {
      if (i == sorted) sort_more();
      sum += shares_[order_[i]];
      if (!(sum >= limit)) continue;
      end = i + 1;
      break;
    }
    target = u * sum;
    sum = 0.0;
  }
  for (size_t i = 0; i < end; ++i) {
    if (i == sorted) sort_more();
    sum += shares_[order_[i]];
    if (sum > target) return order_[i];
  }
  return order_[end - 1];
}

}  // namespace mmedge::runtime
