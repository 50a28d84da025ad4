// Reads the placement of nodes back from ONNX Runtime.
#include "placement.h"

#include <string_view>

#include "../../error.h"

namespace mmedge::runtime::onnxruntime {
namespace {

constexpr const char kCpu[] = "CPUExecutionProvider";

// Nodes named in an error; the rest is counted.
constexpr size_t kNodesShown = 5;

// Operators that ONNX Runtime itself prefers to run on the CPU where they compute sizes from a
// Shape node: copying those few integers would cost more than the work.
constexpr std::string_view kShapeOperators[] = {
    "Add",    "Cast",    "Concat", "Div",  "Equal", "Gather",  "Mod", "Mul",       "Neg",
    "ReduceProd", "Reshape", "Shape",  "Size", "Slice", "Squeeze", "Sub", "Unsqueeze", "Where"};

bool is_shape_operator(std::string_view name) {
  for (const std::string_view each : kShapeOperators) {
    if (each == name) return true;
  }
  return false;
}

template <class Function, class Object>
std::string_view text(const Library& library, const Object* object) {
  const char* text = nullptr;
  library.check(library.call<Function>(object, &text));
  return text == nullptr ? "" : text;
}

}  // namespace

const char* provider_name(const std::string& target) noexcept {
  if (target == "cpu") return kCpu;
  return target == "cuda" ? "CUDAExecutionProvider" : nullptr;
}

int64_t check_placement(const Library& library, const ort::Session* session,
                        const std::string& target, const std::string& where) {
  const std::string_view provider = provider_name(target);
  const ort::PlacedSubgraph* const* subgraphs = nullptr;
  size_t subgraph_count = 0, elsewhere = 0;
  int64_t own = 0;
  std::string listing;
  library.check(library.call<ort::GetPlacement>(session, &subgraphs, &subgraph_count));
  for (size_t i = 0; i < subgraph_count; ++i) {
    const std::string_view actual = text<ort::PlacedSubgraphProvider>(library, subgraphs[i]);
    const ort::PlacedNode* const* nodes = nullptr;
    size_t count = 0;
    library.check(library.call<ort::PlacedSubgraphNodes>(subgraphs[i], &nodes, &count));
    for (size_t k = 0; k < count; ++k) {
      own += text<ort::PlacedNodeDomain>(library, nodes[k]) == "mmedge";
      const std::string_view kind = text<ort::PlacedNodeOperator>(library, nodes[k]);
      if (actual == provider || (actual == kCpu && is_shape_operator(kind))) continue;
      if (++elsewhere > kNodesShown) continue;
      const std::string_view name = text<ort::PlacedNodeName>(library, nodes[k]);
      listing += listing.empty() ? "" : "; ";
      listing.append(name.empty() ? "(unnamed)" : name).append(" (").append(kind);
      listing.append(") on ").append(actual);
    }
  }
  if (elsewhere > 0) {
    if (elsewhere > kNodesShown) {
      listing += " and " + std::to_string(elsewhere - kNodesShown) + " more";
    }
    throw Error(Code::kBackend, where + ": expected every node on " + std::string(provider) +
                                    ", found " + listing +
                                    ". Choose a variant made for the processor that runs them, or "
                                    "change those layers");
  }
  return own;
}

}  // namespace mmedge::runtime::onnxruntime
