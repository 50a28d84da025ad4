// What an ONNX graph reaches for beyond itself, and whether ONNX Runtime may be given it.
//
// ONNX Runtime opens whatever file a tensor's external data names, calls whatever code is
// registered for a node's domain, and is ended by some of what it takes. So a graph is checked
// before it sees it, by the rules of docs/reference/bundle.md, "Graphs".
#ifndef MMEDGE_RUNTIME_BUNDLE_ONNX_FILE_H_
#define MMEDGE_RUNTIME_BUNDLE_ONNX_FILE_H_

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <tuple>
#include <vector>

#include "spec.h"
#include "tensor.h"

namespace mmedge::runtime {

// Operators of mmedge's own domain must come with their body as a model-local function.
inline constexpr char kOwnDomain[] = "mmedge";
// A graph's file has it: some runtimes choose a reader by it.
inline constexpr char kGraphSuffix[] = ".onnx";

// A part of a file that holds a tensor's data.
struct ExternalSpan {
  std::string file;  // path in the bundle
  uint64_t begin = 0;
  uint64_t end = 0;

  bool operator<(const ExternalSpan& other) const {
    return std::tie(file, begin, end) < std::tie(other.file, other.begin, other.end);
  }
  bool operator==(const ExternalSpan& other) const {
    return std::tie(file, begin, end) == std::tie(other.file, other.begin, other.end);
  }
};

// A constant whose data lies beside the graph.
struct ExternalTensor {
  std::string name;      // empty inside an attribute
  std::string location;  // of the file, as the graph says it: relative to the graph's folder
  ExternalSpan span;
};

// What a graph that passed reaches for.
struct GraphFile {
  std::vector<std::string> weights;         // paths of the weight files that it uses, in order
  std::map<std::string, int> functions;     // calls of each function of mmedge's own domain
  std::vector<std::string> needs_elements;  // operators that end the process when a tensor that
                                            // they take has no elements, in order
  std::vector<ExternalTensor> external;     // in the order of the file
  std::vector<ExternalSpan> spans;          // theirs, in order, each once
};

// Checks the graph at path `file` of a bundle. `sizes`: bytes of all files of the bundle by path.
// `source`: what an error names as the place. The bytes need not stay.
// Throws Error(Code::kBundle): not an ONNX graph, an operator or attribute that is not allowed, or
// weights that lie outside the bundle.
GraphFile check_graph(Bytes data, const std::string& file,
                      const std::map<std::string, uint64_t>& sizes, const std::string& source);

// Checks all graphs of a bundle, and that no dimension may be 0 where that ends the process. `read`
// gives a file's bytes, which must stay until it is called again; `path` is the bundle's, for
// messages. What it gives is by path in the bundle. Throws as check_graph, and what `read` throws.
std::map<std::string, GraphFile> check_graphs(
    const Manifest& manifest, const std::map<std::string, uint64_t>& sizes,
    const std::function<Bytes(const std::string&)>& read, const std::string& path);

}  // namespace mmedge::runtime

#endif  // MMEDGE_RUNTIME_BUNDLE_ONNX_FILE_H_
