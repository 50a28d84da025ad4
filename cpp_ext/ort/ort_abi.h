// What of ONNX Runtime's C ABI a custom operator and a session need, so that no header of it has to
// be installed.
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

// Level that a custom operator asks for: KernelContext_ParallelFor came with 1.17.
constexpr uint32_t kApiVersion = 17;

// Level that a session asks for: the placement of nodes can be read since 1.24.
constexpr uint32_t kSessionApiVersion = 24;

struct Env;
struct Session;
struct RunOptions;
struct MemoryInfo;
struct Allocator;
struct CudaOptions;
struct PlacedSubgraph;
struct PlacedNode;

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
using GetErrorMessage = Slot<2, const char*(const Status*)>;
using CreateEnv = Slot<3, Status*(int severity, const char* name, Env** out)>;
using DisableTelemetryEvents = Slot<6, Status*(const Env*)>;
using CreateSession =
    Slot<7, Status*(const Env*, const char* path, const SessionOptions*, Session** out)>;
using CreateSessionFromArray =
    Slot<8, Status*(const Env*, const void* graph, size_t bytes, const SessionOptions*, Session**)>;
using Run = Slot<9, Status*(Session*, const RunOptions*, const char* const* input_names,
                            const Value* const* inputs, size_t input_count,
                            const char* const* output_names, size_t output_count, Value** outputs)>;
using CreateSessionOptions = Slot<10, Status*(SessionOptions** out)>;
using SetSessionLogSeverityLevel = Slot<22, Status*(SessionOptions*, int severity)>;
using SetIntraOpNumThreads = Slot<24, Status*(SessionOptions*, int threads)>;
using CreateCustomOpDomain = Slot<26, Status*(const char* name, Domain** out)>;
using CustomOpDomainAdd = Slot<27, Status*(Domain*, const void* op)>;
using AddCustomOpDomain = Slot<28, Status*(SessionOptions*, Domain*)>;
using SessionGetInputCount = Slot<30, Status*(const Session*, size_t* out)>;
using SessionGetOutputCount = Slot<31, Status*(const Session*, size_t* out)>;
using SessionGetInputTypeInfo = Slot<33, Status*(const Session*, size_t, TypeInfo** out)>;
using SessionGetOutputTypeInfo = Slot<34, Status*(const Session*, size_t, TypeInfo** out)>;
using SessionGetInputName = Slot<36, Status*(const Session*, size_t, Allocator*, char** out)>;
using SessionGetOutputName = Slot<37, Status*(const Session*, size_t, Allocator*, char** out)>;
using CreateRunOptions = Slot<39, Status*(RunOptions** out)>;
using RunOptionsSetTerminate = Slot<46, Status*(RunOptions*)>;
using RunOptionsUnsetTerminate = Slot<47, Status*(RunOptions*)>;
using CreateTensor = Slot<48, Status*(Allocator*, const int64_t* dims, size_t count, int type,
                                     Value** out)>;
using CreateTensorWithData =
    Slot<49, Status*(const MemoryInfo*, void* data, size_t bytes, const int64_t* dims, size_t count,
                     int type, Value** out)>;
using GetTensorMutableData = Slot<51, Status*(Value*, void** out)>;
using CastTypeInfoToTensorInfo = Slot<55, Status*(const TypeInfo*, const TensorInfo** out)>;
using GetTensorElementType = Slot<60, Status*(const TensorInfo*, int* out)>;
using GetDimensionsCount = Slot<61, Status*(const TensorInfo*, size_t* out)>;
using GetDimensions = Slot<62, Status*(const TensorInfo*, int64_t* out, size_t count)>;
using GetTensorTypeAndShape = Slot<65, Status*(const Value*, TensorInfo** out)>;
using CreateCpuMemoryInfo = Slot<69, Status*(int allocator, int type, MemoryInfo** out)>;
using AllocatorFree = Slot<76, Status*(Allocator*, void*)>;
using GetAllocatorWithDefaultOptions = Slot<78, Status*(Allocator** out)>;
using KernelInfoGetAttributeFloat = Slot<85, Status*(const KernelInfo*, const char*, float* out)>;
using KernelContextGetInput = Slot<90, Status*(const KernelContext*, size_t, const Value** out)>;
using KernelContextGetOutput =
    Slot<91, Status*(KernelContext*, size_t, const int64_t* dims, size_t count, Value** out)>;
using ReleaseStatus = Slot<93, void(Status*)>;
using ReleaseSession = Slot<95, void(Session*)>;
using ReleaseValue = Slot<96, void(Value*)>;
using ReleaseRunOptions = Slot<97, void(RunOptions*)>;
using ReleaseTypeInfo = Slot<98, void(TypeInfo*)>;
using ReleaseTensorInfo = Slot<99, void(TensorInfo*)>;
using ReleaseSessionOptions = Slot<100, void(SessionOptions*)>;
using GetAvailableProviders = Slot<125, Status*(char*** out, int* count)>;
using ReleaseAvailableProviders = Slot<126, Status*(char**, int count)>;
using AddSessionConfigEntry =
    Slot<130, Status*(SessionOptions*, const char* key, const char* value)>;
using AppendCuda = Slot<204, Status*(SessionOptions*, const CudaOptions*)>;
using CreateCudaOptions = Slot<205, Status*(CudaOptions** out)>;
using ReleaseCudaOptions = Slot<208, void(CudaOptions*)>;
using KernelInfoGetInputTypeInfo = Slot<234, Status*(const KernelInfo*, size_t, TypeInfo** out)>;
using KernelContextParallelFor =
    Slot<274, Status*(const KernelContext*, void (*)(void*, size_t), size_t total, size_t batches,
                      void* arg)>;
using AddExternalInitializersFromFilesInMemory =
    Slot<279, Status*(SessionOptions*, const char* const* names, char* const* data,
                      const size_t* bytes, size_t count)>;
using GetPlacement =
    Slot<407, Status*(const Session*, const PlacedSubgraph* const** out, size_t* count)>;
using PlacedSubgraphProvider = Slot<408, Status*(const PlacedSubgraph*, const char** out)>;
using PlacedSubgraphNodes =
    Slot<409, Status*(const PlacedSubgraph*, const PlacedNode* const** out, size_t* count)>;
using PlacedNodeName = Slot<410, Status*(const PlacedNode*, const char** out)>;
using PlacedNodeDomain = Slot<411, Status*(const PlacedNode*, const char** out)>;
using PlacedNodeOperator = Slot<412, Status*(const PlacedNode*, const char** out)>;
using GetTensorTypeAndShapeReference =
    Slot<414, Status*(const Value*, int* type, const int64_t** dims, size_t* count)>;

struct Api {
  template <class S>
  typename S::Function get() const {
    return reinterpret_cast<typename S::Function>(slot[S::kPosition]);
  }
  void (*slot[415])();  // those of the level that was asked for
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

// ORT_LOGGING_LEVEL_FATAL, OrtDeviceAllocator.
constexpr int kFatal = 4, kDeviceAllocator = 0;

// The rest of ONNXTensorElementDataType that a manifest has a name for.
constexpr int kUint8 = 2, kInt8 = 3, kUint16 = 4, kInt16 = 5, kInt32 = 6, kInt64 = 7, kBool = 9,
              kFloat16 = 10, kDouble = 11, kUint32 = 12, kUint64 = 13;

}  // namespace mmedge::ort

#endif  // MMEDGE_ORT_ORT_ABI_H_
