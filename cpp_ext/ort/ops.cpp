// The operators mmedge::SegmentedAttention<M>[Biased|Guarded] as ONNX Runtime custom operators.
//
// A session that registers them runs these kernels where it would otherwise inline the function of
// the same name that the graph carries. Shapes and the meaning of the names are documented with that
// function, in mmedge_export/passes/attention_function.py.
#include <cstdio>
#include <cstdlib>
#include <initializer_list>
#include <mutex>
#include <new>

#include "mmedge/kernels.h"
#include "ort_abi.h"

namespace mmedge::ort {
namespace {

enum class Kind { kPlain, kBiased, kGuarded };

constexpr int kLeastSegments = 2, kKinds = 3;
constexpr int kCount = (MMEDGE_MAX_SEGMENTS - kLeastSegments + 1) * kKinds;

struct Op : CustomOp {
  int segments;
  Kind kind;
  char name[40];

  size_t inputs() const { return 1 + (kind == Kind::kPlain ? 2 : 3) * segments; }
};

struct Kernel {
  const Op* op;
  const Api* api;
  float scale;
};

// Memory of the calling thread for the parts of a call whose keys are cut; it grows to what the
// largest call needs and stays.
class Workspace {
 public:
  ~Workspace() { std::free(memory_); }
  void* get(size_t bytes) {
    if (bytes > bytes_) {
      std::free(memory_);
      memory_ = std::aligned_alloc(64, (bytes + 63) / 64 * 64);
      bytes_ = memory_ == nullptr ? 0 : bytes;
    }
    return memory_;
  }

 private:
  void* memory_ = nullptr;
  size_t bytes_ = 0;
};

struct Tensor {
  int64_t size[4];
  float* data;
};

Status* error(const Api& api, const Op& op, int code, const char* what) {
  char text[640];
  std::snprintf(text, sizeof text, "mmedge::%s: %s", op.name, what);
  return api.get<CreateStatus>()(code, text);
}

#define MMEDGE_TRY(call)                      \
  do {                                        \
    if (Status* status = (call)) return status; \
  } while (false)

// Data and four axes of an input.
Status* read(const Kernel& kernel, const KernelContext* context, size_t index, Tensor& tensor) {
  const Api& api = *kernel.api;
  const Value* value = nullptr;
  MMEDGE_TRY(api.get<KernelContextGetInput>()(context, index, &value));
  if (value == nullptr) return error(api, *kernel.op, kInvalidArgument, "an input is missing");
  TensorInfo* info = nullptr;
  MMEDGE_TRY(api.get<GetTensorTypeAndShape>()(value, &info));
  size_t rank = 0;
  Status* status = api.get<GetDimensionsCount>()(info, &rank);
  if (status == nullptr && rank == 4) {
    status = api.get<GetDimensions>()(info, tensor.size, 4);
  } else if (status == nullptr) {
    char text[80];
    std::snprintf(text, sizeof text, "input %zu: expected 4 axes, got %zu", index, rank);
    status = error(api, *kernel.op, kInvalidArgument, text);
  }
  api.get<ReleaseTensorInfo>()(info);
  if (status != nullptr) return status;
  void* data = nullptr;
  MMEDGE_TRY(api.get<GetTensorMutableData>()(const_cast<Value*>(value), &data));
  tensor.data = static_cast<float*>(data);
  return nullptr;
}

// Batches and heads are repeated where there is one of them.
bool repeats(int64_t size, int64_t of) { return size == 1 || size == of; }

int64_t step(int64_t size, int64_t elements) { return size == 1 ? 0 : elements; }

Status* compute(void* state, KernelContext* context) {
  const Kernel& kernel = *static_cast<const Kernel*>(state);
  const Api& api = *kernel.api;
  const Op& op = *kernel.op;
  const int m = op.segments;
  Tensor q{}, k[MMEDGE_MAX_SEGMENTS]{}, v[MMEDGE_MAX_SEGMENTS]{}, bias[MMEDGE_MAX_SEGMENTS]{};
  MMEDGE_TRY(read(kernel, context, 0, q));
  for (int i = 0; i < m; ++i) {
    MMEDGE_TRY(read(kernel, context, 1 + i, k[i]));
    MMEDGE_TRY(read(kernel, context, 1 + m + i, v[i]));
    if (op.kind != Kind::kPlain) MMEDGE_TRY(read(kernel, context, 1 + 2 * m + i, bias[i]));
  }
  const int64_t rows = q.size[2], dim = q.size[3], dim_v = v[0].size[3];
  int64_t batch = q.size[0], heads = q.size[1];
  for (int i = 0; i < m; ++i) {
    for (const Tensor* tensor : {&k[i], &v[i]}) {
      batch = batch == 1 ? tensor->size[0] : batch;
      heads = heads == 1 ? tensor->size[1] : heads;
    }
  }
  bool fits = repeats(q.size[0], batch) && repeats(q.size[1], heads);
  for (int i = 0; i < m; ++i) {
    for (const Tensor* tensor : {&k[i], &v[i]}) {
      fits = fits && repeats(tensor->size[0], batch) && repeats(tensor->size[1], heads);
    }
    fits = fits && k[i].size[2] == v[i].size[2] && k[i].size[3] == dim && v[i].size[3] == dim_v;
    if (op.kind != Kind::kPlain) {
      fits = fits && repeats(bias[i].size[0], batch) && repeats(bias[i].size[1], heads) &&
             repeats(bias[i].size[2], rows) && bias[i].size[3] == k[i].size[2];
    }
  }
  for (const int64_t size : {batch, heads, rows, dim, dim_v}) {
    if (size > INT32_MAX) {
      return error(api, op, kInvalidArgument, "an axis of 2^31 elements or more");
    }
  }
  if (!fits) {
    return error(api, op, kInvalidArgument,
                 "expected q [B, H, Lq, D], k [B, H, L, D], v [B, H, L, Dv] and bias [B, H, Lq, L], "
                 "of which B, H and the bias's Lq may be 1");
  }
  const int64_t shape[4] = {batch, heads, rows, dim_v};
  Value* made = nullptr;
  MMEDGE_TRY(api.get<KernelContextGetOutput>()(context, 0, shape, 4, &made));
  void* out = nullptr;
  MMEDGE_TRY(api.get<GetTensorMutableData>()(made, &out));
  if (batch * heads * rows * dim_v == 0) return nullptr;

  mmedge_segattn call{};
  call.struct_size = sizeof call;
  call.mode = MMEDGE_JOINT;
  call.dtype = MMEDGE_F32;
  call.batch = static_cast<int32_t>(batch);
  call.heads = call.kv_heads = static_cast<int32_t>(heads);
  call.rows = static_cast<int32_t>(rows);
  call.dim = static_cast<int32_t>(dim);
  call.dim_v = static_cast<int32_t>(dim_v);
  call.segments = m;
  call.empty_is_nan = op.kind == Kind::kBiased;
  call.scale = kernel.scale;
  call.q = q.data;
  call.q_stride[0] = step(q.size[0], q.size[1] * rows * dim);
  call.q_stride[1] = dim;
  call.q_stride[2] = step(q.size[1], rows * dim);
  call.out = out;
  call.out_stride[0] = heads * rows * dim_v;
  call.out_stride[1] = dim_v;
  call.out_stride[2] = rows * dim_v;
  for (int i = 0; i < m; ++i) {
    mmedge_segment& segment = call.segment[i];
    const int64_t length = k[i].size[2];
    segment.length = length;
    segment.dtype = MMEDGE_F32;
    segment.k = k[i].data;
    segment.k_stride[0] = step(k[i].size[0], k[i].size[1] * length * dim);
    segment.k_stride[1] = dim;
    segment.k_stride[2] = step(k[i].size[1], length * dim);
    segment.v = v[i].data;
    segment.v_stride[0] = step(v[i].size[0], v[i].size[1] * length * dim_v);
    segment.v_stride[1] = dim_v;
    segment.v_stride[2] = step(v[i].size[1], length * dim_v);
    if (op.kind == Kind::kPlain) continue;
    const Tensor& added = bias[i];
    segment.bias = added.data;
    segment.bias_dtype = MMEDGE_F32;
    segment.bias_stride[0] = step(added.size[0], added.size[1] * added.size[2] * length);
    segment.bias_stride[1] = step(added.size[1], added.size[2] * length);
    segment.bias_stride[2] = step(added.size[2], length);
  }
  thread_local Workspace workspace;
  size_t bytes = 0;
  if (mmedge_segattn_cpu_workspace(&call, &bytes) != MMEDGE_OK) {
    return error(api, op, kInvalidArgument, mmedge_last_error());
  }
  void* memory = bytes > 0 ? workspace.get(bytes) : nullptr;
  if (bytes > 0 && memory == nullptr) return error(api, op, kFail, "out of memory");
  struct Threads {
    const Api* api;
    const KernelContext* context;
  } threads{&api, context};
  const auto parallel_for = [](void* pool, size_t count, mmedge_task task, void* arg) {
    const Threads& found = *static_cast<const Threads*>(pool);
    Status* status =
        found.api->get<KernelContextParallelFor>()(found.context, task, count, 0, arg);
    if (status != nullptr) {
      found.api->get<ReleaseStatus>()(status);
      for (size_t i = 0; i < count; ++i) task(arg, i);
    }
  };
  if (mmedge_segattn_cpu(&call, memory, parallel_for, &threads) != MMEDGE_OK) {
    return error(api, op, kFail, mmedge_last_error());
  }
  return nullptr;
}

// The width of a head where the graph tells it; 0 where it does not.
int64_t width(const Api& api, const KernelInfo* info, size_t input) {
  TypeInfo* type = nullptr;
  if (Status* status = api.get<KernelInfoGetInputTypeInfo>()(info, input, &type)) {
    api.get<ReleaseStatus>()(status);
    return 0;
  }
  const TensorInfo* tensor = nullptr;  // the type's own
  size_t rank = 0;
  int64_t size[4] = {};
  Status* status = api.get<CastTypeInfoToTensorInfo>()(type, &tensor);
  if (status == nullptr && tensor != nullptr) status = api.get<GetDimensionsCount>()(tensor, &rank);
  if (status == nullptr && rank == 4) status = api.get<GetDimensions>()(tensor, size, 4);
  if (status != nullptr) api.get<ReleaseStatus>()(status);
  api.get<ReleaseTypeInfo>()(type);
  return size[3] > 0 ? size[3] : 0;
}

Status* create(const CustomOp* base, const Api* api, const KernelInfo* info, void** made) {
  const Op& op = *static_cast<const Op*>(base);
  float scale = 0.0f;
  MMEDGE_TRY(api->get<KernelInfoGetAttributeFloat>()(info, "scale", &scale));
  for (const size_t input : {size_t{1}, size_t{1} + op.segments}) {
    const int64_t found = width(*api, info, input);
    if (found > MMEDGE_MAX_DIM_CPU) {
      char text[120];
      std::snprintf(text, sizeof text, "heads of up to %d elements are supported, got %lld",
                    MMEDGE_MAX_DIM_CPU, static_cast<long long>(found));
      return error(*api, op, kInvalidArgument, text);
    }
  }
  Kernel* kernel = new (std::nothrow) Kernel{&op, api, scale};
  if (kernel == nullptr) return error(*api, op, kFail, "out of memory");
  *made = kernel;
  return nullptr;
}

Op* make_ops() {
  static Op ops[kCount];
  constexpr const char* kSuffix[kKinds] = {"", "Biased", "Guarded"};
  for (int i = 0; i < kCount; ++i) {
    Op& op = ops[i];
    op.segments = kLeastSegments + i / kKinds;
    op.kind = static_cast<Kind>(i % kKinds);
    std::snprintf(op.name, sizeof op.name, "SegmentedAttention%d%s", op.segments,
                  kSuffix[i % kKinds]);
    op.version = kApiVersion;
    op.get_name = [](const CustomOp* base) -> const char* {
      return static_cast<const Op*>(base)->name;
    };
    op.get_provider = [](const CustomOp*) -> const char* { return nullptr; };  // the CPU
    op.get_input_type = [](const CustomOp*, size_t) { return kFloat; };
    op.get_input_count = [](const CustomOp* base) {
      return static_cast<const Op*>(base)->inputs();
    };
    op.get_output_type = [](const CustomOp*, size_t) { return kFloat; };
    op.get_output_count = [](const CustomOp*) { return size_t{1}; };
    op.get_input_characteristic = [](const CustomOp*, size_t) { return kRequired; };
    op.get_output_characteristic = [](const CustomOp*, size_t) { return kRequired; };
    op.get_input_memory = [](const CustomOp*, size_t) { return kMemoryDefault; };
    op.create_kernel_v2 = create;
    op.compute_v2 = compute;
    op.destroy = [](void* kernel) { delete static_cast<Kernel*>(kernel); };
  }
  return ops;
}

// The operators with one copy of ONNX Runtime. They serve all its sessions, which refer to them as
// long as they live.
struct Registered {
  const Api* api;
  Domain* domain;
  Registered* next;
};

Status* make_domain(const Api& api, Domain** made) {
  MMEDGE_TRY(api.get<CreateCustomOpDomain>()("mmedge", made));
  static Op* const ops = make_ops();
  for (int i = 0; i < kCount; ++i) MMEDGE_TRY(api.get<CustomOpDomainAdd>()(*made, &ops[i]));
  return nullptr;
}

}  // namespace
}  // namespace mmedge::ort

// The name and signature that ONNX Runtime looks for in a custom-operator library.
extern "C" MMEDGE_API mmedge::ort::Status* RegisterCustomOps(
    mmedge::ort::SessionOptions* options, const mmedge::ort::ApiBase* base) {
  using namespace mmedge::ort;
  const Api* api = base->get_api(kApiVersion);
  if (api == nullptr) return nullptr;  // older than 1.17: ONNX Runtime has said so, bodies run
  static std::mutex lock;
  static Registered* first = nullptr;
  const std::lock_guard<std::mutex> held(lock);
  Registered* found = first;
  while (found != nullptr && found->api != api) found = found->next;
  if (found == nullptr) {
    Domain* made = nullptr;
    MMEDGE_TRY(make_domain(*api, &made));
    found = new (std::nothrow) Registered{api, made, first};
    if (found == nullptr) return api->get<CreateStatus>()(kFail, "mmedge: out of memory");
    first = found;
  }
  return api->get<AddCustomOpDomain>()(options, found->domain);
}
