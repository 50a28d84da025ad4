// The measurements of mmedge/native/dispatch.json for ONNX Runtime; a test holds them against it.
#include "dispatch.h"

#include <cstdio>

namespace mmedge::runtime {
namespace {

constexpr KernelMeasurement kMeasurements[] = {
    {"cpu-avx512", "float32", 32, 900, 8320, 1.305},
    {"cpu-avx512", "float32", 64, 1, 64, 2.254},
    {"cpu-avx512", "float32", 64, 1, 256, 2.538},
    {"cpu-avx512", "float32", 64, 1, 1024, 2.813},
    {"cpu-avx512", "float32", 64, 1, 4096, 1.182},
    {"cpu-avx512", "float32", 64, 4, 64, 2.095},
    {"cpu-avx512", "float32", 64, 4, 256, 2.288},
    {"cpu-avx512", "float32", 64, 4, 1024, 2.458},
    {"cpu-avx512", "float32", 64, 4, 4096, 1.377},
    {"cpu-avx512", "float32", 64, 16, 64, 1.656},
    {"cpu-avx512", "float32", 64, 16, 256, 1.608},
    {"cpu-avx512", "float32", 64, 16, 1024, 1.785},
    {"cpu-avx512", "float32", 64, 16, 1165, 1.384},
    {"cpu-avx512", "float32", 64, 16, 4096, 1.498},
    {"cpu-avx512", "float32", 64, 64, 64, 1.153},
    {"cpu-avx512", "float32", 64, 64, 256, 1.161},
    {"cpu-avx512", "float32", 64, 64, 1024, 1.262},
    {"cpu-avx512", "float32", 64, 64, 4096, 1.443},
    {"cpu-avx512", "float32", 64, 256, 64, 1.046},
    {"cpu-avx512", "float32", 64, 256, 256, 1.104},
    {"cpu-avx512", "float32", 64, 256, 1024, 1.245},
    {"cpu-avx512", "float32", 64, 256, 4096, 1.343},
    {"cpu-avx512", "float32", 64, 512, 2154, 3.015},
    {"cpu-avx512", "float32", 128, 1, 8173, 1.999},
};

}  // namespace

const KernelMeasurement* kernel_measurements(size_t* count) noexcept {
  *count = sizeof kMeasurements / sizeof kMeasurements[0];
  return kMeasurements;
}

KernelChoice choose_kernel(const std::string& device) {
  constexpr const char* kDtype = "float32";
  const KernelMeasurement* worst = nullptr;
  for (const KernelMeasurement& row : kMeasurements) {
    if (device != row.device || std::string(kDtype) != row.dtype) continue;
    if (worst == nullptr || row.speedup < worst->speedup) worst = &row;
  }
  if (worst == nullptr) return {false, "not measured on " + device + " with " + kDtype};
  char text[200];
  std::snprintf(text, sizeof text,
                ": %.2f times as fast as standard operators at %d x %d, heads of %d",
                worst->speedup, worst->rows, worst->keys, worst->dim);
  return {worst->speedup >= 1.0, "measured on " + device + text};
}

}  // namespace mmedge::runtime
