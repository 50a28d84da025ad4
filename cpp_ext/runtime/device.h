// What this machine is and can run: mmedge/device.py and probe() of mmedge/backends/registry.py.
#ifndef MMEDGE_RUNTIME_DEVICE_H_
#define MMEDGE_RUNTIME_DEVICE_H_

#include <string>

#include "backends/backend.h"
#include "bundle/choose.h"

namespace mmedge::runtime {

// The processor's marketing name, or the architecture where none is told.
std::string cpu_model();

// This machine with these backends.
Device probe(const Backends& backends);

}  // namespace mmedge::runtime

#endif  // MMEDGE_RUNTIME_DEVICE_H_
