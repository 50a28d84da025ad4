// What this machine is and can run: mmedge/device.py and probe() of mmedge/backends/registry.py.
#ifndef MMEDGE_RUNTIME_DEVICE_H_
#define MMEDGE_RUNTIME_DEVICE_H_

#include <string>
#include <vector>

#include "backends/backend.h"
#include "bundle/choose.h"

namespace mmedge::runtime {

// The processor's marketing name, or the architecture where none is told.
std::string cpu_model();

// An NVIDIA GPU as the driver names it; `sm` is its architecture, such as "sm_87".
struct Gpu {
  std::string name;
  std::string sm;
};

// Those that the driver offers to this process; empty without driver or GPU.
std::vector<Gpu> find_gpus();

// This machine with these backends. An engine's library is large: with a manifest, of the backends
// but ONNX Runtime only those are looked at that a variant names.
Device probe(const Backends& backends, const Manifest* manifest = nullptr);

}  // namespace mmedge::runtime

#endif  // MMEDGE_RUNTIME_DEVICE_H_
