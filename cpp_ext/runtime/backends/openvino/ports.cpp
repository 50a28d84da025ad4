// Reads what OpenVINO says of inputs and outputs, and holds it to the manifest.
#include "ports.h"

#include <algorithm>

#include "../../error.h"

namespace mmedge::runtime::openvino {
namespace {

struct Element {
  DType dtype;
  ElementType type;
};

// float64 is not among them: on the CPU OpenVINO computes it in 32 bits, without a word.
constexpr Element kElements[] = {
    {DType::kBool, kBoolean}, {DType::kFloat16, kF16}, {DType::kFloat32, kF32},
    {DType::kInt32, kI32},    {DType::kInt64, kI64},   {DType::kInt8, kI8},
    {DType::kUint8, kU8},
};

std::string dtype_names() {
  std::string names;
  for (const Element& each : kElements) {
    names += (names.empty() ? "" : ", ") + std::string(dtype_name(each.dtype));
  }
  return names;
}

std::string type_text(ElementType type) {
  DType dtype;
  if (parse_element_type(type, &dtype)) return dtype_name(dtype);
  return "OpenVINO's element type " + std::to_string(type);
}

std::string port_name(const Library& library, const Port* port) {
  char* text = nullptr;
  // One without a name is an error to OpenVINO.
  if (library.api().port_get_any_name(port, &text) != 0 || text == nullptr) return "";
  const std::string name = text;
  library.api().free(text);
  return name;
}

PortInfo read_port(const Library& library, const Port* port) {
  const Api& api = library.api();
  PortInfo info;
  info.name = port_name(library, port);
  library.check(api.port_get_element_type(port, &info.type));
  PartialShape shape{};
  library.check(api.port_get_partial_shape(port, &shape));
  const bool has_rank = shape.rank.min == shape.rank.max;
  info.dynamic = !has_rank;
  for (int64_t axis = 0; has_rank && axis < shape.rank.min; ++axis) {
    const Dimension& size = shape.sizes[axis];
    info.sizes.push_back(size.min == size.max ? size.min : -1);
    info.dynamic = info.dynamic || size.min != size.max;
  }
  if (const char* text = api.partial_shape_to_string(shape)) {
    info.shape = text;
    api.free(text);
  }
  // A dynamic rank fits no declared one.
  if (!has_rank) info.sizes.assign(kMaxRank + 1, -1);
  api.partial_shape_free(&shape);
  return info;
}

[[noreturn]] void refuse(const std::string& stage, const std::string& what) {
  throw Error(Code::kBackend, "stage '" + stage + "': " + what + "; use backend='ort'");
}

}  // namespace

ElementType element_type(DType dtype) noexcept {
  for (const Element& each : kElements) {
    if (each.dtype == dtype) return each.type;
  }
  return 0;
}

bool parse_element_type(ElementType type, DType* out) noexcept {
  for (const Element& each : kElements) {
    if (each.type == type) {
      *out = each.dtype;
      return true;
    }
  }
  return false;
}

int64_t PortInfo::elements() const noexcept {
  int64_t count = 1;
  for (const int64_t size : sizes) count *= size;
  return count;
}

namespace {

template <class T>
struct Functions {
  Status (*count)(const T*, size_t*);
  Status (*by_index)(const T*, size_t, Port**);
  Status (*by_name)(const T*, const char*, Port**);
};

template <class T>
Ports read(const Library& library, const T* model, const Functions<T>& functions,
           const std::vector<TensorSpec>& declared) {
  Ports ports;
  size_t count = 0;
  library.check(functions.count(model, &count));
  for (size_t i = 0; i < count; ++i) {
    Owner<Port> port(library.api().output_const_port_free);
    library.check(functions.by_index(model, i, port.out()));
    ports.all.push_back(read_port(library, port.get()));
  }
  for (const TensorSpec& spec : declared) {
    Owner<Port> port(library.api().output_const_port_free);
    const bool found = functions.by_name(model, spec.name.c_str(), port.out()) == 0;
    ports.aliases.push_back(found ? port_name(library, port.get()) : "");
  }
  return ports;
}

}  // namespace

Ports read_ports(const Library& library, const Model* model, bool inputs,
                 const std::vector<TensorSpec>& declared) {
  const Api& api = library.api();
  if (inputs) {
    return read<Model>(library, model,
                       {api.model_inputs_size, api.model_const_input_by_index,
                        api.model_const_input_by_name},
                       declared);
  }
  return read<Model>(library, model,
                     {api.model_outputs_size, api.model_const_output_by_index,
                      api.model_const_output_by_name},
                     declared);
}

Ports read_ports(const Library& library, const CompiledModel* model, bool inputs,
                 const std::vector<TensorSpec>& declared) {
  const Api& api = library.api();
  if (inputs) {
    return read<CompiledModel>(library, model,
                               {api.compiled_model_inputs_size, api.compiled_model_input_by_index,
                                api.compiled_model_input_by_name},
                               declared);
  }
  return read<CompiledModel>(library, model,
                             {api.compiled_model_outputs_size, api.compiled_model_output_by_index,
                              api.compiled_model_output_by_name},
                             declared);
}

size_t Ports::find(size_t declared) const {
  for (size_t i = all.size(); i-- > 0;) {
    if (!aliases[declared].empty() && all[i].name == aliases[declared]) return i;
  }
  throw Error(Code::kBackend, "OpenVINO has lost a tensor while it compiled the graph");
}

std::vector<TensorSpec> match_ports(const Ports& ports, const std::vector<TensorSpec>& declared,
                                    const std::string& kind, const std::string& stage) {
  // Of several names of one port, the first in order counts.
  std::vector<size_t> order(declared.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::sort(order.begin(), order.end(),
            [&](size_t a, size_t b) { return declared[a].name < declared[b].name; });
  std::vector<bool> used(declared.size());
  std::vector<TensorSpec> specs;
  for (const PortInfo& port : ports.all) {
    const auto entry = std::find_if(order.begin(), order.end(), [&](size_t i) {
      return !used[i] && !port.name.empty() && ports.aliases[i] == port.name;
    });
    const TensorSpec* spec = entry == order.end() ? nullptr : &declared[*entry];
    if (spec != nullptr && element_type(spec->dtype) == 0) {
      refuse(stage, kind + " " + spec->text() + ": variants for OpenVINO take " + dtype_names());
    }
    if (spec == nullptr || element_type(spec->dtype) != port.type ||
        spec->shape.size() != port.sizes.size()) {
      refuse(stage, "OpenVINO has the " + kind + " '" + (spec ? spec->name : port.name) + "' as " +
                        type_text(port.type) + " " + port.shape + ", the manifest declares " +
                        (spec ? spec->text() : "no such one"));
    }
    used[*entry] = true;
    specs.push_back(*spec);
  }
  for (const size_t i : order) {
    if (!used[i]) {
      refuse(stage, "OpenVINO has no " + kind + " '" + declared[i].name +
                        "', which the manifest declares");
    }
  }
  return specs;
}

}  // namespace mmedge::runtime::openvino
