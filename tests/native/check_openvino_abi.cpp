// Compiles only where openvino_abi.h agrees with OpenVINO's own headers.
#include <openvino/c/openvino.h>

#include <cstddef>
#include <type_traits>

#include "openvino_abi.h"

namespace ours = mmedge::runtime::openvino;

// Whether two types are the same to a call: opaque structures by their names, others by their parts.
template <class Ours, class Theirs>
struct Same : std::is_same<Ours, Theirs> {};

#define SAME(ours_type, theirs) \
  template <>                   \
  struct Same<ours::ours_type, theirs> : std::true_type {}

SAME(Core, ov_core_t);
SAME(Model, ov_model_t);
SAME(CompiledModel, ov_compiled_model_t);
SAME(InferRequest, ov_infer_request_t);
SAME(OvTensor, ov_tensor_t);
SAME(Port, ov_output_const_port_t);

#define SAME_FIELD(ours_type, field, theirs, other)                             \
  static_assert(offsetof(ours::ours_type, field) == offsetof(theirs, other) &&  \
                sizeof(ours::ours_type::field) == sizeof(theirs::other) &&      \
                sizeof(ours::ours_type) == sizeof(theirs), #theirs)
SAME_FIELD(Version, build_number, ov_version_t, buildNumber);
SAME_FIELD(Version, description, ov_version_t, description);
SAME_FIELD(Shape, rank, ov_shape_t, rank);
SAME_FIELD(Shape, sizes, ov_shape_t, dims);
SAME_FIELD(Dimension, min, ov_dimension_t, min);
SAME_FIELD(Dimension, max, ov_dimension_t, max);
SAME_FIELD(PartialShape, rank, ov_partial_shape_t, rank);
SAME_FIELD(PartialShape, sizes, ov_partial_shape_t, dims);
SAME(Version, ov_version_t);
SAME(Shape, ov_shape_t);
SAME(Dimension, ov_dimension_t);
SAME(PartialShape, ov_partial_shape_t);

// Enumerations are passed as the integers that we have for them.
template <>
struct Same<ours::Status, ov_status_e>
    : std::bool_constant<sizeof(ov_status_e) == sizeof(ours::Status)> {};
template <>
struct Same<ours::ElementType, ov_element_type_e>
    : std::bool_constant<sizeof(ov_element_type_e) == sizeof(ours::ElementType)> {};
static_assert(OK == 0 && INVALID_C_PARAM == -14);
static_assert(BOOLEAN == ours::kBoolean && F16 == ours::kF16 && F32 == ours::kF32);
static_assert(I8 == ours::kI8 && I32 == ours::kI32 && I64 == ours::kI64 && U8 == ours::kU8);

template <class Ours, class Theirs>
struct Same<Ours*, Theirs*> : Same<Ours, Theirs> {};
template <class Ours, class Theirs>
struct Same<const Ours, const Theirs> : Same<Ours, Theirs> {};

template <class OurResult, class... Ours, class TheirResult, class... Theirs>
struct Same<OurResult(Ours...), TheirResult(Theirs...)>
    : std::bool_constant<sizeof...(Ours) == sizeof...(Theirs) &&
                         Same<OurResult, TheirResult>::value &&
                         std::conjunction_v<Same<Ours, Theirs>...>> {};
template <class OurResult, class... Ours, class TheirResult, class... Theirs>
struct Same<OurResult(Ours..., ...), TheirResult(Theirs..., ...)>
    : Same<OurResult(Ours...), TheirResult(Theirs...)> {};

#define CHECK(name, result, arguments)                                                      \
  static_assert(Same<std::remove_pointer_t<decltype(ours::Api::name)>, decltype(ov_##name)>::value, \
                "ov_" #name);
MMEDGE_OPENVINO_FUNCTIONS(CHECK)

// The check itself finds what differs.
static_assert(!Same<ours::Status(ours::Model**), decltype(ov_core_create)>::value);
static_assert(!Same<void(ours::Core**), decltype(ov_core_create)>::value);
