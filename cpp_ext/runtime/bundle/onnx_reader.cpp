// One pass over an ONNX file, from its bytes to records.
#include <algorithm>

#include "bundle/item_stack.h"
#include "bundle/onnx_graph.h"
#include "bundle/paths.h"
#include "bundle/protobuf.h"

namespace mmedge::runtime::onnx {
namespace {

// Wire types of a field, in capitals where it is repeated; s is a text or message that is stepped
// over. A repeated number may be packed or not.
constexpr unsigned v = 1 << kVarint, b = 1 << kBytes, f = 1 << kFixed32;
constexpr unsigned B = b | 1 << kRepeated, s = b | 1 << kSkipped, S = B | 1 << kSkipped;
constexpr unsigned V = v | B, F = f | B, D = 1 << kFixed64 | B;

constexpr FieldTable kModel = make_field_table(
    {{1, v}, {2, s}, {3, s}, {4, s}, {5, v}, {6, s}, {7, b}, {8, B}, {14, S}, {20, B}, {25, B},
     {26, S}});
constexpr FieldTable kGraph = make_field_table(
    {{1, B}, {2, s}, {5, B}, {10, s}, {11, B}, {12, B}, {13, S}, {14, S}, {15, B}, {16, S}});
constexpr FieldTable kNode = make_field_table(
    {{1, B}, {2, B}, {3, s}, {4, b}, {5, B}, {6, s}, {7, b}, {8, b}, {9, S}, {10, S}});
constexpr FieldTable kAttribute = make_field_table(
    {{1, b},  {2, f},  {3, v},  {4, s},  {5, b},  {6, b},  {7, F},  {8, V},  {9, S},
     {10, B}, {11, B}, {13, s}, {14, s}, {15, S}, {20, v}, {21, b}, {22, b}, {23, B}});
constexpr FieldTable kTensor = make_field_table(
    {{1, V}, {2, v}, {3, b}, {4, F}, {5, V}, {6, B}, {7, V}, {8, b}, {9, b}, {10, D}, {11, V},
     {12, s}, {13, B}, {14, v}, {16, S}});
constexpr FieldTable kFunction = make_field_table(
    {{1, b}, {4, B}, {5, B}, {6, S}, {7, B}, {8, s}, {9, S}, {10, b}, {11, B}, {12, S}, {13, b},
     {14, S}});
constexpr FieldTable kValue = make_field_table({{1, b}, {2, b}, {3, s}, {4, S}});
constexpr FieldTable kType =
    make_field_table({{1, b}, {4, b}, {5, b}, {6, b}, {7, b}, {8, b}, {9, b}});
constexpr FieldTable kTensorType = make_field_table({{1, v}, {2, b}});
constexpr FieldTable kShape = make_field_table({{1, B}});
constexpr FieldTable kOpset = make_field_table({{1, b}, {2, v}});
constexpr FieldTable kEntry = make_field_table({{1, b}, {2, b}});

// Sizes multiplied, at most the largest number.
uint64_t product_of(const std::vector<int64_t>& sizes) {
  if (std::find(sizes.begin(), sizes.end(), 0) != sizes.end()) return 0;
  uint64_t product = 1;
  for (const int64_t size : sizes) {
    if (__builtin_mul_overflow(product, static_cast<uint64_t>(size), &product)) return UINT64_MAX;
  }
  return product;
}

// As in messages: "[2, 3]", of the first eight.
std::string shape_text(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size() && i < 8; ++i) {
    text += (i > 0 ? ", " : "") + std::to_string(shape[i]);
  }
  return text + "]";
}

class ModelReader {
 public:
  explicit ModelReader(Bytes data) : file_(data) {}

  ParsedModel model() {
    if (file_.data().size == 0) throw WireError("an empty file");
    bool has_graph = false, has_version = false;
    std::vector<NameId> domains;
    FieldReader fields(file_, kModel, 0, file_.data().size);
    for (Field field; fields.next(&field);) {
      switch (field.number) {
        case 1: has_version = true; break;
        case 7:
          model_.graph = graph(field, 1);
          has_graph = true;
          break;
        case 8: opset(field, &domains); break;
        case 20: throw WireError("a training graph, which nothing here runs");
        case 25:
          model_.functions.push_back(function(field));
          check_last_function();
          break;
        default: break;
      }
    }
    if (!has_graph) throw WireError("a file without a graph");
    if (!has_version) throw WireError("a file without an IR version");
    if (const NameId* twice = find_twice(domains.data(), domains.size())) {
      throw WireError("operators of domain " + quote(*twice) + " imported twice");
    }
    order_functions();
    return std::move(model_);
  }

 private:
  std::string quote(NameId name) const { return model_.quoted_text(name); }

  NameId name(const Field& field) {
    // What was there before is UTF-8.
    const std::string_view text = file_.bytes(field);
    const size_t known = model_.names.size();
    const NameId id = model_.names.id(text);
    if (id == known) file_.text(field);
    return id;
  }

  NameId domain(const Field& field) {
    const NameId id = name(field);
    return model_.text(id) == "ai.onnx" ? kNoName : id;
  }

  // A number that is there twice; null where there is none.
  const NameId* find_twice(const NameId* ids, size_t count) {
    if (count < 2) return nullptr;
    sorted_.assign(ids, ids + count);
    std::sort(sorted_.begin(), sorted_.end());
    const auto place = std::adjacent_find(sorted_.begin(), sorted_.end());
    return place == sorted_.end() ? nullptr : &*place;
  }

  void order_functions() {
    std::vector<ParsedFunction>& functions = model_.functions;
    const auto key = [](const ParsedFunction& each) {
      return std::make_pair(each.domain, each.op);
    };
    std::sort(functions.begin(), functions.end(),
              [&](const auto& one, const auto& two) { return key(one) < key(two); });
    const auto twice =
        std::adjacent_find(functions.begin(), functions.end(),
                           [&](const auto& one, const auto& two) { return key(one) == key(two); });
    if (twice != functions.end()) refuse_twice("function", twice->op);
  }

  void check_last_function() const {
    if (model_.functions.size() < 2) return;
    const ParsedFunction* last = &model_.functions.back();
    if (last[0].domain == last[-1].domain && last[0].op == last[-1].op) {
      refuse_twice("function", last->op);
    }
  }

  void opset(const Field& place, std::vector<NameId>* domains) {
    NameId id = kNoName;
    uint64_t version = 0;
    FieldReader fields(file_, kOpset, place.begin, place.end);
    for (Field field; fields.next(&field);) {
      if (field.number == 1) {
        id = domain(field);
      } else {
        version = field.value;
      }
    }
    domains->push_back(id);
    if (id == kNoName) model_.standard_version = static_cast<int64_t>(version);
  }

  uint32_t graph(const Field& place, int depth) {
    if (depth > kMaxDepth) {
      throw WireError("nested deeper than " + std::to_string(kMaxDepth) + " messages");
    }
    const bool is_empty = place.begin == place.end;
    if (is_empty && has_empty_graph_) return empty_graph_;  // of a file that holds millions
    const size_t first_node = nodes_.mark(), first_constant = constants_.mark();
    const size_t first_input = values_.mark(), first_output = results_.mark();
    const size_t first_name = constant_names_.mark();
    FieldReader fields(file_, kGraph, place.begin, place.end);
    for (Field field; fields.next(&field);) {
      switch (field.number) {
        case 1: nodes_.push(node(field, depth + 1)); break;
        case 5:
          constants_.push(static_cast<uint32_t>(tensor(field)));
          constant_names_.push(model_.tensors.back().name);
          check_last("constant", constant_names_, first_name);
          count_names(1);
          break;
        case 11:
          values_.push(static_cast<uint32_t>(model_.values.size()));
          model_.values.push_back(value(field));
          count_names(1);
          break;
        case 12:
          results_.push(value(field).name);
          count_names(1);
          break;
        case 15: throw WireError("a sparse constant; write it dense");
        default: break;
      }
    }
    ParsedGraph graph;
    graph.nodes = nodes_.take(first_node, &model_.items);
    graph.constants = constants_.take(first_constant, &model_.items);
    graph.inputs = values_.take(first_input, &model_.items);
    graph.outputs = results_.take(first_output, &model_.items);
    check_names("constant", &constant_names_, first_name);
    model_.graphs.push_back(graph);
    const auto index = static_cast<uint32_t>(model_.graphs.size() - 1);
    if (is_empty) {
      empty_graph_ = index;
      has_empty_graph_ = true;
    }
    return index;
  }

  // Throws where a name since the mark is there twice, and drops them.
  void check_names(const char* what, ItemStack* names, size_t mark) {
    if (const NameId* twice = find_twice(names->from(mark), names->mark() - mark)) {
      refuse_twice(what, *twice);
    }
    names->drop(mark);
  }

  // The same of the last two, so that a file that says one thing millions of times costs little.
  void check_last(const char* what, const ItemStack& names, size_t mark) const {
    const NameId* last = names.from(names.mark()) - 1;
    if (names.mark() - mark > 1 && last[0] == last[-1]) refuse_twice(what, last[0]);
  }

  [[noreturn]] void refuse_twice(const char* what, NameId name) const {
    throw WireError(std::string(what) + " " + quote(name) + " given twice");
  }

  ParsedFunction function(const Field& place) {
    ParsedFunction function;
    const size_t first_input = inputs_.mark(), first_output = outputs_.mark();
    const size_t first_node = nodes_.mark();
    FieldReader fields(file_, kFunction, place.begin, place.end);
    for (Field field; fields.next(&field);) {
      switch (field.number) {
        case 1: function.op = name(field); break;
        case 4: inputs_.push(name(field)); break;
        case 5: outputs_.push(name(field)); break;
        case 7: nodes_.push(node(field, 2)); break;
        case 10: function.domain = name(field); break;
        case 11:
          // What a body takes by reference could be anything, a graph too.
          throw WireError("a default of an attribute of function " + quote(function.op));
        case 13:
          if (field.begin != field.end) throw WireError("an overload of a function");
          break;
        default: break;
      }
    }
    function.inputs = inputs_.take(first_input, &model_.items);
    function.outputs = outputs_.take(first_output, &model_.items);
    function.nodes = nodes_.take(first_node, &model_.items);
    return function;
  }

  uint32_t node(const Field& place, int depth) {
    if (++node_count_ > kMaxNodes) {
      throw WireError("more than " + std::to_string(kMaxNodes) + " nodes");
    }
    ParsedNode node;
    const size_t first_input = inputs_.mark(), first_output = outputs_.mark();
    const size_t first_attribute = attributes_.mark(), first_name = attribute_names_.mark();
    FieldReader fields(file_, kNode, place.begin, place.end);
    for (Field field; fields.next(&field);) {
      switch (field.number) {
        case 1: inputs_.push(name(field)); break;
        case 2: outputs_.push(name(field)); break;
        case 4: node.op = name(field); break;
        case 5: {
          const uint32_t index = attribute(field, depth + 1);
          attributes_.push(index);
          attribute_names_.push(model_.attributes[index].name);
          check_last("attribute", attribute_names_, first_name);
          break;
        }
        case 7: node.domain = domain(field); break;
        case 8:
          if (field.begin != field.end) throw WireError("an overload of " + quote(node.op));
          break;
        default: break;
      }
    }
    node.inputs = inputs_.take(first_input, &model_.items);
    node.outputs = outputs_.take(first_output, &model_.items);
    node.attributes = attributes_.take(first_attribute, &model_.items);
    check_names("attribute", &attribute_names_, first_name);
    count_names(int64_t{node.inputs.size()} + node.outputs.size());
    model_.nodes.push_back(node);
    return static_cast<uint32_t>(model_.nodes.size() - 1);
  }

  void count_names(int64_t count) {
    name_count_ += count;
    if (name_count_ > kMaxNames) {
      throw WireError("more than " + std::to_string(kMaxNames) + " names of tensors");
    }
  }

  uint32_t attribute(const Field& place, int depth) {
    ParsedAttribute attribute;
    const size_t first_graph = bodies_.mark();
    uint32_t integer_field = 0;
    FieldReader fields(file_, kAttribute, place.begin, place.end);
    for (Field field; fields.next(&field);) {
      switch (field.number) {
        case 1: attribute.name = name(field); break;
        case 3:
        case 8:
          if (!attribute.integers.empty() && field.number != integer_field) {
            throw WireError("attribute " + quote(attribute.name) +
                            " with one integer and several");
          }
          integer_field = field.number;
          integers(field, attribute.integers.count(),
                   [&](int64_t value) { attribute.integers.add(value); });
          break;
        case 5: attribute.tensor = tensor(field); break;
        case 10:  // for its external data
          tensor(field);
          model_.tensors.pop_back();
          break;
        case 6:
        case 11: bodies_.push(graph(field, depth + 1)); break;
        case 21: attribute.has_reference = !file_.text(field).empty(); break;
        case 22:
        case 23: throw WireError("a sparse constant; write it dense");
        default: break;
      }
    }
    attribute.graphs = bodies_.take(first_graph, &model_.items);
    model_.attributes.push_back(attribute);
    return static_cast<uint32_t>(model_.attributes.size() - 1);
  }

  // Adds numbers, packed or not, as long as there are not more than kMaxValues.
  template <class Add>
  void integers(const Field& field, uint64_t count, const Add& add) {
    if (!field.has_bytes()) {
      if (count <= kMaxValues) add(static_cast<int64_t>(field.value));
      return;
    }
    for (size_t at = field.begin; at < field.end; ++count) {
      const uint64_t value = file_.varint(&at, field.end);
      if (count > kMaxValues) return;
      add(static_cast<int64_t>(value));
    }
  }

  int32_t tensor(const Field& place) {
    ParsedTensor tensor;
    ExternalEntry external;
    unsigned external_keys = 0;
    Field raw;
    uint64_t data_bytes = 0;  // in the file
    uint32_t location = 0;    // where the data is said to lie
    bool has_raw = false;
    shape_.clear();
    data_.clear();
    FieldReader fields(file_, kTensor, place.begin, place.end);
    for (Field field; fields.next(&field);) {
      const auto add_size = [&](int64_t value) { shape_.push_back(value); };
      const auto add_value = [&](int64_t value) { data_.push_back(value); };
      switch (field.number) {
        case 1: integers(field, shape_.size(), add_size); break;
        case 2: tensor.kind = static_cast<uint32_t>(field.value); break;
        case 3: throw WireError("a constant in segments");
        case 5:
        case 7: integers(field, data_.size(), add_value); [[fallthrough]];
        case 4:
        case 6:
        case 10:
        case 11:
          data_bytes += field.has_bytes() ? std::max<uint64_t>(1, field.end - field.begin) : 8;
          break;
        case 8: tensor.name = name(field); break;
        case 9:
          raw = field;
          has_raw = true;
          data_bytes += field.end - field.begin;
          break;
        case 13: external_entry(field, &external, &external_keys); break;
        case 14: location = static_cast<uint32_t>(field.value); break;
        default: break;
      }
    }
    const bool is_external = external_keys != 0;
    check_size(tensor.name, data_bytes, location, is_external);
    tensor.rank = static_cast<uint32_t>(shape_.size());
    tensor.elements = product_of(shape_);
    if (is_external) {
      external.tensor = tensor.name;
      external.elements = tensor.elements;
      model_.external.push_back(external);
    } else if ((tensor.kind == kOnnxInt32 || tensor.kind == kOnnxInt64) &&
               tensor.elements <= kMaxValues) {
      unpack(has_raw ? &raw : nullptr, &tensor);
    }
    model_.tensors.push_back(tensor);
    return static_cast<int32_t>(model_.tensors.size() - 1);
  }

  void external_entry(const Field& place, ExternalEntry* external, unsigned* keys) {
    std::string_view key, value;
    FieldReader fields(file_, kEntry, place.begin, place.end);
    for (Field field; fields.next(&field);) (field.number == 1 ? key : value) = file_.text(field);
    std::string_view checksum;
    const std::pair<std::string_view, std::string_view*> places[] = {
        {"location", &external->location},
        {"offset", &external->offset},
        {"length", &external->length},
        {"checksum", &checksum}};
    for (unsigned i = 0; i < 4; ++i) {
      if (key != places[i].first || (*keys >> i & 1) != 0) continue;
      *places[i].second = value;
      *keys |= 1u << i;
      return;
    }
    throw WireError("external data with unknown or repeated " + quoted(key.substr(0, 200)));
  }

  // A reader makes room by the shape before it looks for the data.
  void check_size(NameId name, uint64_t data_bytes, uint32_t location, bool is_external) const {
    const auto is_fault = [](int64_t size) { return size < 0 || size >= int64_t{1} << 40; };
    if (shape_.size() > 64 || std::any_of(shape_.begin(), shape_.end(), is_fault)) {
      throw WireError("constant " + quote(name) + " of shape " + shape_text(shape_));
    }
    if (location > 1 || is_external != (location == 1)) {
      throw WireError("constant " + quote(name) + " that is said to lie elsewhere, and does not");
    }
    // Numbers of 4 bits lie two in a byte.
    if (!is_external && product_of(shape_) > 2 * data_bytes) {
      throw WireError("constant " + quote(name) + " of shape " + shape_text(shape_) + " with " +
                      std::to_string(data_bytes) + " bytes of data");
    }
  }

  void unpack(const Field* raw, ParsedTensor* tensor) const {
    const size_t width = tensor->kind == kOnnxInt32 ? 4 : 8;
    if (raw == nullptr) {
      // As protobuf does: a varint may have more bits than the number that it stands for.
      for (const int64_t value : data_) {
        tensor->values.add(width == 4 ? static_cast<int32_t>(static_cast<uint32_t>(value)) : value);
      }
      tensor->has_values = true;
      return;
    }
    const size_t size = raw->end - raw->begin;
    if (size % width != 0 || size > width * kMaxValues) return;
    for (size_t at = raw->begin; at < raw->end; at += width) {
      uint64_t value = 0;
      for (size_t i = width; i-- > 0;) value = value << 8 | file_.data().data[at + i];
      tensor->values.add(width == 4 ? static_cast<int32_t>(static_cast<uint32_t>(value))
                                    : static_cast<int64_t>(value));
    }
    tensor->has_values = true;
  }

  // Name, element type and rank of an input or output.
  ParsedValue value(const Field& place) {
    ParsedValue value;
    FieldReader fields(file_, kValue, place.begin, place.end);
    for (Field field; fields.next(&field);) {
      if (field.number == 1) {
        value.name = name(field);
        continue;
      }
      FieldReader type_fields(file_, kType, field.begin, field.end);
      for (Field type; type_fields.next(&type);) {
        if (type.number == 1) tensor_type(type, &value);
      }
    }
    return value;
  }

  void tensor_type(const Field& place, ParsedValue* value) {
    FieldReader fields(file_, kTensorType, place.begin, place.end);
    for (Field field; fields.next(&field);) {
      if (field.number == 1) {
        value->kind = static_cast<uint32_t>(field.value);
        continue;
      }
      value->rank = 0;
      FieldReader sizes(file_, kShape, field.begin, field.end);
      for (Field size; sizes.next(&size);) ++value->rank;
    }
  }

  WireReader file_;
  ParsedModel model_;
  int64_t node_count_ = 0;
  int64_t name_count_ = 0;
  bool has_empty_graph_ = false;
  uint32_t empty_graph_ = 0;
  ItemStack nodes_, constants_, constant_names_, values_, results_;  // of graphs
  ItemStack inputs_, outputs_, attributes_, attribute_names_;        // of nodes
  ItemStack bodies_;                                                 // of attributes
  std::vector<int64_t> shape_, data_;                            // of a tensor
  std::vector<NameId> sorted_;
};

}  // namespace

ParsedModel read_model(Bytes data) { return ModelReader(data).model(); }

}  // namespace mmedge::runtime::onnx
