// The operators that a bundle may call, and what ONNX Runtime must not be given with them: the
// tables and rules of mmedge/bundle/operators.py, which says where they come from.
#ifndef MMEDGE_RUNTIME_BUNDLE_OPERATORS_H_
#define MMEDGE_RUNTIME_BUNDLE_OPERATORS_H_

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <utility>

#include "bundle/onnx_graph.h"

namespace mmedge::runtime::onnx {

class Scope;

// Newest version of the standard operators that the tables hold.
constexpr int64_t kNewestOperators = 28;

// Largest size of a kernel along one axis.
constexpr int64_t kMaxKernel = 1 << 16;

// What is known of an operator's results.
enum class Results : uint8_t {
  kNoIntegers,         // never int32 or int64
  kAsFirstInput,       // of the type of that input
  kAsSecondInput,
  kAsThirdInput,
  kTyped,              // of the type that an attribute holds
  kOfValue,            // of the type of the constant `value`, float32 without one
  kFirstAsFirstInput,  // the first is of the type of the first input, others may be anything
  kFirstNoIntegers,    // the first is never int32 or int64, others may be anything
  kUnknown,
};

// What an operator must not be given.
enum class Rule : uint8_t {
  kNone,
  kAttributes,  // attributes below a limit
  kConstant,
  kDft,
  kKernel,
  kRandom,
  kRange,
  kSizes,  // a constant that asks for too many elements
  kStft,
  kUnique,
};

struct Operator {
  Results results = Results::kUnknown;
  Rule rule = Rule::kNone;
  bool needs_elements = false;      // it ends the process when a tensor has no elements
  std::string_view type_attribute;  // of Results::kTyped
  uint32_t default_type = 0;        // without the attribute; 0: that of the first input
  const char* limits = "";          // of Rule::kAttributes: names and least values
  uint32_t sizes = 0;               // of Rule::kSizes: the input that holds them
  bool factors = true;              // whether they are multiplied, or each counts alone
};

// The allowed operators as lines of text, for the test that holds them against Python's tables.
std::string operator_table_text();
// Domains as in messages.
std::string known_domains();
// Whether there are allowed operators of that domain.
bool is_known_domain(std::string_view domain);
// False where it is not allowed.
bool find_operator(std::string_view domain, std::string_view op, Operator* out);

// Looks each operator of a file up once.
class OperatorCache {
 public:
  // Null where the operator of a node is not allowed.
  const Operator* find(const ParsedModel& model, const ParsedNode& node);

 private:
  std::map<std::pair<NameId, NameId>, Operator> operators_;
};

// Why ONNX Runtime must not be given this node; empty where nothing speaks against it.
// `known`: its operator; null for a call of a function.
std::string node_fault(ParsedModel& model, const ParsedNode& node, const Operator* known,
                       const Scope& scope);

}  // namespace mmedge::runtime::onnx

#endif  // MMEDGE_RUNTIME_BUNDLE_OPERATORS_H_
