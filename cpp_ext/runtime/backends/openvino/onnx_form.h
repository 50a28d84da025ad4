// The order of an ONNX file's fields by which OpenVINO tells that it is one.
//
// Core.read_model takes a file for ONNX whose first three fields are different ones of a model. Any other
// may be read as what else it looks like: a text inside it may be a network in OpenVINO's own XML. The
// order of fields means nothing in ONNX.
#ifndef MMEDGE_RUNTIME_BACKENDS_OPENVINO_ONNX_FORM_H_
#define MMEDGE_RUNTIME_BACKENDS_OPENVINO_ONNX_FORM_H_

#include <string>

#include "../../tensor.h"

namespace mmedge::runtime::openvino {

// Whether the first three fields are so. `graph` was checked to be ONNX.
bool begins_as_onnx(Bytes graph);

// The same graph with fields in such an order. `graph` was checked to be ONNX.
std::string reorder_fields(Bytes graph);

}  // namespace mmedge::runtime::openvino

#endif  // MMEDGE_RUNTIME_BACKENDS_OPENVINO_ONNX_FORM_H_
