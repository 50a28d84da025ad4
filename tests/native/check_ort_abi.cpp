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

int main() { return 0; }
