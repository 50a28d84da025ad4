// First tokens of earlier calls, the least recently used one first.
#include "execution/prefix_cache.h"

namespace mmedge::runtime {

PrefixCache::PrefixCache(size_t states) : prefixes_(kMost) {
  for (Prefix& prefix : prefixes_) prefix.states.resize(states);
}

const Prefix* PrefixCache::best(const GenerateState& call, const std::array<uint8_t, 32>& key,
                                int64_t* common) noexcept {
  Prefix* best = nullptr;
  *common = 0;
  for (Prefix& prefix : prefixes_) {
    if (!prefix.tokens || prefix.key != key) continue;
    const TensorView& tokens = prefix.tokens.view();
    const int64_t count = call.count_common(static_cast<const int64_t*>(tokens.data),
                                            tokens.shape[0], tokens.shape[1]);
    // Of two that are as good, the one that was used before the other.
    if (count > *common || (count > 0 && count == *common && prefix.used < best->used)) {
      best = &prefix;
      *common = count;
    }
  }
  if (best != nullptr) best->used = ++uses_;
  return best;
}

Prefix* PrefixCache::oldest() noexcept {
  Prefix* oldest = nullptr;
  for (Prefix& prefix : prefixes_) {
    if (prefix.bytes > 0 && (oldest == nullptr || prefix.used < oldest->used)) oldest = &prefix;
  }
  return oldest;
}

Prefix* PrefixCache::add(size_t bytes) noexcept {
  if (bytes > kMostBytes) return nullptr;
  Prefix* free = nullptr;
  size_t held = 0;
  for (Prefix& prefix : prefixes_) {
    if (!prefix.tokens) clear(&prefix);  // one that could not be filled
    held += prefix.bytes;
    if (prefix.bytes == 0) free = &prefix;
  }
  while (free == nullptr || held + bytes > kMostBytes) {
    free = oldest();
    held -= free->bytes;
    clear(free);
  }
  free->bytes = bytes;
  free->used = ++uses_;
  return free;
}

void PrefixCache::clear(Prefix* prefix) noexcept {
  prefix->tokens = Value();
  prefix->scores = Value();
  for (Value& state : prefix->states) state = Value();
  prefix->bytes = 0;
}

}  // namespace mmedge::runtime
