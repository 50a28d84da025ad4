// An ONNX file as plain records: nodes, attributes, constants; weights are stepped over.
//
// The tables of onnx_reader.cpp are those of onnx.proto (IR version 14); a field that is not in
// them is refused, since another reader might make something of it. All records of a file lie in
// few arrays and name each other by their places, so that a file of many small parts costs little.
#ifndef MMEDGE_RUNTIME_BUNDLE_ONNX_GRAPH_H_
#define MMEDGE_RUNTIME_BUNDLE_ONNX_GRAPH_H_

#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "bundle/name_table.h"
#include "tensor.h"

namespace mmedge::runtime::onnx {

// Messages inside messages, nodes with their bodies written out, names of tensors: far above any
// real network.
constexpr int kMaxDepth = 48;
constexpr int64_t kMaxNodes = 100'000, kMaxNames = 1'000'000;

// Elements of the largest constant whose values are looked at.
constexpr uint64_t kMaxValues = 4096;

// Largest number of elements that constants may ask for.
constexpr uint64_t kMaxMade = uint64_t{1} << 28;

// TensorProto.DataType.
constexpr uint32_t kOnnxFloat = 1, kOnnxInt32 = 6, kOnnxInt64 = 7;

// Of whole numbers of an attribute or constant, what the checks ask.
class Integers {
 public:
  void add(int64_t value);

  uint32_t count() const { return count_; }
  bool empty() const { return count_ == 0; }
  bool is_one(int64_t value) const { return count_ == 1 && first_ == value; }
  bool has_minus_one() const { return has_minus_one_; }
  int64_t first() const { return first_; }
  int64_t min() const { return min_; }
  int64_t max() const { return max_; }
  // Of the largest size, whatever its sign, and at least 1.
  uint64_t largest() const;
  // Of the sizes multiplied, each at least 1, and all at most kMaxMade + 1; a negative number
  // counts by its size, or as 1.
  uint64_t product() const { return product_; }
  uint64_t product_of_positive() const { return product_of_positive_; }

 private:
  int64_t first_ = 0;
  int64_t min_ = std::numeric_limits<int64_t>::max();
  int64_t max_ = std::numeric_limits<int64_t>::min();
  uint32_t count_ = 0;
  uint32_t product_ = 1;
  uint32_t product_of_positive_ = 1;
  bool has_minus_one_ = false;
};

// Of a signed number its size.
constexpr uint64_t magnitude(int64_t value) {
  return value < 0 ? 0 - static_cast<uint64_t>(value) : static_cast<uint64_t>(value);
}

// A part of ParsedModel::items.
struct Items {
  uint32_t begin = 0;
  uint32_t end = 0;

  uint32_t size() const { return end - begin; }
};

// A constant.
struct ParsedTensor {
  NameId name = kNoName;  // empty inside an attribute
  uint32_t kind = 0;      // TensorProto.DataType
  uint32_t rank = 0;
  uint64_t elements = 1;  // of its shape, at most the largest number
  bool has_values = false;
  Integers values;  // of a small int32 or int64 constant in the file
};

// Where a tensor's data lies beside the file.
struct ExternalEntry {
  NameId tensor = kNoName;
  uint64_t elements = 1;
  std::string_view location;
  std::string_view offset = "0";
  std::string_view length = "0";
};

// An attribute of a node; of its value what a check may look at.
struct ParsedAttribute {
  NameId name = kNoName;
  bool has_reference = false;  // it takes its value from an attribute of the function
  int32_t tensor = -1;         // of `t`
  int32_t constant = -1;       // its integers as a constant, where they were needed as one
  Items graphs;                // of `g` and `graphs`
  Integers integers;           // of `i` or `ints`
};

// An operator's call. A domain `ai.onnx` is the empty one.
struct ParsedNode {
  NameId op = kNoName;
  NameId domain = kNoName;
  Items inputs;      // names
  Items outputs;     // names
  Items attributes;  // places in ParsedModel::attributes
};

// An input of a graph. kind 0, rank -1: not said.
struct ParsedValue {
  NameId name = kNoName;
  uint32_t kind = 0;
  int32_t rank = -1;
};

// A graph or the body of a branch or loop.
struct ParsedGraph {
  Items nodes;      // places in ParsedModel::nodes
  Items constants;  // places in ParsedModel::tensors
  Items inputs;     // places in ParsedModel::values
  Items outputs;    // names
};

// A model-local function.
struct ParsedFunction {
  NameId domain = kNoName;
  NameId op = kNoName;
  Items inputs;   // names
  Items outputs;  // names
  Items nodes;    // places in ParsedModel::nodes
};

// A file.
struct ParsedModel {
  NameTable names;
  std::vector<uint32_t> items;  // names and places of other records
  std::vector<ParsedNode> nodes;
  std::vector<ParsedAttribute> attributes;
  std::vector<ParsedTensor> tensors;
  std::vector<ParsedValue> values;
  std::vector<ParsedGraph> graphs;
  std::vector<ParsedFunction> functions;  // by domain and operator
  std::vector<ExternalEntry> external;    // every tensor with external data
  uint32_t graph = 0;                     // the outermost
  int64_t standard_version = 1;           // of the standard operators

  std::string_view text(NameId id) const { return names.text(id); }
  // A name as a message shows it, the end left out where it is long.
  std::string quoted_text(NameId id) const;
  // The attribute of that name; null where there is none.
  ParsedAttribute* attribute(const ParsedNode& node, std::string_view name);
  // The name of an input; the empty name where there are fewer.
  NameId input(const ParsedNode& node, uint32_t index) const {
    return index < node.inputs.size() ? items[node.inputs.begin + index] : kNoName;
  }
  // The place of a function; -1 where there is none.
  int32_t function(NameId domain, NameId op) const;
};

// Reads a serialised ModelProto. The bytes must stay as long as what is given.
// Throws WireError: it is none, holds what is refused, or more than any real network.
ParsedModel read_model(Bytes data);

}  // namespace mmedge::runtime::onnx

#endif  // MMEDGE_RUNTIME_BUNDLE_ONNX_GRAPH_H_
