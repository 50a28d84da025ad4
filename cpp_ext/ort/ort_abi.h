// What of ONNX Runtime's C ABI a custom operator needs, so that no header of it has to be installed.
//
// ONNX Runtime promises that `OrtApi` and `OrtCustomOp` only ever grow at their end, and an older
// `version` keeps its meaning. Functions are therefore named here by their position in `OrtApi`;
// tests/native/check_ort_abi.cpp holds these positions against ONNX Runtime's own header where one
// is found.
#ifndef MMEDGE_ORT_ORT_ABI_H_
#define MMEDGE_ORT_ORT_ABI_H_

#include <cstddef>
#include <cstdint>

namespace mmedge::ort {

// KernelContext_ParallelFor came with 1.17.
constexpr uint32_t kApiVersion = 17;

struct Status;
struct SessionOptions;
struct Domain;
struct KernelInfo;
struct KernelContext;
struct Value;
struct TensorInfo;
struct TypeInfo;

// Position of a function in OrtApi, and its type.
template <size_t Position, class Signature>
struct Slot;
template <size_t Position, class Result, class... Arguments>
struct Slot<Position, Result(Arguments...)> {
  static constexpr size_t kPosition = Position;
  using Function = Result (*)(Arguments...);
};

using CreateStatus = Slot<0, Status*(int code, const char* message)>;
using CreateCustomOpDomain = Slot<26, Status*(const char* name, Domain** out)>;
using CustomOpDomainAdd = Slot<27, Status*(Domain*, const void* op)>;
using AddCustomOpDomain = Slot<28, Status*(SessionOptions*, Domain*)>;
using GetTensorMutableData = Slot<51, Status*(Value*, void** out)>;
using CastTypeInfoToTensorInfo = Slot<55, Status*(const TypeInfo*, const TensorInfo** out)>;
using GetDimensionsCount = Slot<61, Status*(const TensorInfo*, size_t* out)>;
using GetDimensions = Slot<62, Status*(const TensorInfo*, int64_t* out, size_t count)>;
using GetTensorTypeAndShape = Slot<65, Status*(const Value*, TensorInfo** out)>;
using KernelInfoGetAttributeFloat = Slot<85, Status*(const KernelInfo*, const char*, float* out)>;
using KernelContextGetInput = Slot<90, Status*(const KernelContext*, size_t, const Value** out)>;
using KernelContextGetOutput =
    Slot<91, Status*(KernelContext*, size_t, const int64_t* dims, size_t count, Value** out)>;
using ReleaseStatus = Slot<93, void(Status*)>;
using ReleaseTypeInfo = Slot<98, void(TypeInfo*)>;
using ReleaseTensorInfo = Slot<99, void(TensorInfo*)>;
using KernelInfoGetInputTypeInfo = Slot<234, Status*(const KernelInfo*, size_t, TypeInfo** out)>;
using KernelContextParallelFor =
    Slot<274, Status*(const KernelContext*, void (*)(void*, size_t), size_t total, size_t batches,
                      void* arg)>;

struct Api {
  template <class S>
  typename S::Function get() const {
    return reinterpret_cast<typename S::Function>(slot[S::kPosition]);
  }
  void (*slot[275])();
};

struct ApiBase {
  const Api* (*get_api)(uint32_t version);
  const char* (*version)();
};

// OrtCustomOp. Null where a version of ONNX Runtime that asks for it takes the absence for a
// default.
struct CustomOp {
  uint32_t version;
  void* (*create_kernel)(const CustomOp*, const Api*, const KernelInfo*);
  const char* (*get_name)(const CustomOp*);
  const char* (*get_provider)(const CustomOp*);
  int (*get_input_type)(const CustomOp*, size_t);
  size_t (*get_input_count)(const CustomOp*);
  int (*get_output_type)(const CustomOp*, size_t);
  size_t (*get_output_count)(const CustomOp*);
  void (*compute)(void* kernel, KernelContext*);
  void (*destroy)(void* kernel);
  int (*get_input_characteristic)(const CustomOp*, size_t);
  int (*get_output_characteristic)(const CustomOp*, size_t);
  int (*get_input_memory)(const CustomOp*, size_t);
  int (*get_input_min_arity)(const CustomOp*);
  int (*get_input_homogeneity)(const CustomOp*);
  int (*get_output_min_arity)(const CustomOp*);
  int (*get_output_homogeneity)(const CustomOp*);
  Status* (*create_kernel_v2)(const CustomOp*, const Api*, const KernelInfo*, void** kernel);
  Status* (*compute_v2)(void* kernel, KernelContext*);
  Status* (*infer_shape)(const CustomOp*, void* context);
  int (*get_start_version)(const CustomOp*);
  int (*get_end_version)(const CustomOp*);
  size_t (*get_may_inplace)(int** inputs, int** outputs);
  void (*release_may_inplace)(int* inputs, int* outputs);
  size_t (*get_alias_map)(int** inputs, int** outputs);
  void (*release_alias_map)(int* inputs, int* outputs);
};

// ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, INPUT_OUTPUT_REQUIRED, OrtMemTypeDefault, ORT_FAIL,
// ORT_INVALID_ARGUMENT.
constexpr int kFloat = 1, kRequired = 0, kMemoryDefault = 0, kFail = 1, kInvalidArgument = 2;

}  // namespace mmedge::ort

#endif  // MMEDGE_ORT_ORT_ABI_H_
