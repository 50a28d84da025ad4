// SHA-256 in three ways: plain C++, SHA-NI of x86-64, and the SHA-2 instructions of ARMv8.
#include "bundle/sha256.h"

#include <cstring>

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#elif defined(__aarch64__) && defined(__linux__) && !defined(__AARCH64EB__)
#include <arm_neon.h>
#include <sys/auxv.h>
#define MMEDGE_SHA_ARM 1
#endif

namespace mmedge::runtime {

namespace {

// FIPS 180-4, 4.2.2: fractions of the cube roots of the first 64 primes.
alignas(64) constexpr uint32_t kRounds[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

// FIPS 180-4, 5.3.3: fractions of the square roots of the first 8 primes.
constexpr uint32_t kInitial[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                  0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};

uint32_t rotate(uint32_t value, int bits) { return (value >> bits) | (value << (32 - bits)); }

uint32_t big_endian(const uint8_t* bytes) {
  return uint32_t{bytes[0]} << 24 | uint32_t{bytes[1]} << 16 | uint32_t{bytes[2]} << 8 | bytes[3];
}

void hash_portable(uint32_t* state, const uint8_t* block, size_t count) noexcept {
  for (; count > 0; --count, block += 64) {
    uint32_t w[16];
    uint32_t a = state[0], b = state[1], c = state[2], d = state[3];
    uint32_t e = state[4], f = state[5], g = state[6], h = state[7];
    for (int t = 0; t < 64; ++t) {
      if (t < 16) {
        w[t] = big_endian(block + 4 * t);
      } else {
        const uint32_t before2 = w[(t - 2) & 15], before15 = w[(t - 15) & 15];
        w[t & 15] += (rotate(before2, 17) ^ rotate(before2, 19) ^ (before2 >> 10)) +
                     w[(t - 7) & 15] +
                     (rotate(before15, 7) ^ rotate(before15, 18) ^ (before15 >> 3));
      }
      const uint32_t first = h + (rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25)) +
                             ((e & f) ^ (~e & g)) + kRounds[t] + w[t & 15];
      const uint32_t second =
          (rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
      h = g;
      g = f;
      f = e;
      e = d + first;
      d = c;
      c = b;
      b = a;
      a = first + second;
    }
    state[0] += a;
    state[1] += b;
    state[2] += c;
    state[3] += d;
    state[4] += e;
    state[5] += f;
    state[6] += g;
    state[7] += h;
  }
}

#if defined(__x86_64__)

// Two vectors hold the state in the order that the instructions want: A B E F and C D G H.
__attribute__((target("sha,sse4.1,ssse3"))) void hash_x86(uint32_t* state, const uint8_t* block,
                                                          size_t count) noexcept {
  const __m128i reversal = _mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203);
  const __m128i abcd = _mm_loadu_si128(reinterpret_cast<const __m128i*>(state));
  const __m128i efgh = _mm_loadu_si128(reinterpret_cast<const __m128i*>(state + 4));
  const __m128i badc = _mm_shuffle_epi32(abcd, 0xb1);
  const __m128i hgfe = _mm_shuffle_epi32(efgh, 0x1b);
  __m128i abef = _mm_alignr_epi8(badc, hgfe, 8);
  __m128i cdgh = _mm_blend_epi16(hgfe, badc, 0xf0);
  for (; count > 0; --count, block += 64) {
    const __m128i abef_before = abef, cdgh_before = cdgh;
    __m128i w[4];
    for (int i = 0; i < 4; ++i) {
      w[i] = _mm_shuffle_epi8(_mm_loadu_si128(reinterpret_cast<const __m128i*>(block + 16 * i)),
                              reversal);
    }
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) {
      const __m128i sum = _mm_add_epi32(
          w[i & 3], _mm_load_si128(reinterpret_cast<const __m128i*>(kRounds + 4 * i)));
      cdgh = _mm_sha256rnds2_epu32(cdgh, abef, sum);
      if (i < 12) {  // the words of round 4 i + 16 and the next three
        const __m128i last = w[(i + 3) & 3];
        const __m128i near = _mm_alignr_epi8(last, w[(i + 2) & 3], 4);
        const __m128i part = _mm_add_epi32(_mm_sha256msg1_epu32(w[i & 3], w[(i + 1) & 3]), near);
        w[i & 3] = _mm_sha256msg2_epu32(part, last);
      }
      abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(sum, 0x0e));
    }
    abef = _mm_add_epi32(abef, abef_before);
    cdgh = _mm_add_epi32(cdgh, cdgh_before);
  }
  const __m128i feba = _mm_shuffle_epi32(abef, 0x1b);
  const __m128i dchg = _mm_shuffle_epi32(cdgh, 0xb1);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(state), _mm_blend_epi16(feba, dchg, 0xf0));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(state + 4), _mm_alignr_epi8(dchg, feba, 8));
}

bool has_x86() noexcept {
  unsigned a, b, c, d;
  // Leaf 1: SSSE3 and SSE4.1, bits 9 and 19 of ECX. Leaf 7: SHA, bit 29 of EBX.
  if (!__get_cpuid(1, &a, &b, &c, &d) || !(c >> 9 & 1) || !(c >> 19 & 1)) return false;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b >> 29 & 1);
}

#elif defined(MMEDGE_SHA_ARM)

__attribute__((target("+crypto"))) void hash_arm(uint32_t* state, const uint8_t* block,
                                                 size_t count) noexcept {
  uint32x4_t abcd = vld1q_u32(state), efgh = vld1q_u32(state + 4);
  for (; count > 0; --count, block += 64) {
    const uint32x4_t abcd_before = abcd, efgh_before = efgh;
    uint32x4_t w[4];
    for (int i = 0; i < 4; ++i) {
      w[i] = vreinterpretq_u32_u8(vrev32q_u8(vld1q_u8(block + 16 * i)));
    }
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) {
      const uint32x4_t sum = vaddq_u32(w[i & 3], vld1q_u32(kRounds + 4 * i));
      if (i < 12) {  // the words of round 4 i + 16 and the next three
        w[i & 3] = vsha256su1q_u32(vsha256su0q_u32(w[i & 3], w[(i + 1) & 3]), w[(i + 2) & 3],
                                   w[(i + 3) & 3]);
      }
      const uint32x4_t abcd_old = abcd;
      abcd = vsha256hq_u32(abcd, efgh, sum);
      efgh = vsha256h2q_u32(efgh, abcd_old, sum);
    }
    abcd = vaddq_u32(abcd, abcd_before);
    efgh = vaddq_u32(efgh, efgh_before);
  }
  vst1q_u32(state, abcd);
  vst1q_u32(state + 4, efgh);
}

bool has_arm() noexcept {
  constexpr unsigned long kSha2 = 1ul << 6;  // HWCAP_SHA2
  return (getauxval(AT_HWCAP) & kSha2) != 0;
}

#endif

}  // namespace

bool has_instructions(ShaInstructions instructions) noexcept {
  switch (instructions) {
    case ShaInstructions::kPortable:
      return true;
    case ShaInstructions::kX86:
#if defined(__x86_64__)
      return has_x86();
#else
      return false;
#endif
    case ShaInstructions::kArm:
#if defined(MMEDGE_SHA_ARM)
      return has_arm();
#else
      return false;
#endif
  }
  return false;
}

ShaInstructions best_instructions() noexcept {
  for (ShaInstructions each : {ShaInstructions::kX86, ShaInstructions::kArm}) {
    if (has_instructions(each)) return each;
  }
  return ShaInstructions::kPortable;
}

Sha256::Sha256(ShaInstructions instructions) noexcept : hash_blocks_(hash_portable) {
#if defined(__x86_64__)
  if (instructions == ShaInstructions::kX86) hash_blocks_ = hash_x86;
#elif defined(MMEDGE_SHA_ARM)
  if (instructions == ShaInstructions::kArm) hash_blocks_ = hash_arm;
#else
  (void)instructions;
#endif
  std::memcpy(state_, kInitial, sizeof(state_));
}

void Sha256::update(Bytes bytes) noexcept {
  const uint8_t* data = bytes.data;
  size_t size = bytes.size;
  if (size == 0) return;  // memcpy takes no null
  const size_t waiting = total_ % 64;
  total_ += size;
  if (waiting > 0) {
    const size_t taken = size < 64 - waiting ? size : 64 - waiting;
    std::memcpy(rest_ + waiting, data, taken);
    data += taken;
    size -= taken;
    if (waiting + taken < 64) return;
    hash_blocks_(state_, rest_, 1);
  }
  hash_blocks_(state_, data, size / 64);
  if (size % 64 > 0) std::memcpy(rest_, data + size / 64 * 64, size % 64);
}

std::array<uint8_t, 32> Sha256::digest() noexcept {
  const uint64_t bits = total_ * 8;
  size_t waiting = total_ % 64;
  rest_[waiting++] = 0x80;
  if (waiting > 56) {
    std::memset(rest_ + waiting, 0, 64 - waiting);
    hash_blocks_(state_, rest_, 1);
    waiting = 0;
  }
  std::memset(rest_ + waiting, 0, 56 - waiting);
  for (int i = 0; i < 8; ++i) rest_[56 + i] = static_cast<uint8_t>(bits >> (56 - 8 * i));
  hash_blocks_(state_, rest_, 1);
  std::array<uint8_t, 32> result;
  for (int i = 0; i < 32; ++i) result[i] = static_cast<uint8_t>(state_[i / 4] >> (24 - 8 * (i % 4)));
  return result;
}

std::string Sha256::hexadecimal() {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  text.reserve(64);
  for (uint8_t byte : digest()) {
    text += kDigits[byte >> 4];
    text += kDigits[byte & 15];
  }
  return text;
}

std::string sha256_hexadecimal(Bytes bytes) {
  Sha256 hash;
  hash.update(bytes);
  return hash.hexadecimal();
}

}  // namespace mmedge::runtime
