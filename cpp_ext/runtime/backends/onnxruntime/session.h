// The backend ONNX Runtime: on CPUs, and on NVIDIA GPUs with its CUDA provider (target "cuda").
//
// As mmedge/backends/onnxruntime/session.py: every node has to run on the provider that the
// variant's target stands for, which is read back after loading; attention over segments runs in
// mmedge's kernel where that pays, which is read back as well and proved in the first run. On a GPU,
// inputs and outputs pass through the memory of the host.
#ifndef MMEDGE_RUNTIME_BACKENDS_ONNXRUNTIME_SESSION_H_
#define MMEDGE_RUNTIME_BACKENDS_ONNXRUNTIME_SESSION_H_

#include <memory>
#include <string>

#include "../backend.h"
#include "kernels.h"
#include "library.h"

namespace mmedge::runtime::onnxruntime {

// The backend "ort". The library is loaded with its first use; `location` is as for Library::load.
Backend make_backend(std::string location, Kernels kernels);

// Loads one stage, as Backend::open_stage.
std::unique_ptr<Session> open_stage(Library& library, const Kernels& kernels,
                                    const StageSource& source, const SessionOptions& options);

}  // namespace mmedge::runtime::onnxruntime

#endif  // MMEDGE_RUNTIME_BACKENDS_ONNXRUNTIME_SESSION_H_
