// What the checks ask of an ONNX file's records.
#include "bundle/onnx_graph.h"

#include <algorithm>

#include "bundle/paths.h"

namespace mmedge::runtime::onnx {

void Integers::add(int64_t value) {
  const auto limited = [](uint64_t product, uint64_t size) {
    uint64_t result = 0;
    const bool is_over = __builtin_mul_overflow(product, std::max<uint64_t>(1, size), &result);
    return static_cast<uint32_t>(is_over ? kMaxMade + 1 : std::min(result, kMaxMade + 1));
  };
  if (count_++ == 0) first_ = value;
  min_ = std::min(min_, value);
  max_ = std::max(max_, value);
  has_minus_one_ = has_minus_one_ || value == -1;
  product_ = limited(product_, magnitude(value));
  product_of_positive_ = limited(product_of_positive_, value < 0 ? 1 : magnitude(value));
}

uint64_t Integers::largest() const {
  return count_ == 0 ? 1 : std::max({uint64_t{1}, magnitude(min_), magnitude(max_)});
}

ParsedAttribute* ParsedModel::attribute(const ParsedNode& node, std::string_view name) {
  for (uint32_t at = node.attributes.begin; at < node.attributes.end; ++at) {
    ParsedAttribute& attribute = attributes[items[at]];
    if (text(attribute.name) == name) return &attribute;
  }
  return nullptr;
}

int32_t ParsedModel::function(NameId domain, NameId op) const {
  const auto key = std::make_pair(domain, op);
  const auto place = std::lower_bound(
      functions.begin(), functions.end(), key, [](const ParsedFunction& each, const auto& wanted) {
        return std::make_pair(each.domain, each.op) < wanted;
      });
  const bool is_it = place != functions.end() && place->domain == domain && place->op == op;
  return is_it ? static_cast<int32_t>(place - functions.begin()) : -1;
}

std::string ParsedModel::quoted_text(NameId id) const { return quoted(text(id).substr(0, 200)); }

}  // namespace mmedge::runtime::onnx
