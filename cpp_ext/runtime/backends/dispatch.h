// Whether the kernel for attention over segments pays, by what was measured and never by guess:
// mmedge/native/dispatch.py for ONNX Runtime's operators, whose shapes are not known when a session
// is made.
#ifndef MMEDGE_RUNTIME_BACKENDS_DISPATCH_H_
#define MMEDGE_RUNTIME_BACKENDS_DISPATCH_H_

#include <cstddef>
#include <string>

namespace mmedge::runtime {

// The standard operators' time over the kernel's, at one shape.
struct KernelMeasurement {
  const char* device;  // "cpu-" and the kernel's instruction set
  const char* dtype;
  int dim, rows, keys;
  double speedup;
};

struct KernelChoice {
  bool kernel = false;
  std::string reason;
};

// All measurements that this version was built with.
const KernelMeasurement* kernel_measurements(size_t* count) noexcept;

// The kernel where it was no slower at the least favorable shape in float32. `device` is as in
// KernelMeasurement; one without measurements gets the standard operators.
KernelChoice choose_kernel(const std::string& device);

}  // namespace mmedge::runtime

#endif  // MMEDGE_RUNTIME_BACKENDS_DISPATCH_H_
