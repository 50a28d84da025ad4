// Tables of operators, word lists in the layout of mmedge/bundle/operators.py, and their rules.
#include "bundle/operators.h"

#include <algorithm>
#include <charconv>

#include "bundle/integers.h"
#include "bundle/paths.h"

namespace mmedge::runtime::onnx {
namespace {

// Operators whose results are never int32 or int64, whatever they take.
constexpr std::string_view kFloat =
    "Acos Acosh AffineGrid And Asin Asinh Atan Atanh Attention AveragePool BatchNormalization "
    "CausalConvWithState Ceil Celu Conv ConvTranspose Cos Cosh DFT DeformConv DequantizeLinear Det "
    "Dropout DynamicQuantizeLinear Elu Equal Exp Floor GRU Gelu GlobalAveragePool GlobalLpPool "
    "GlobalMaxPool Greater GreaterOrEqual GroupNormalization HardSigmoid HardSwish Hardmax "
    "InstanceNormalization IsInf IsNaN LRN LSTM LayerNormalization LeakyRelu Less LessOrEqual "
    "LinearAttention Log LogSoftmax LpNormalization LpPool MaxRoiPool MaxUnpool Mean "
    "MeanVarianceNormalization Mish NegativeLogLikelihoodLoss Not OptionalHasElement Or "
    "QLinearConv QLinearMatMul QuantizeLinear RMSNormalization RNN RandomNormal RandomNormalLike "
    "RandomUniform RandomUniformLike Reciprocal RoiAlign RotaryEmbedding Round STFT Selu Sigmoid "
    "Sin Sinh Softmax SoftmaxCrossEntropyLoss Softplus Softsign Sqrt Sum SwiGLU Swish Tan Tanh "
    "ThresholdedRelu Xor";

// Operators whose every result is of the type of their first, second or third input.
constexpr std::string_view kFirst =
    "Abs Add BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor CenterCropPad Clip Col2Im "
    "Compress Concat CumProd CumSum DepthToSpace Div Einsum Erf Expand Flatten Gather "
    "GatherElements GatherND Gemm GridSample Identity MatMul Max Min Mod Mul Neg PRelu Pad Pow "
    "Range ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin "
    "ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize ReverseSequence Scatter "
    "ScatterElements ScatterND Shrink Sign Slice SpaceToDepth Split Squeeze Sub TensorScatter Tile "
    "Transpose Trilu Unsqueeze Upsample";
constexpr std::string_view kSecond = "CastLike Where";
constexpr std::string_view kThird = "OneHot";

// Operators of several results of which only the first is known.
constexpr std::string_view kFirstOfFirst = "TopK Unique";
constexpr std::string_view kFirstFloat = "MaxPool";

constexpr std::string_view kOfValue = "ConstantOfShape";

// Operators whose results may be int32 or int64, or sequences; also those with bodies.
constexpr std::string_view kOther =
    "ArgMax ArgMin ConcatFromSequence Constant ConvInteger If Loop MatMulInteger Multinomial "
    "NonMaxSuppression NonZero Optional OptionalGetElement Scan SequenceAt SequenceConstruct "
    "SequenceEmpty SequenceErase SequenceInsert SequenceLength SequenceMap Shape Size "
    "SplitToSequence";

// Operators whose results have the type that an attribute holds.
struct Typed {
  std::string_view op;
  std::string_view attribute;
  uint32_t kind;
};
constexpr Typed kTyped[] = {
    {"Bernoulli", "dtype", 0},
    {"BitCast", "to", 0},
    {"BlackmanWindow", "output_datatype", kOnnxFloat},
    {"Cast", "to", 0},
    {"EyeLike", "dtype", 0},
    {"HammingWindow", "output_datatype", kOnnxFloat},
    {"HannWindow", "output_datatype", kOnnxFloat},
    {"MelWeightMatrix", "output_datatype", kOnnxFloat},
};

// Those of ONNX Runtime's own domain: what it and its quantiser make of networks. All give floats,
// booleans or integers of at most 16 bits.
constexpr std::string_view kMicrosoft =
    "Attention BiasGelu BiasSoftmax DequantizeLinear DynamicQuantizeLSTM FastGelu FusedConv "
    "FusedMatMul GatherBlockQuantized Gelu GroupQueryAttention MatMulBnb4 MatMulIntegerToFloat "
    "MatMulNBits MoE MultiHeadAttention NhwcMaxPool QAttention QGemm QLinearAdd QLinearConcat "
    "QLinearConv QLinearGlobalAveragePool QLinearMul QMoE QuantizeLinear QuickGelu RotaryEmbedding "
    "SkipLayerNormalization SkipSimplifiedLayerNormalization TransposeMatMul";

// Those of classical machine learning, without strings and maps.
constexpr std::string_view kMl =
    "ArrayFeatureExtractor Binarizer FeatureVectorizer Imputer LabelEncoder LinearClassifier "
    "LinearRegressor Normalizer OneHotEncoder SVMClassifier SVMRegressor Scaler TreeEnsemble "
    "TreeEnsembleClassifier TreeEnsembleRegressor";

constexpr std::string_view kStandardDomain, kMlDomain = "ai.onnx.ml";
constexpr std::string_view kMicrosoftDomain = "com.microsoft";

struct List {
  std::string_view domain;
  std::string_view operators;
  Results results;
};
constexpr List kLists[] = {
    {kStandardDomain, kFloat, Results::kNoIntegers},
    {kStandardDomain, kFirst, Results::kAsFirstInput},
    {kStandardDomain, kSecond, Results::kAsSecondInput},
    {kStandardDomain, kThird, Results::kAsThirdInput},
    {kStandardDomain, kFirstOfFirst, Results::kFirstAsFirstInput},
    {kStandardDomain, kFirstFloat, Results::kFirstNoIntegers},
    {kStandardDomain, kOfValue, Results::kOfValue},
    {kStandardDomain, kOther, Results::kUnknown},
    {kMlDomain, kMl, Results::kUnknown},
    {kMicrosoftDomain, kMicrosoft, Results::kNoIntegers},
};

// Those that end the process when a tensor that they take has no elements.
constexpr List kNeedsElements[] = {
    {kStandardDomain, "ConvTranspose DFT GRU LSTM STFT", Results::kUnknown},
    {kMicrosoftDomain, "DynamicQuantizeLSTM RotaryEmbedding", Results::kUnknown},
};

struct RuleEntry {
  std::string_view domain;
  std::string_view op;
  Rule rule;
  uint32_t sizes = 0;
  bool factors = true;
  const char* limits = "";
};
constexpr RuleEntry kRules[] = {
    {kStandardDomain, "AveragePool", Rule::kKernel},
    {kStandardDomain, "BlackmanWindow", Rule::kSizes, 0},
    {kStandardDomain, "Constant", Rule::kConstant},
    {kStandardDomain, "ConstantOfShape", Rule::kSizes, 0},
    {kStandardDomain, "Conv", Rule::kKernel},
    {kStandardDomain, "ConvTranspose", Rule::kKernel},
    {kStandardDomain, "DFT", Rule::kDft},
    {kStandardDomain, "Expand", Rule::kSizes, 1},
    {kStandardDomain, "GatherND", Rule::kAttributes, 0, true, "batch_dims 0"},
    {kStandardDomain, "HammingWindow", Rule::kSizes, 0},
    {kStandardDomain, "HannWindow", Rule::kSizes, 0},
    {kStandardDomain, "LpPool", Rule::kKernel},
    {kStandardDomain, "MaxPool", Rule::kKernel},
    {kStandardDomain, "OneHot", Rule::kSizes, 1},
    {kStandardDomain, "Pad", Rule::kSizes, 1, false},
    {kStandardDomain, "RandomNormal", Rule::kRandom},
    {kStandardDomain, "RandomUniform", Rule::kRandom},
    {kStandardDomain, "Range", Rule::kRange},
    {kStandardDomain, "Resize", Rule::kSizes, 3},
    {kStandardDomain, "STFT", Rule::kStft},
    {kStandardDomain, "Tile", Rule::kSizes, 1},
    {kStandardDomain, "Unique", Rule::kUnique},
    {kMicrosoftDomain, "Attention", Rule::kAttributes, 0, true, "num_heads 1"},
    {kMicrosoftDomain, "FusedConv", Rule::kKernel},
    {kMicrosoftDomain, "GatherBlockQuantized", Rule::kAttributes, 0, true, "block_size 16"},
    {kMicrosoftDomain, "GroupQueryAttention", Rule::kAttributes, 0, true,
     "num_heads 1 kv_num_heads 1"},
    {kMicrosoftDomain, "MatMulBnb4", Rule::kAttributes, 0, true, "K 1 N 1 block_size 16"},
    {kMicrosoftDomain, "MatMulNBits", Rule::kAttributes, 0, true, "K 1 N 1 bits 1 block_size 16"},
    {kMicrosoftDomain, "MultiHeadAttention", Rule::kAttributes, 0, true, "num_heads 1"},
    {kMicrosoftDomain, "NhwcMaxPool", Rule::kKernel},
    {kMicrosoftDomain, "QAttention", Rule::kAttributes, 0, true, "num_heads 1"},
    {kMicrosoftDomain, "RotaryEmbedding", Rule::kAttributes, 0, true,
     "num_heads 0 rotary_embedding_dim 0"},
};

// The next word of a list, which loses it; empty at the end.
std::string_view next_word(std::string_view* list) {
  const size_t end = std::min(list->find(' '), list->size());
  const std::string_view word = list->substr(0, end);
  list->remove_prefix(std::min(end + 1, list->size()));
  return word;
}

bool has_word(std::string_view list, std::string_view wanted) {
  while (!list.empty()) {
    if (next_word(&list) == wanted) return true;
  }
  return false;
}

// Attributes that may hold any integer: values of a constant, and "to the end" in old slices.
bool holds_any_integer(std::string_view op, std::string_view attribute) {
  return op == "Constant" ? attribute == "value_int" || attribute == "value_ints"
                          : op == "Slice" && (attribute == "starts" || attribute == "ends");
}

std::string too_many(const char* subject) {
  return std::string(subject) + " for more than " + std::to_string(kMaxMade) + " elements";
}

// These attributes stand in the node itself, and are no less.
std::string attributes_fault(ParsedModel& model, const ParsedNode& node, std::string_view limits) {
  while (!limits.empty()) {
    const std::string_view name = next_word(&limits), least = next_word(&limits);
    int64_t limit = 0;
    std::from_chars(least.data(), least.data() + least.size(), limit);
    const ParsedAttribute* attribute = model.attribute(node, name);
    if (attribute == nullptr) continue;
    const Integers& integers = attribute->integers;
    if (attribute->has_reference || (integers.empty() ? 0 : integers.min()) < limit) {
      return "attribute " + quoted(name) + " of less than " + std::to_string(limit);
    }
  }
  return {};
}

std::string kernel_fault(ParsedModel& model, const ParsedNode& node) {
  const ParsedAttribute* attribute = model.attribute(node, "kernel_shape");
  if (attribute == nullptr) return {};
  const Integers& sizes = attribute->integers;
  const bool is_inside = sizes.empty() || (sizes.min() >= 1 && sizes.max() <= kMaxKernel);
  if (is_inside && !attribute->has_reference) return {};
  return "a kernel of sizes " + std::to_string(sizes.empty() ? 0 : sizes.min()) + " to " +
         std::to_string(sizes.empty() ? 0 : sizes.max()) + ", expected 1 to " +
         std::to_string(kMaxKernel) + " along each axis";
}

std::string sizes_fault(const ParsedModel& model, const ParsedNode& node, const Operator& known,
                        const Scope& scope) {
  const ParsedTensor* constant = scope.constant(model.input(node, known.sizes));
  if (constant == nullptr || !constant->has_values || constant->values.empty()) return {};
  const Integers& sizes = constant->values;
  const uint64_t size = known.factors ? sizes.product() : sizes.largest();
  return size > kMaxMade ? too_many("a constant asks") : std::string();
}

std::string range_fault(const ParsedModel& model, const ParsedNode& node, const Scope& scope) {
  int64_t ends[3];
  for (uint32_t i = 0; i < 3; ++i) {
    const ParsedTensor* constant = scope.constant(model.input(node, i));
    if (constant == nullptr || !constant->has_values || constant->values.empty()) return {};
    ends[i] = constant->values.first();
  }
  const auto [start, limit, step] = ends;
  if (step == 0) return {};
  const uint64_t low = static_cast<uint64_t>(std::min(start, limit));
  const uint64_t size = (static_cast<uint64_t>(std::max(start, limit)) - low) / magnitude(step);
  return size > kMaxMade ? too_many("a constant asks") : std::string();
}

std::string random_fault(ParsedModel& model, const ParsedNode& node) {
  const ParsedAttribute* shape = model.attribute(node, "shape");
  if (shape == nullptr) return {};
  if (shape->has_reference) return "a shape that the function's caller chooses";
  return shape->integers.product_of_positive() > kMaxMade ? too_many("asks") : std::string();
}

// Its frames have a step and a length that are known, and no less than 1.
std::string stft_fault(const ParsedModel& model, const ParsedNode& node, const Scope& scope) {
  const NameId window = model.input(node, 2);
  size_t count = 0;
  bool is_positive = true;
  for (const NameId name : {model.input(node, 1), window, model.input(node, 3)}) {
    if (name == kNoName) continue;
    const ParsedTensor* constant = scope.constant(name);
    if (constant == nullptr) return "the step or length of its frames is not constant";
    if (name == window) {
      ++count;
      is_positive = is_positive && constant->elements > 0;
    } else {
      const Integers& values = constant->values;
      count += std::max(1u, values.count());
      is_positive = is_positive && !values.empty() && values.min() >= 1;
    }
  }
  if (count >= 2 && is_positive) return {};
  return "frames without step or length, with which ONNX Runtime ends the process";
}

std::string rule_fault(ParsedModel& model, const ParsedNode& node, const Operator& known,
                       const Scope& scope) {
  switch (known.rule) {
    case Rule::kNone: return {};
    case Rule::kAttributes: return attributes_fault(model, node, known.limits);
    case Rule::kConstant: {
      // Two readers might take another one of several.
      const uint32_t count = node.attributes.size();
      return count == 1 ? std::string() : std::to_string(count) + " values";
    }
    case Rule::kDft:
      if (scope.has_rank(model.input(node, 0))) return {};
      return "input 0 may be a scalar, on which ONNX Runtime ends the process";
    case Rule::kKernel: return kernel_fault(model, node);
    case Rule::kRandom: return random_fault(model, node);
    case Rule::kRange: return range_fault(model, node, scope);
    case Rule::kSizes: return sizes_fault(model, node, known, scope);
    case Rule::kStft: return stft_fault(model, node, scope);
    case Rule::kUnique:
      if (model.attribute(node, "axis") == nullptr) return {};
      return "attribute 'axis', with which ONNX Runtime ends the process on an empty tensor";
  }
  return {};
}

}  // namespace

std::string known_domains() {
  return quoted(kStandardDomain) + ", " + quoted(kMlDomain) + ", " + quoted(kMicrosoftDomain);
}

bool is_known_domain(std::string_view domain) {
  return domain == kStandardDomain || domain == kMlDomain || domain == kMicrosoftDomain;
}

bool find_operator(std::string_view domain, std::string_view op, Operator* out) {
  Operator known;
  bool is_known = false;
  for (const List& list : kLists) {
    if (list.domain != domain || !has_word(list.operators, op)) continue;
    known.results = list.results;
    is_known = true;
  }
  for (const Typed& typed : kTyped) {
    if (domain != kStandardDomain || typed.op != op) continue;
    known.results = Results::kTyped;
    known.type_attribute = typed.attribute;
    known.default_type = typed.kind;
    is_known = true;
  }
  if (!is_known) return false;
  for (const List& list : kNeedsElements) {
    if (list.domain == domain && has_word(list.operators, op)) known.needs_elements = true;
  }
  for (const RuleEntry& entry : kRules) {
    if (entry.domain != domain || entry.op != op) continue;
    known.rule = entry.rule;
    known.sizes = entry.sizes;
    known.factors = entry.factors;
    known.limits = entry.limits;
  }
  *out = known;
  return true;
}

std::string operator_table_text() {
  std::string text;
  const auto add = [&](std::string_view domain, std::string_view op) {
    Operator known;
    if (!find_operator(domain, op, &known)) return;
    for (const std::string& word :
         {std::string(domain), std::string(op), std::to_string(static_cast<int>(known.results)),
          std::string(known.type_attribute), std::to_string(known.default_type),
          std::to_string(known.needs_elements), std::to_string(static_cast<int>(known.rule))}) {
      text += word + ",";
    }
    text.back() = '\n';
  };
  for (const List& list : kLists) {
    for (std::string_view words = list.operators; !words.empty();) {
      add(list.domain, next_word(&words));
    }
  }
  for (const Typed& typed : kTyped) add(kStandardDomain, typed.op);
  return text;
}

const Operator* OperatorCache::find(const ParsedModel& model, const ParsedNode& node) {
  const auto key = std::make_pair(node.domain, node.op);
  const auto place = operators_.find(key);
  if (place != operators_.end()) return &place->second;
  Operator known;
  if (!find_operator(model.text(node.domain), model.text(node.op), &known)) return nullptr;
  return &operators_.emplace(key, known).first->second;
}

std::string node_fault(ParsedModel& model, const ParsedNode& node, const Operator* known,
                       const Scope& scope) {
  for (uint32_t at = node.attributes.begin; at < node.attributes.end; ++at) {
    const ParsedAttribute& attribute = model.attributes[model.items[at]];
    const Integers& integers = attribute.integers;
    if (integers.empty() || (integers.min() >= INT32_MIN && integers.max() <= INT32_MAX)) continue;
    const bool is_standard = node.domain == kNoName;
    if (is_standard && holds_any_integer(model.text(node.op), model.text(attribute.name))) continue;
    return "attribute " + model.quoted_text(attribute.name) + " beyond 32 bits";
  }
  return known == nullptr ? std::string() : rule_fault(model, node, *known, scope);
}

}  // namespace mmedge::runtime::onnx
