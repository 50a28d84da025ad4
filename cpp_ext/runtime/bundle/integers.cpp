// What is known of tensors, followed from node to node.
#include "bundle/integers.h"

#include <algorithm>
#include <limits>

namespace mmedge::runtime::onnx {
namespace {

bool is_integer(uint32_t kind) { return kind == kOnnxInt32 || kind == kOnnxInt64; }

// Operators whose results have an axis, whatever they take.
constexpr std::string_view kWithAxes[] = {"Concat",    "Conv",      "Flatten", "NonZero", "Slice",
                                          "Transpose", "Unsqueeze", "Pad",     "DFT"};

bool is_call(const ParsedModel& model, const ParsedNode* node, std::string_view op) {
  return node != nullptr && node->domain == kNoName && model.text(node->op) == op;
}

// Of one element: another shape might not be that of what it is compared with.
bool is_all(NameId name, int64_t value, const Scope& scope) {
  const ParsedTensor* constant = scope.constant(name);
  return constant != nullptr && constant->has_values && constant->values.is_one(value);
}

// Whether it is Where(Equal(x, -1), 1, x).
bool is_guarded(const ParsedModel& model, NameId divisor, const Scope& scope) {
  const ParsedNode* where = scope.maker(divisor);
  if (!is_call(model, where, "Where") || where->inputs.size() != 3) return false;
  const ParsedNode* comparison = scope.maker(model.input(*where, 0));
  if (!is_call(model, comparison, "Equal") || comparison->inputs.size() != 2) return false;
  return model.input(*comparison, 0) == model.input(*where, 2) &&
         is_all(model.input(*comparison, 1), -1, scope) &&
         is_all(model.input(*where, 1), 1, scope);
}

bool has_smallest(const ParsedTensor& constant) {
  const int64_t smallest = constant.kind == kOnnxInt32 ? std::numeric_limits<int32_t>::min()
                                                       : std::numeric_limits<int64_t>::min();
  return !constant.values.empty() && constant.values.min() == smallest;
}

}  // namespace

void Scope::leave(size_t outer) {
  for (; symbols_.size() > base_; symbols_.pop_back()) {
    visible_[symbols_.back().name] = symbols_.back().shadowed;
  }
  base_ = outer;
}

Scope::Symbol& Scope::own(NameId name) {
  if (visible_[name] <= base_) {
    Symbol symbol;
    symbol.name = name;
    symbol.shadowed = visible_[name];
    symbols_.push_back(symbol);
    visible_[name] = static_cast<uint32_t>(symbols_.size());
  }
  return symbols_[visible_[name] - 1];
}

void Scope::enter(const ParsedGraph& graph, bool is_body) {
  const std::vector<uint32_t>& items = model_.items;
  for (uint32_t at = graph.nodes.begin; is_body && at < graph.nodes.end; ++at) {
    const Items outputs = model_.nodes[items[at]].outputs;
    for (uint32_t i = outputs.begin; i < outputs.end; ++i) own(items[i]).may_be_integer = true;
  }
  for (uint32_t at = graph.inputs.begin; at < graph.inputs.end; ++at) {
    const ParsedValue& value = model_.values[items[at]];
    Symbol& symbol = own(value.name);
    symbol.may_be_integer = is_integer(value.kind) || value.kind == 0;
    symbol.rank = value.rank;
    symbol.is_input = true;
  }
  for (uint32_t at = graph.constants.begin; at < graph.constants.end; ++at) {
    const NameId name = model_.tensors[items[at]].name;
    if (!own(name).is_input) add_constant(name, static_cast<int32_t>(items[at]));
  }
}

void Scope::add(const ParsedNode& node, const std::vector<char>* results) {
  const std::vector<uint32_t>& items = model_.items;
  if (add_constant_node(node)) return;
  const Operator* known = operators_.find(model_, node);
  const bool maybe = results != nullptr || results_may_be_integer(node, known);
  bool first_maybe = maybe;
  if (results == nullptr && known != nullptr) {
    if (known->results == Results::kFirstNoIntegers) first_maybe = false;
    if (known->results == Results::kFirstAsFirstInput) first_maybe = input_may_be_integer(node, 0);
  }
  const auto place = static_cast<int32_t>(&node - model_.nodes.data());
  for (uint32_t index = 0; index < node.outputs.size(); ++index) {
    Symbol& symbol = own(items[node.outputs.begin + index]);
    symbol.maker = place;
    symbol.constant = -1;
    symbol.may_be_integer = index == 0 ? first_maybe : maybe;
  }
  // Where a name stands there twice, what is told of one holds for both.
  if (results == nullptr) return;
  const size_t told = std::min<size_t>(results->size(), node.outputs.size());
  for (uint32_t index = 0; index < told; ++index) {
    own(items[node.outputs.begin + index]).may_be_integer = (*results)[index] != 0;
  }
}

void Scope::add_constant(NameId name, int32_t tensor) {
  Symbol& symbol = own(name);
  symbol.constant = tensor;
  symbol.may_be_integer = is_integer(model_.tensors[static_cast<size_t>(tensor)].kind);
}

int32_t Scope::constant_of(ParsedAttribute& attribute) {
  if (attribute.constant < 0) {
    ParsedTensor tensor;
    tensor.kind = kOnnxInt64;
    tensor.rank = 1;
    tensor.elements = attribute.integers.count();
    tensor.has_values = true;
    tensor.values = attribute.integers;
    attribute.constant = static_cast<int32_t>(model_.tensors.size());
    model_.tensors.push_back(tensor);
  }
  return attribute.constant;
}

bool Scope::add_constant_node(const ParsedNode& node) {
  if (!is_call(model_, &node, "Constant") || node.outputs.size() == 0) return false;
  const NameId name = model_.items[node.outputs.begin];
  const ParsedAttribute* value = model_.attribute(node, "value");
  ParsedAttribute* integers = model_.attribute(node, "value_ints");
  if (integers == nullptr) integers = model_.attribute(node, "value_int");
  if (value != nullptr && value->tensor >= 0) {
    add_constant(name, value->tensor);
  } else if (integers != nullptr && !integers->has_reference) {
    add_constant(name, constant_of(*integers));
  } else {
    bool is_float = false;  // value_float or value_floats
    for (uint32_t at = node.attributes.begin; at < node.attributes.end; ++at) {
      const NameId attribute = model_.attributes[model_.items[at]].name;
      is_float = is_float || model_.text(attribute).find("value_float") != std::string_view::npos;
    }
    own(name).may_be_integer = !is_float;
  }
  return true;
}

bool Scope::results_may_be_integer(const ParsedNode& node, const Operator* known) const {
  if (known == nullptr) return true;
  switch (known->results) {
    case Results::kNoIntegers: return false;
    case Results::kAsFirstInput: return input_may_be_integer(node, 0);
    case Results::kAsSecondInput: return input_may_be_integer(node, 1);
    case Results::kAsThirdInput: return input_may_be_integer(node, 2);
    case Results::kTyped: {
      const ParsedAttribute* type = model_.attribute(node, known->type_attribute);
      if (type == nullptr) {
        return known->default_type == 0 ? input_may_be_integer(node, 0)
                                        : is_integer(known->default_type);
      }
      const Integers& kind = type->integers;
      const bool is_other = kind.count() == 1 && kind.first() >= 1 && kind.first() < 64 &&
                            !is_integer(static_cast<uint32_t>(kind.first()));
      return type->has_reference || !is_other;
    }
    case Results::kOfValue: {
      const ParsedAttribute* value = model_.attribute(node, "value");
      if (value == nullptr) return false;  // float32
      return value->tensor < 0 ||
             is_integer(model_.tensors[static_cast<size_t>(value->tensor)].kind);
    }
    case Results::kFirstAsFirstInput:
    case Results::kFirstNoIntegers:
    case Results::kUnknown: return true;
  }
  return true;
}

bool Scope::input_may_be_integer(const ParsedNode& node, uint32_t index) const {
  return index >= node.inputs.size() || may_be_integer(model_.items[node.inputs.begin + index]);
}

bool Scope::may_be_integer(NameId name) const {
  const Symbol* symbol = find(name);
  return symbol == nullptr || symbol->may_be_integer;
}

const ParsedTensor* Scope::constant(NameId name) const {
  const Symbol* symbol = find(name);
  if (symbol == nullptr || symbol->constant < 0) return nullptr;
  return &model_.tensors[static_cast<size_t>(symbol->constant)];
}

bool Scope::has_rank(NameId name) const {
  const Symbol* symbol = find(name);
  if (symbol == nullptr) return false;
  if (const ParsedNode* node = maker(name)) {
    if (node->domain != kNoName) return false;
    for (const std::string_view op : kWithAxes) {
      if (model_.text(node->op) == op) return true;
    }
    return false;
  }
  if (const ParsedTensor* tensor = constant(name)) return tensor->rank > 0;
  return symbol->rank > 0;
}

const ParsedNode* Scope::maker(NameId name) const {
  const Symbol* symbol = find(name);
  if (symbol == nullptr || symbol->maker < 0) return nullptr;
  return &model_.nodes[static_cast<size_t>(symbol->maker)];
}

std::string division_fault(ParsedModel& model, const ParsedNode& node, const Scope& scope) {
  const ParsedAttribute* rounding = model.attribute(node, "fmod");
  if (rounding != nullptr && rounding->integers.is_one(1)) return {};  // C's fmod, in floats
  if (node.inputs.size() != 2) return {};
  const NameId dividend = model.input(node, 0), divisor = model.input(node, 1);
  if (!scope.may_be_integer(dividend) || !scope.may_be_integer(divisor)) return {};
  const ParsedTensor* constant = scope.constant(divisor);
  if (constant != nullptr && constant->has_values && !constant->values.has_minus_one()) return {};
  constant = scope.constant(dividend);
  if (constant != nullptr && constant->has_values && !has_smallest(*constant)) return {};
  if (is_guarded(model, divisor, scope)) return {};
  return "an integer division whose divisor may be -1, with which the smallest integer ends the "
         "process";
}

}  // namespace mmedge::runtime::onnx
