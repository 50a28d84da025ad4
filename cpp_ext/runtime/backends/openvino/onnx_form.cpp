// Looks at the fields of an ONNX model, and puts those in front that stand there once.
#include "onnx_form.h"

#include <vector>

#include "../../bundle/protobuf.h"

namespace mmedge::runtime::openvino {
namespace {

// Fields of a ModelProto that may stand there once: from ir_version to graph.
constexpr uint64_t kLastSingle = 7, kProducer = 2, kText = 6;

struct Part {
  uint64_t number = 0;
  int wire = 0;
  size_t begin = 0;  // with its key
  size_t value = 0;  // behind the key
  size_t end = 0;
};

Part next_part(const onnx::WireReader& reader, size_t at) {
  const size_t size = reader.data().size;
  Part part;
  part.begin = at;
  const uint64_t key = reader.varint(&at, size);
  part.number = key >> 3;
  part.wire = static_cast<int>(key & 7);
  part.value = at;
  const uint64_t value = reader.varint(&at, size);
  part.end = part.wire == onnx::kBytes ? at + value : at;
  return part;
}

}  // namespace

bool begins_as_onnx(Bytes graph) {
  const onnx::WireReader reader(graph);
  unsigned seen = 0;
  size_t at = 0;
  for (int i = 0; i < 3; ++i) {
    if (at >= graph.size) return false;
    const Part part = next_part(reader, at);
    // Longer forms of a key are others to it.
    if (part.value != part.begin + 1 || part.number > kLastSingle + 1) return false;
    if ((seen >> part.number & 1) != 0) return false;
    seen |= 1U << part.number;
    at = part.end;
  }
  return true;
}

std::string reorder_fields(Bytes graph) {
  const onnx::WireReader reader(graph);
  Part single[kLastSingle + 1];
  std::vector<Part> others;
  for (size_t at = 0; at < graph.size;) {
    const Part part = next_part(reader, at);
    at = part.end;
    if (part.number <= kLastSingle) {
      single[part.number] = part;
    } else {
      others.push_back(part);
    }
  }
  std::string ordered;
  ordered.reserve(graph.size + 4);
  const auto text = graph.text();
  for (uint64_t number = 1; number <= kLastSingle; ++number) {
    const Part& part = single[number];
    if (part.end == 0 && number != kProducer && number != kText) continue;
    const int wire = part.end == 0 ? onnx::kBytes : part.wire;
    ordered.push_back(static_cast<char>(number << 3 | static_cast<unsigned>(wire)));
    // Two texts and the graph make three fields in any case.
    if (part.end == 0) ordered.push_back('\0');
    ordered.append(text.substr(part.value, part.end - part.value));
  }
  for (const Part& part : others) ordered.append(text.substr(part.begin, part.end - part.begin));
  return ordered;
}

}  // namespace mmedge::runtime::openvino
