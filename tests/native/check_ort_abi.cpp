// Compiles only where cpp_ext/ort/ort_abi.h agrees with ONNX Runtime's own header.
#include <onnxruntime_c_api.h>

#include <cstddef>

#include "ort_abi.h"

using namespace mmedge::ort;

#define SAME_FUNCTION(slot, name)                                         \
  static_assert(offsetof(OrtApi, name) == slot::kPosition * sizeof(void*), #name)
#define SAME_FIELD(ours, theirs)                                                 \
  static_assert(offsetof(CustomOp, ours) == offsetof(OrtCustomOp, theirs), #theirs)

SAME_FUNCTION(CreateStatus, CreateStatus);
SAME_FUNCTION(CreateCustomOpDomain, CreateCustomOpDomain);
SAME_FUNCTION(CustomOpDomainAdd, CustomOpDomain_Add);
SAME_FUNCTION(AddCustomOpDomain, AddCustomOpDomain);
SAME_FUNCTION(GetTensorMutableData, GetTensorMutableData);
SAME_FUNCTION(CastTypeInfoToTensorInfo, CastTypeInfoToTensorInfo);
SAME_FUNCTION(GetDimensionsCount, GetDimensionsCount);
SAME_FUNCTION(GetDimensions, GetDimensions);
SAME_FUNCTION(GetTensorTypeAndShape, GetTensorTypeAndShape);
SAME_FUNCTION(KernelInfoGetAttributeFloat, KernelInfoGetAttribute_float);
SAME_FUNCTION(KernelContextGetInput, KernelContext_GetInput);
SAME_FUNCTION(KernelContextGetOutput, KernelContext_GetOutput);
SAME_FUNCTION(ReleaseStatus, ReleaseStatus);
SAME_FUNCTION(ReleaseTypeInfo, ReleaseTypeInfo);
SAME_FUNCTION(ReleaseTensorInfo, ReleaseTensorTypeAndShapeInfo);
SAME_FUNCTION(KernelInfoGetInputTypeInfo, KernelInfo_GetInputTypeInfo);
SAME_FUNCTION(KernelContextParallelFor, KernelContext_ParallelFor);
SAME_FUNCTION(GetErrorMessage, GetErrorMessage);
SAME_FUNCTION(CreateEnv, CreateEnv);
SAME_FUNCTION(DisableTelemetryEvents, DisableTelemetryEvents);
SAME_FUNCTION(CreateSession, CreateSession);
SAME_FUNCTION(CreateSessionFromArray, CreateSessionFromArray);
SAME_FUNCTION(Run, Run);
SAME_FUNCTION(CreateSessionOptions, CreateSessionOptions);
SAME_FUNCTION(SetSessionLogSeverityLevel, SetSessionLogSeverityLevel);
SAME_FUNCTION(SetIntraOpNumThreads, SetIntraOpNumThreads);
SAME_FUNCTION(SessionGetInputCount, SessionGetInputCount);
SAME_FUNCTION(SessionGetOutputCount, SessionGetOutputCount);
SAME_FUNCTION(SessionGetInputTypeInfo, SessionGetInputTypeInfo);
SAME_FUNCTION(SessionGetOutputTypeInfo, SessionGetOutputTypeInfo);
SAME_FUNCTION(SessionGetInputName, SessionGetInputName);
SAME_FUNCTION(SessionGetOutputName, SessionGetOutputName);
SAME_FUNCTION(CreateRunOptions, CreateRunOptions);
SAME_FUNCTION(RunOptionsSetTerminate, RunOptionsSetTerminate);
SAME_FUNCTION(RunOptionsUnsetTerminate, RunOptionsUnsetTerminate);
SAME_FUNCTION(CreateTensorWithData, CreateTensorWithDataAsOrtValue);
SAME_FUNCTION(GetTensorElementType, GetTensorElementType);
SAME_FUNCTION(CreateCpuMemoryInfo, CreateCpuMemoryInfo);
SAME_FUNCTION(AllocatorFree, AllocatorFree);
SAME_FUNCTION(GetAllocatorWithDefaultOptions, GetAllocatorWithDefaultOptions);
SAME_FUNCTION(ReleaseSession, ReleaseSession);
SAME_FUNCTION(ReleaseValue, ReleaseValue);
SAME_FUNCTION(ReleaseRunOptions, ReleaseRunOptions);
SAME_FUNCTION(ReleaseSessionOptions, ReleaseSessionOptions);
SAME_FUNCTION(GetAvailableProviders, GetAvailableProviders);
SAME_FUNCTION(ReleaseAvailableProviders, ReleaseAvailableProviders);
SAME_FUNCTION(AddSessionConfigEntry, AddSessionConfigEntry);
SAME_FUNCTION(AppendCuda, SessionOptionsAppendExecutionProvider_CUDA_V2);
SAME_FUNCTION(CreateCudaOptions, CreateCUDAProviderOptions);
SAME_FUNCTION(ReleaseCudaOptions, ReleaseCUDAProviderOptions);
SAME_FUNCTION(AddExternalInitializersFromFilesInMemory, AddExternalInitializersFromFilesInMemory);
// What came after the header of Debian 13, which is 1.21's.
#if ORT_API_VERSION >= 24
SAME_FUNCTION(GetPlacement, Session_GetEpGraphAssignmentInfo);
SAME_FUNCTION(PlacedSubgraphProvider, EpAssignedSubgraph_GetEpName);
SAME_FUNCTION(PlacedSubgraphNodes, EpAssignedSubgraph_GetNodes);
SAME_FUNCTION(PlacedNodeName, EpAssignedNode_GetName);
SAME_FUNCTION(PlacedNodeDomain, EpAssignedNode_GetDomain);
SAME_FUNCTION(PlacedNodeOperator, EpAssignedNode_GetOperatorType);
SAME_FUNCTION(GetTensorTypeAndShapeReference, GetTensorElementTypeAndShapeDataReference);
static_assert(kSessionApiVersion <= ORT_API_VERSION, "level of a session");
#endif

SAME_FIELD(version, version);
SAME_FIELD(get_name, GetName);
SAME_FIELD(get_provider, GetExecutionProviderType);
SAME_FIELD(get_input_type, GetInputType);
SAME_FIELD(get_input_count, GetInputTypeCount);
SAME_FIELD(get_output_type, GetOutputType);
SAME_FIELD(get_output_count, GetOutputTypeCount);
SAME_FIELD(destroy, KernelDestroy);
SAME_FIELD(get_input_characteristic, GetInputCharacteristic);
SAME_FIELD(get_output_characteristic, GetOutputCharacteristic);
SAME_FIELD(get_input_memory, GetInputMemoryType);
SAME_FIELD(create_kernel_v2, CreateKernelV2);
SAME_FIELD(compute_v2, KernelComputeV2);
SAME_FIELD(infer_shape, InferOutputShapeFn);
SAME_FIELD(get_start_version, GetStartVersion);
SAME_FIELD(release_alias_map, ReleaseAliasMap);

static_assert(offsetof(ApiBase, get_api) == offsetof(OrtApiBase, GetApi), "GetApi");
static_assert(kApiVersion <= ORT_API_VERSION, "the header is older than what is used");
static_assert(kFloat == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, "float");
static_assert(kRequired == INPUT_OUTPUT_REQUIRED, "required");
static_assert(kMemoryDefault == OrtMemTypeDefault, "memory");
static_assert(kFail == ORT_FAIL && kInvalidArgument == ORT_INVALID_ARGUMENT, "codes");
static_assert(kFatal == ORT_LOGGING_LEVEL_FATAL, "level of the log");
static_assert(kDeviceAllocator == OrtDeviceAllocator, "allocator");
static_assert(kUint8 == ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8 &&
                  kInt8 == ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8 &&
                  kUint16 == ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT16 &&
                  kInt16 == ONNX_TENSOR_ELEMENT_DATA_TYPE_INT16 &&
                  kInt32 == ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32 &&
                  kInt64 == ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64 &&
                  kBool == ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL &&
                  kFloat16 == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16 &&
                  kDouble == ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE &&
                  kUint32 == ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT32 &&
                  kUint64 == ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT64,
              "element types");

int main() { return 0; }
