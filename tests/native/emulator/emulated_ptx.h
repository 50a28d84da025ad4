// The functions of kernels/cuda/ptx.cuh, emulated. Lanes exchange registers as the PTX ISA says of
// each instruction; g is a lane's number / 4, t its number % 4.
#ifndef EMULATOR_EMULATED_PTX_H_
#define EMULATOR_EMULATED_PTX_H_

#include <cmath>
#include <cstring>

#include "emulator.h"
#include "float16.h"

namespace mmedge::cuda {

inline int thread_index() { return emulator::thread_index(); }
inline int block_x() { return static_cast<int>(emulator::block_index().x); }
inline int block_y() { return static_cast<int>(emulator::block_index().y); }
inline int block_z() { return static_cast<int>(emulator::block_index().z); }
inline int grid_y() { return static_cast<int>(emulator::grid_size().y); }

inline void sync_block(int line = __builtin_LINE()) { emulator::meet_block(line); }
inline void sync_warp(int line = __builtin_LINE()) {
  emulator::meet_warp("sync_warp", line, nullptr, nullptr);
}

inline float from_lane_xor(float value, int mask, int line = __builtin_LINE()) {
  struct Lane {
    float value, result;
    int mask;
  } lane{value, 0.0f, mask};
  emulator::meet_warp(
      "from_lane_xor", line,
      [](void* const* lanes) {
        for (int i = 0; i < 32; ++i) {
          Lane& self = *static_cast<Lane*>(lanes[i]);
          self.result = static_cast<Lane*>(lanes[i ^ self.mask])->value;
        }
      },
      &lane);
  return lane.result;
}

inline bool any_lane(bool value, int line = __builtin_LINE()) {
  bool lane = value;
  emulator::meet_warp(
      "any_lane", line,
      [](void* const* lanes) {
        bool any = false;
        for (int i = 0; i < 32; ++i) any = any || *static_cast<bool*>(lanes[i]);
        for (int i = 0; i < 32; ++i) *static_cast<bool*>(lanes[i]) = any;
      },
      &lane);
  return lane;
}

inline void fence_device() {}

inline unsigned count_arrival(unsigned* counter, unsigned last) {
  const unsigned before = *counter;
  *counter = before >= last ? 0 : before + 1;
  return before;
}

inline float load_shared_by_blocks(const float* from) { return *from; }
inline float4 load_shared_by_blocks(const float4* from) { return *from; }

inline unsigned char* shared_memory() { return emulator::shared_memory(); }
inline uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(static_cast<const unsigned char*>(pointer) - shared_memory());
}

inline void copy_async(uint32_t to, const void* from, int bytes) {
  emulator::copy_async(to, from, bytes);
}
inline void commit_copies() { emulator::commit_copies(); }
template <int N>
inline void wait_copies() {
  emulator::wait_copies(N);
}

struct LoadLane {
  uint32_t* to;
  uint32_t address;
};

// Row i of matrix j is at the address of lane 8 * j + i. It is an error where rows of one matrix
// lie in the same banks: that is a conflict, and slow.
template <bool Transposed>
inline void load_matrices_of(void* const* lanes) {
  for (int matrix = 0; matrix < 4; ++matrix) {
    uint16_t elements[8][8];
    unsigned banks = 0;
    for (int row = 0; row < 8; ++row) {
      const uint32_t address = static_cast<LoadLane*>(lanes[8 * matrix + row])->address;
      std::memcpy(elements[row], emulator::shared_at(address, 16, 16), 16);
      banks |= 1u << address / 16 % 8;
    }
    if (banks != 0xFF) emulator::fail("bank conflict in load_matrices (banks %02x)", banks);
    for (int i = 0; i < 32; ++i) {
      const int g = i / 4, t = i % 4;
      const uint32_t low = Transposed ? elements[2 * t][g] : elements[g][2 * t];
      const uint32_t high = Transposed ? elements[2 * t + 1][g] : elements[g][2 * t + 1];
      static_cast<LoadLane*>(lanes[i])->to[matrix] = low | high << 16;
    }
  }
}

inline void load_matrices(uint32_t (&m)[4], uint32_t address, int line = __builtin_LINE()) {
  LoadLane lane{m, address};
  emulator::meet_warp("load_matrices", line, load_matrices_of<false>, &lane);
}
inline void load_matrices_transposed(uint32_t (&m)[4], uint32_t address,
                                     int line = __builtin_LINE()) {
  LoadLane lane{m, address};
  emulator::meet_warp("load_matrices_transposed", line, load_matrices_of<true>, &lane);
}

template <class T>
inline float unpack(uint16_t bits) {
  return emulator::to_float<T>(bits);
}

template <class T>
inline uint32_t pack(float low, float high) {
  return emulator::from_float<T>(low) | static_cast<uint32_t>(emulator::from_float<T>(high)) << 16;
}

template <class T>
inline void multiply_add(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                         int line = __builtin_LINE()) {
  struct Lane {
    float* c;
    const uint32_t* a;
    uint32_t b[2];
  } lane{c, a, {b0, b1}};
  emulator::meet_warp(
      "multiply_add", line,
      [](void* const* lanes) {
        float left[16][16], right[16][8], sum[16][8];
        for (int i = 0; i < 32; ++i) {
          const Lane& self = *static_cast<Lane*>(lanes[i]);
          const int g = i / 4, t = i % 4;
          for (int e = 0; e < 2; ++e) {
            const auto part = [e](uint32_t two) {
              return unpack<T>(static_cast<uint16_t>(two >> 16 * e));
            };
            left[g][2 * t + e] = part(self.a[0]);
            left[g + 8][2 * t + e] = part(self.a[1]);
            left[g][2 * t + 8 + e] = part(self.a[2]);
            left[g + 8][2 * t + 8 + e] = part(self.a[3]);
            right[2 * t + e][g] = part(self.b[0]);
            right[2 * t + 8 + e][g] = part(self.b[1]);
            sum[g][2 * t + e] = self.c[e];
            sum[g + 8][2 * t + e] = self.c[2 + e];
          }
        }
        for (int m = 0; m < 16; ++m) {
          for (int k = 0; k < 16; ++k) {
            for (int n = 0; n < 8; ++n) sum[m][n] += left[m][k] * right[k][n];
          }
        }
        for (int i = 0; i < 32; ++i) {
          const Lane& self = *static_cast<Lane*>(lanes[i]);
          const int g = i / 4, t = i % 4;
          for (int e = 0; e < 2; ++e) {
            self.c[e] = sum[g][2 * t + e];
            self.c[2 + e] = sum[g + 8][2 * t + e];
          }
        }
      },
      &lane);
}

inline float exp2_fast(float x) {
  const float y = std::exp2(x);
  return y < 1.17549435e-38f ? 0.0f : y;  // subnormal results become 0
}
inline float log2_fast(float x) { return std::log2(x); }
inline float reciprocal(float x) { return 1.0f / x; }

inline int anew(int value) { return value; }

inline float bits_as_float(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

}  // namespace mmedge::cuda

#endif  // EMULATOR_EMULATED_PTX_H_
