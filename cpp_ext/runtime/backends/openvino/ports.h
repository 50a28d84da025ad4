// Inputs and outputs of a graph as OpenVINO has them.
#ifndef MMEDGE_RUNTIME_BACKENDS_OPENVINO_PORTS_H_
#define MMEDGE_RUNTIME_BACKENDS_OPENVINO_PORTS_H_

#include <string>
#include <vector>

#include "../../spec.h"
#include "library.h"

namespace mmedge::runtime::openvino {

// OpenVINO's number for an element type; 0 where it computes with another one in its place.
ElementType element_type(DType dtype) noexcept;
bool parse_element_type(ElementType type, DType* out) noexcept;

struct PortInfo {
  std::string name;  // one of its names; empty where it has none
  ElementType type = 0;
  std::vector<int64_t> sizes;  // -1: dynamic
  bool dynamic = false;
  std::string shape;  // in words

  int64_t elements() const noexcept;  // of one that is not dynamic
};

// Inputs or outputs of a Model or a CompiledModel, in its order.
struct Ports {
  std::vector<PortInfo> all;
  // For each declared tensor, PortInfo::name of the port that has its name; empty where none has.
  std::vector<std::string> aliases;

  // The place of the last port that has the name of a declared tensor. Throws Error(kBackend).
  size_t find(size_t declared) const;
};

// Throw Error(kBackend): OpenVINO fails.
Ports read_ports(const Library& library, const Model* model, bool inputs,
                 const std::vector<TensorSpec>& declared);
Ports read_ports(const Library& library, const CompiledModel* model, bool inputs,
                 const std::vector<TensorSpec>& declared);

// What the manifest declares of each port, in the ports' order. Throws Error(kBackend) where a port
// is another than the manifest declares, or one is missing. `kind` is "input" or "output".
std::vector<TensorSpec> match_ports(const Ports& ports, const std::vector<TensorSpec>& declared,
                                    const std::string& kind, const std::string& stage);

}  // namespace mmedge::runtime::openvino

#endif  // MMEDGE_RUNTIME_BACKENDS_OPENVINO_PORTS_H_
