// What the first tokens of earlier calls left, for calls that begin with the same.
//
// docs/reference/bundle.md ("Caches of a runtime"); Prefix of mmedge/execution/generate.py and
// FeatureCache of mmedge/execution/feature_cache.py are the reference.
#ifndef MMEDGE_RUNTIME_EXECUTION_PREFIX_CACHE_H_
#define MMEDGE_RUNTIME_EXECUTION_PREFIX_CACHE_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "backends/backend.h"
#include "execution/generate_state.h"

namespace mmedge::runtime {

// The states after first tokens, and the scores of what follows them, in memory of the engine.
struct Prefix {
  std::array<uint8_t, 32> key{};  // stands for the call's other inputs
  Value tokens;                   // int64 [rows, n]; empty: nothing is here
  Value scores;                   // [rows, vocabulary]
  std::vector<Value> states;      // by the stage's states
  size_t bytes = 0;
  uint64_t used = 0;
};

// Keeps up to 64 of up to 64 MiB in all; the one that was used longest ago goes first.
class PrefixCache {
 public:
  static constexpr size_t kMost = 64;
  static constexpr size_t kMostBytes = size_t{64} << 20;

  // `states`: of the stage. Throws std::bad_alloc.
  explicit PrefixCache(size_t states);

  // The one of which most first tokens of a call, that has begun, need not be run again, and how many
  // those are; null where there is none.
  const Prefix* best(const GenerateState& call, const std::array<uint8_t, 32>& key,
                     int64_t* common) noexcept;
  // A place for a new one, to be filled; null where it is too large to be kept. Others make room.
  Prefix* add(size_t bytes) noexcept;
  static void clear(Prefix* prefix) noexcept;

 private:
  Prefix* oldest() noexcept;

  std::vector<Prefix> prefixes_;
  uint64_t uses_ = 0;
};

}  // namespace mmedge::runtime

#endif  // MMEDGE_RUNTIME_EXECUTION_PREFIX_CACHE_H_
