// What handles of the C API hold, and what its functions have in common.
#ifndef MMEDGE_API_HANDLES_H_
#define MMEDGE_API_HANDLES_H_

#include <cstdint>
#include <cstring>
#include <exception>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "bundle/bundle.h"
#include "denoise_run.h"
#include "error.h"
#include "execution/verify.h"
#include "generate_run.h"
#include "mmedge/mmedge.h"
#include "pipeline.h"
#include "status.h"

namespace rt = mmedge::runtime;

struct mmedge_bundle {
  std::shared_ptr<rt::Bundle> bundle;
};

struct mmedge_pipeline {
  std::shared_ptr<const rt::Network> network;
  std::unique_ptr<rt::Pipeline> pipeline;
  std::unique_ptr<rt::GenerateRun> generate;  // null without such a loop
  std::unique_ptr<rt::DenoiseRun> denoise;
  std::vector<uint8_t> active;             // of a step's rows
  std::vector<rt::NamedTensor> arguments;  // of a call, as many as the network has inputs
  std::string variant;                     // texts that handles give out
  rt::Verification verification;
};

struct mmedge_state {
  std::unique_ptr<rt::State> state;
};

namespace mmedge::api {

inline mmedge_status to_status(rt::Code code) noexcept {
  switch (code) {
    case rt::Code::kOk: return MMEDGE_OK;
    case rt::Code::kBundle: return MMEDGE_BUNDLE_ERROR;
    case rt::Code::kInput: return MMEDGE_INPUT_ERROR;
    case rt::Code::kNoVariant: return MMEDGE_NO_VARIANT;
    case rt::Code::kBackend: return MMEDGE_BACKEND_ERROR;
    case rt::Code::kAccuracy: return MMEDGE_ACCURACY_ERROR;
    case rt::Code::kNotWarm: return MMEDGE_NOT_WARM;
    case rt::Code::kTooSmall: return MMEDGE_TOO_SMALL;
    case rt::Code::kSignature: return MMEDGE_SIGNATURE_ERROR;
  }
  return MMEDGE_INVALID;
}

// Runs what may throw.
template <class Work>
mmedge_status guard(Work work) noexcept {
  try {
    work();
    return MMEDGE_OK;
  } catch (const rt::Error& error) {
    return mmedge::fail(to_status(error.code()), "%s", error.what());
  } catch (const std::bad_alloc&) {
    return mmedge::fail(MMEDGE_OUT_OF_MEMORY, "memory is exhausted");
  } catch (const std::exception& error) {
    return mmedge::fail(MMEDGE_BACKEND_ERROR, "unexpected: %s", error.what());
  }
}

inline mmedge_status missing(const char* argument) noexcept {
  return mmedge::fail(MMEDGE_INVALID, "%s is NULL", argument);
}

inline mmedge_status no_index(const char* what, int32_t index, size_t count) noexcept {
  return mmedge::fail(MMEDGE_INVALID, "no %s %d; there are %zu", what, index, count);
}

inline std::string text_or_empty(const char* text) { return text != nullptr ? text : ""; }

// A structure that a caller made with another header is refused and not guessed at.
template <class Struct>
bool has_size(const Struct* value) noexcept {
  return value->struct_size == sizeof(Struct);
}

template <class Struct>
mmedge_status wrong_size(const char* name, const Struct* value) noexcept {
  return mmedge::fail(MMEDGE_INVALID,
                      "%s has struct_size %u, and this library expects %zu; make it with the macro of "
                      "mmedge.h, and build the caller and the library from one version",
                      name, value->struct_size, sizeof(Struct));
}

struct Element {
  mmedge_dtype dtype;
  rt::DType type;
};

constexpr Element kElements[] = {
    {MMEDGE_BOOL, rt::DType::kBool},   {MMEDGE_F16, rt::DType::kFloat16},
    {MMEDGE_F32, rt::DType::kFloat32}, {MMEDGE_F64, rt::DType::kFloat64},
    {MMEDGE_I8, rt::DType::kInt8},     {MMEDGE_I16, rt::DType::kInt16},
    {MMEDGE_I32, rt::DType::kInt32},   {MMEDGE_I64, rt::DType::kInt64},
    {MMEDGE_U8, rt::DType::kUint8},    {MMEDGE_U16, rt::DType::kUint16},
    {MMEDGE_U32, rt::DType::kUint32},  {MMEDGE_U64, rt::DType::kUint64},
};

inline int32_t to_dtype(rt::DType type) noexcept {
  for (const Element& element : kElements) {
    if (element.type == type) return element.dtype;
  }
  return -1;
}

inline bool from_dtype(int32_t dtype, rt::DType* type) noexcept {
  for (const Element& element : kElements) {
    if (element.dtype == dtype) {
      *type = element.type;
      return true;
    }
  }
  return false;
}

inline void describe(const rt::TensorSpec& from, mmedge_tensor_spec* to) noexcept {
  to->name = from.name.c_str();
  to->dtype = to_dtype(from.dtype);
  to->rank = static_cast<int32_t>(from.shape.size());
  for (size_t axis = 0; axis < from.shape.size(); ++axis) {
    const rt::Axis& size = from.shape[axis];
    to->shape[axis] = size.is_dynamic() ? -1 : size.size;
    to->dimension[axis] = size.is_dynamic() ? size.dimension.c_str() : nullptr;
  }
}

inline bool to_tensor(const mmedge_tensor& tensor, rt::NamedTensor* out, mmedge_status* status) noexcept {
  const char* name = tensor.name != nullptr ? tensor.name : "";
  if (tensor.rank < 0 || tensor.rank > MMEDGE_MAX_RANK) {
    *status = mmedge::fail(MMEDGE_INVALID, "input '%.200s' has rank %d, expected 0 to %d", name,
                           tensor.rank, MMEDGE_MAX_RANK);
    return false;
  }
  out->name = name;
  out->bytes = tensor.bytes;
  out->view.rank = static_cast<size_t>(tensor.rank);
  out->view.data = tensor.data;
  int64_t elements = 1;
  for (size_t axis = 0; axis < out->view.rank; ++axis) {
    const int64_t size = tensor.shape[axis];
    if (size < 0 || __builtin_mul_overflow(elements, size, &elements) ||
        elements > (int64_t{1} << 56)) {
      *status = mmedge::fail(MMEDGE_INVALID, "input '%.200s' has size %lld along axis %zu", name,
                             static_cast<long long>(size), axis);
      return false;
    }
    out->view.shape[axis] = size;
  }
  if (!from_dtype(tensor.dtype, &out->view.dtype)) {
    *status = mmedge::fail(MMEDGE_INVALID, "input '%.200s' has dtype %d, which is none of a bundle's",
                           name, tensor.dtype);
    return false;
  }
  return true;
}

// An output to the caller: into its buffer, or where it lies.
inline mmedge_status give_tensor(const rt::TensorView& view, mmedge_tensor* out) noexcept {
  const size_t bytes = view.bytes(), room = out->bytes;
  out->dtype = to_dtype(view.dtype);
  out->rank = static_cast<int32_t>(view.rank);
  for (size_t axis = 0; axis < view.rank; ++axis) out->shape[axis] = view.shape[axis];
  out->bytes = bytes;
  if (out->data == nullptr) {
    out->data = view.data;
    return MMEDGE_OK;
  }
  if (room < bytes) {
    return mmedge::fail(MMEDGE_TOO_SMALL, "output '%s' needs %zu bytes, and its buffer has %zu",
                        out->name, bytes, room);
  }
  if (bytes > 0) std::memcpy(out->data, view.data, bytes);
  return MMEDGE_OK;
}

}  // namespace mmedge::api

#endif  // MMEDGE_API_HANDLES_H_
