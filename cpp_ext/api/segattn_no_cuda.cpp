// The functions of mmedge/kernels.h for GPUs, of a library that was built without CUDA.
#include "check.h"
#include "status.h"

namespace mmedge {
namespace {

mmedge_status no_device(const mmedge_segattn* desc) {
  const mmedge_status status = check(desc);
  if (status != MMEDGE_OK) return status;
  return fail(MMEDGE_NO_DEVICE,
              "this library was built without CUDA; build it with -DMMEDGE_CUDA=ON (by pip: "
              "-C cmake.define.MMEDGE_CUDA=ON), or use mmedge_segattn_cpu()");
}

}  // namespace
}  // namespace mmedge

mmedge_status mmedge_segattn_workspace(const mmedge_segattn* desc, size_t* bytes) {
  const mmedge_status status = mmedge::check_result(bytes);
  return status == MMEDGE_OK ? mmedge::no_device(desc) : status;
}

mmedge_status mmedge_segattn_enqueue(const mmedge_segattn* desc, void*, void*) {
  return mmedge::no_device(desc);
}

const char* mmedge_cuda_architectures(void) { return ""; }
