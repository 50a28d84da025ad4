// SHA-256 (FIPS 180-4) of bytes that come in parts, by the processor's own instructions if any.
#ifndef MMEDGE_RUNTIME_BUNDLE_SHA256_H_
#define MMEDGE_RUNTIME_BUNDLE_SHA256_H_

#include <array>
#include <cstdint>
#include <string>

#include "tensor.h"

namespace mmedge::runtime {

// How blocks are hashed. All give the same digest.
enum class ShaInstructions { kPortable, kX86, kArm };

// Whether this processor has them.
bool has_instructions(ShaInstructions instructions) noexcept;
// The fastest that this processor has.
ShaInstructions best_instructions() noexcept;

class Sha256 {
 public:
  Sha256() noexcept : Sha256(best_instructions()) {}
  // `instructions` must be there: has_instructions.
  explicit Sha256(ShaInstructions instructions) noexcept;

  // Hashes the next part. Neither allocates nor throws.
  void update(Bytes bytes) noexcept;
  // The digest of all parts. Nothing may follow.
  std::array<uint8_t, 32> digest() noexcept;
  // The same as 64 lower-case hexadecimal digits.
  std::string hexadecimal();

 private:
  void (*hash_blocks_)(uint32_t* state, const uint8_t* blocks, size_t count) noexcept;
  uint32_t state_[8];
  uint64_t total_ = 0;  // bytes
  uint8_t rest_[64];    // what is no whole block yet: total_ % 64 bytes
};

// The digest of `bytes` as 64 lower-case hexadecimal digits.
std::string sha256_hexadecimal(Bytes bytes);

}  // namespace mmedge::runtime

#endif  // MMEDGE_RUNTIME_BUNDLE_SHA256_H_
