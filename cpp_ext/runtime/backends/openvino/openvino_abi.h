// What of OpenVINO's C library a session needs, so that no header of it has to be installed.
//
// Functions are found by their names; tests/native/check_openvino_abi.cpp holds their types, and the
// structures, against OpenVINO's own headers where they are found.
#ifndef MMEDGE_RUNTIME_BACKENDS_OPENVINO_OPENVINO_ABI_H_
#define MMEDGE_RUNTIME_BACKENDS_OPENVINO_OPENVINO_ABI_H_

#include <cstddef>
#include <cstdint>

namespace mmedge::runtime::openvino {

struct Core;
struct Model;
struct CompiledModel;
struct InferRequest;
struct OvTensor;
struct Port;

struct Version {
  const char* build_number;
  const char* description;
};
struct Shape {
  int64_t rank;
  int64_t* sizes;
};
struct Dimension {
  int64_t min, max;
};
struct PartialShape {
  Dimension rank;
  Dimension* sizes;
};

using Status = int;  // 0: done
using ElementType = unsigned;

constexpr ElementType kBoolean = 1, kF16 = 3, kF32 = 4, kI8 = 7, kI32 = 9, kI64 = 10, kU8 = 16;

// F(name without "ov_", result, arguments)
#define MMEDGE_OPENVINO_FUNCTIONS(F)                                                              \
  F(get_openvino_version, Status, (Version*))                                                     \
  F(version_free, void, (Version*))                                                               \
  F(get_error_info, const char*, (Status))                                                        \
  F(get_last_err_msg, const char*, ())                                                            \
  F(free, void, (const char*))                                                                    \
  F(core_create, Status, (Core**))                                                                \
  F(core_read_model, Status, (const Core*, const char*, const char*, Model**))                    \
  F(core_compile_model, Status,                                                                   \
    (const Core*, const Model*, const char*, size_t, CompiledModel**, ...))                       \
  F(model_free, void, (Model*))                                                                   \
  F(model_inputs_size, Status, (const Model*, size_t*))                                           \
  F(model_outputs_size, Status, (const Model*, size_t*))                                          \
  F(model_const_input_by_index, Status, (const Model*, size_t, Port**))                           \
  F(model_const_output_by_index, Status, (const Model*, size_t, Port**))                          \
  F(model_const_input_by_name, Status, (const Model*, const char*, Port**))                       \
  F(model_const_output_by_name, Status, (const Model*, const char*, Port**))                      \
  F(model_reshape_by_port_indexes, Status,                                                        \
    (const Model*, const size_t*, const PartialShape*, size_t))                                   \
  F(compiled_model_free, void, (CompiledModel*))                                                  \
  F(compiled_model_get_property, Status, (const CompiledModel*, const char*, char**))             \
  F(compiled_model_inputs_size, Status, (const CompiledModel*, size_t*))                          \
  F(compiled_model_outputs_size, Status, (const CompiledModel*, size_t*))                         \
  F(compiled_model_input_by_index, Status, (const CompiledModel*, size_t, Port**))                \
  F(compiled_model_output_by_index, Status, (const CompiledModel*, size_t, Port**))               \
  F(compiled_model_input_by_name, Status, (const CompiledModel*, const char*, Port**))            \
  F(compiled_model_output_by_name, Status, (const CompiledModel*, const char*, Port**))           \
  F(compiled_model_create_infer_request, Status, (const CompiledModel*, InferRequest**))          \
  F(port_get_any_name, Status, (const Port*, char**))                                             \
  F(port_get_element_type, Status, (const Port*, ElementType*))                                   \
  F(port_get_partial_shape, Status, (const Port*, PartialShape*))                                 \
  F(output_const_port_free, void, (Port*))                                                        \
  F(partial_shape_to_string, const char*, (PartialShape))                                         \
  F(partial_shape_free, void, (PartialShape*))                                                    \
  F(shape_free, Status, (Shape*))                                                                 \
  F(infer_request_free, void, (InferRequest*))                                                    \
  F(infer_request_infer, Status, (InferRequest*))                                                 \
  F(infer_request_get_input_tensor_by_index, Status, (const InferRequest*, size_t, OvTensor**))   \
  F(infer_request_get_output_tensor_by_index, Status, (const InferRequest*, size_t, OvTensor**))  \
  F(infer_request_set_input_tensor_by_index, Status, (InferRequest*, size_t, const OvTensor*))    \
  F(tensor_create_from_host_ptr, Status, (ElementType, Shape, void*, OvTensor**))                 \
  F(tensor_get_shape, Status, (const OvTensor*, Shape*))                                          \
  F(tensor_get_byte_size, Status, (const OvTensor*, size_t*))                                     \
  F(tensor_data, Status, (const OvTensor*, void**))                                               \
  F(tensor_free, void, (OvTensor*))

// The functions, by name.
struct Api {
#define MMEDGE_OPENVINO_FIELD(name, result, arguments) result(*name) arguments;
  MMEDGE_OPENVINO_FUNCTIONS(MMEDGE_OPENVINO_FIELD)
#undef MMEDGE_OPENVINO_FIELD
};

}  // namespace mmedge::runtime::openvino

#endif  // MMEDGE_RUNTIME_BACKENDS_OPENVINO_OPENVINO_ABI_H_
