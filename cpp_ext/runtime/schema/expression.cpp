// The grammar of a relation, and how one is evaluated.
#include <algorithm>
#include <iterator>

#include "schema/constraints.h"
#include "schema/read.h"
#include "schema/utf8.h"

namespace mmedge::runtime {
namespace {

constexpr int64_t kLargest = INT64_MAX;

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_word_start(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}

bool is_reserved(std::string_view word) {
  constexpr std::string_view kWords[] = {"and", "or", "not", "min", "max"};
  return std::find(std::begin(kWords), std::end(kWords), word) != std::end(kWords);
}

// Length of the number, name or operator that a text begins with; 0 where there is none.
size_t token_length(std::string_view text) {
  size_t length = 1;
  if (is_digit(text[0])) {
    while (length < text.size() && is_digit(text[length])) ++length;
    return length;
  }
  if (is_word_start(text[0])) {
    while (length < text.size() && (is_word_start(text[length]) || is_digit(text[length]))) ++length;
    return length;
  }
  const std::string_view two = text.substr(0, 2);
  for (const char* operation : {"//", "==", "!=", "<=", ">="}) {
    if (two == operation) return 2;
  }
  return std::string_view("-+*%<>(),").find(text[0]) != std::string_view::npos ? 1 : 0;
}

}  // namespace

// Recursive descent: one method for each rule of the grammar, with the depth so far. Each appends
// its operations, and says whether what it read is a relation or a number.
class ExpressionParser {
 public:
  ExpressionParser(std::string_view text, Expression* out) : text_(text), out_(*out) {}

  void read() {
    const size_t characters = count_characters(text_);
    if (characters > kMaxExpression) {
      throw Fault{"at most " + std::to_string(kMaxExpression) + " characters, got " +
                  std::to_string(characters)};
    }
    split();
    const Kind kind = read_or(0);
    if (!at_end()) misfit("the end or an operator");
    if (kind != Kind::kRelation) {
      const size_t begin = std::min(text_.find_first_not_of(' '), text_.size());
      std::string text(text_.substr(begin, text_.find_last_not_of(' ') + 1 - begin));
      throw Fault{"a relation such as " + text + " == 0, got a number"};
    }
    out_.tokens_ = tokens_.size();
  }

  struct Fault {
    std::string text;
  };

 private:
  enum class Kind { kNumber, kRelation };
  using Operator = Expression::Operator;
  using Reader = Kind (ExpressionParser::*)(size_t);
  struct Symbol {
    const char* text;
    Operator op;
  };

  void split() {
    size_t at = 0;
    const size_t end = text_.find_last_not_of(' ') + 1;  // 0 where there are only spaces
    while (at < end) {
      const size_t begin = text_.find_first_not_of(' ', at);
      const size_t length = token_length(text_.substr(begin));
      if (length == 0) {
        throw Fault{"a number, a dimension or an operator, got " + show(text_.substr(at, 20))};
      }
      const std::string_view token = text_.substr(begin, length);
      int64_t number = 0;
      if (is_digit(token[0]) && !parse_number(token, &number)) {
        throw Fault{"numbers up to " + std::to_string(kLargest) + ", got " +
                    std::string(token.substr(0, 30))};
      }
      tokens_.push_back(token);
      at = begin + length;
      if (tokens_.size() > kMaxTokens) {
        throw Fault{"at most " + std::to_string(kMaxTokens) + " numbers, names and operators"};
      }
    }
  }

  static bool parse_number(std::string_view digits, int64_t* number) {
    if (digits.size() > 19) return false;
    uint64_t value = 0;  // holds any 19 digits
    for (const char digit : digits) value = value * 10 + static_cast<uint64_t>(digit - '0');
    *number = static_cast<int64_t>(value);
    return value <= static_cast<uint64_t>(kLargest);
  }

  bool at_end() const { return at_ == tokens_.size(); }

  [[noreturn]] void misfit(const std::string& expected) const {
    const std::string got = at_end() ? "the end" : "'" + std::string(tokens_[at_]) + "'";
    throw Fault{expected + ", got " + got + " at token " + std::to_string(at_ + 1)};
  }

  bool take(std::string_view token) {
    if (at_end() || tokens_[at_] != token) return false;
    ++at_;
    return true;
  }

  void need(std::string_view token) {
    if (!take(token)) misfit("'" + std::string(token) + "'");
  }

  void check_depth(size_t depth) const {
    if (depth > kMaxDepth) throw Fault{"nested at most " + std::to_string(kMaxDepth) + " deep"};
  }

  void check_kind(Kind expected, Kind kind) const {
    if (kind == expected) return;
    const char* words = expected == Kind::kRelation ? "a relation, got a number before token "
                                                    : "a number, got a relation before token ";
    throw Fault{words + std::to_string(at_ + 1)};
  }

  void emit(Operator op, int64_t number = 0) { out_.operations_.push_back({op, number}); }

  Kind read_or(size_t depth) {
    check_depth(depth);
    return join("or", Operator::kSkipIfTrue, &ExpressionParser::read_and, depth);
  }

  Kind read_and(size_t depth) {
    return join("and", Operator::kSkipIfFalse, &ExpressionParser::read_not, depth);
  }

  Kind join(const char* word, Operator skip, Reader read_part, size_t depth) {
    const Kind kind = (this->*read_part)(depth);
    std::vector<size_t> jumps;
    while (take(word)) {
      jumps.push_back(out_.operations_.size());
      emit(skip);
      const Kind also = (this->*read_part)(depth);
      check_kind(Kind::kRelation, kind);
      check_kind(Kind::kRelation, also);
    }
    for (const size_t jump : jumps) {
      out_.operations_[jump].number = static_cast<int64_t>(out_.operations_.size());
    }
    return jumps.empty() ? kind : Kind::kRelation;
  }

  Kind read_not(size_t depth) {
    if (!take("not")) return read_comparison(depth);
    check_depth(depth);
    check_kind(Kind::kRelation, read_not(depth + 1));
    emit(Operator::kNot);
    return Kind::kRelation;
  }

  Kind read_comparison(size_t depth) {
    constexpr Symbol kCompare[] = {
        {"==", Operator::kEqual},     {"!=", Operator::kUnequal}, {"<", Operator::kLess},
        {"<=", Operator::kLessEqual}, {">", Operator::kGreater},  {">=", Operator::kGreaterEqual},
    };
    const Kind kind = read_sum(depth);
    for (const Symbol& symbol : kCompare) {
      if (!take(symbol.text)) continue;
      const Kind also = read_sum(depth);
      check_kind(Kind::kNumber, kind);
      check_kind(Kind::kNumber, also);
      emit(symbol.op);
      return Kind::kRelation;
    }
    return kind;
  }

  Kind read_sum(size_t depth) {
    constexpr Symbol kSums[] = {{"+", Operator::kAdd}, {"-", Operator::kSubtract}};
    return chain(std::begin(kSums), std::end(kSums), &ExpressionParser::read_product, depth);
  }

  Kind read_product(size_t depth) {
    constexpr Symbol kProducts[] = {
        {"*", Operator::kMultiply}, {"//", Operator::kDivide}, {"%", Operator::kModulo}};
    return chain(std::begin(kProducts), std::end(kProducts), &ExpressionParser::read_factor, depth);
  }

  // Operators of one rank, from the left.
  Kind chain(const Symbol* begin, const Symbol* end, Reader read_operand, size_t depth) {
    const Kind kind = (this->*read_operand)(depth);
    for (;;) {
      const Symbol* symbol =
          std::find_if(begin, end, [&](const Symbol& each) { return take(each.text); });
      if (symbol == end) return kind;
      const Kind also = (this->*read_operand)(depth);
      check_kind(Kind::kNumber, kind);
      check_kind(Kind::kNumber, also);
      emit(symbol->op);
    }
  }

  Kind read_factor(size_t depth) {
    check_depth(depth);
    if (take("-")) {
      emit(Operator::kNumber, 0);
      check_kind(Kind::kNumber, read_factor(depth + 1));
      emit(Operator::kSubtract);
      return Kind::kNumber;
    }
    if (take("(")) {
      const Kind kind = read_or(depth + 1);
      need(")");
      return kind;
    }
    if (take("min")) return read_call("min", Operator::kMin, depth);
    if (take("max")) return read_call("max", Operator::kMax, depth);
    if (at_end()) misfit("a number or a dimension");
    const std::string_view token = tokens_[at_];
    int64_t number = 0;
    if (is_digit(token[0])) {
      parse_number(token, &number);
      emit(Operator::kNumber, number);
    } else if (is_reserved(token) || !is_word_start(token[0])) {
      misfit("a number or a dimension");
    } else {
      emit(Operator::kName, name_number(token));
    }
    ++at_;
    return Kind::kNumber;
  }

  int64_t name_number(std::string_view token) {
    std::string name(token);
    auto& order = out_.order_;
    const auto place = std::find(order.begin(), order.end(), name);
    const int64_t number = place - order.begin();
    if (place == order.end()) {
      order.push_back(name);
      out_.names_.insert(std::move(name));
    }
    return number;
  }

  Kind read_call(const char* word, Operator op, size_t depth) {
    need("(");
    size_t parts = 0;
    do {
      check_kind(Kind::kNumber, read_sum(depth + 1));
      if (++parts > 1) emit(op);
    } while (take(","));
    need(")");
    if (parts < 2) throw Fault{std::string(word) + " of at least two numbers"};
    return Kind::kNumber;
  }

  std::string_view text_;
  Expression& out_;
  std::vector<std::string_view> tokens_;
  size_t at_ = 0;
};

std::optional<Expression> parse_expression(std::string_view text, std::string* fault) {
  Expression expression;
  try {
    ExpressionParser(text, &expression).read();
  } catch (const ExpressionParser::Fault& found) {
    *fault = found.text;
    return std::nullopt;
  }
  return expression;
}

void Expression::bind(const std::vector<std::string>& names) {
  places_.clear();
  for (const std::string& name : order_) {
    places_.push_back(static_cast<size_t>(std::find(names.begin(), names.end(), name) -
                                          names.begin()));
  }
}

bool Expression::is_known(const int64_t* sizes) const noexcept {
  for (const size_t place : places_) {
    if (sizes[place] < 0) return false;
  }
  return true;
}

bool Expression::compute(Operator op, int64_t a, int64_t b, int64_t* result) noexcept {
  switch (op) {
    case Operator::kAdd:
      return !__builtin_add_overflow(a, b, result) && *result >= -kLargest;
    case Operator::kSubtract:
      return !__builtin_sub_overflow(a, b, result) && *result >= -kLargest;
    case Operator::kMultiply:
      return !__builtin_mul_overflow(a, b, result) && *result >= -kLargest;
    case Operator::kDivide:
    case Operator::kModulo: {
      if (b == 0) return false;
      // Numbers are at least -kLargest, so that no quotient is too large.
      const int64_t rest = a % b;
      const bool down = rest != 0 && (rest < 0) != (b < 0);
      *result = op == Operator::kDivide ? a / b - down : rest + (down ? b : 0);
      return true;
    }
    case Operator::kMin:
      return *result = std::min(a, b), true;
    case Operator::kMax:
      return *result = std::max(a, b), true;
    case Operator::kEqual:
      return *result = a == b, true;
    case Operator::kUnequal:
      return *result = a != b, true;
    case Operator::kLess:
      return *result = a < b, true;
    case Operator::kLessEqual:
      return *result = a <= b, true;
    case Operator::kGreater:
      return *result = a > b, true;
    case Operator::kGreaterEqual:
      return *result = a >= b, true;
    default:
      return false;
  }
}

bool Expression::holds(const int64_t* sizes) const noexcept {
  int64_t stack[kMaxTokens + 1];  // each value on it has a token of its own, or is a minus's 0
  size_t depth = 0;
  for (size_t at = 0; at < operations_.size(); ++at) {
    const Operation& operation = operations_[at];
    switch (operation.op) {
      case Operator::kNumber:
        stack[depth++] = operation.number;
        break;
      case Operator::kName:
        stack[depth++] = sizes[places_[static_cast<size_t>(operation.number)]];
        break;
      case Operator::kNot:
        stack[depth - 1] = stack[depth - 1] == 0;
        break;
      case Operator::kSkipIfFalse:
      case Operator::kSkipIfTrue:
        if ((stack[depth - 1] != 0) == (operation.op == Operator::kSkipIfTrue)) {
          at = static_cast<size_t>(operation.number) - 1;
        } else {
          --depth;
        }
        break;
      default:
        --depth;
        if (!compute(operation.op, stack[depth - 1], stack[depth], &stack[depth - 1])) return false;
    }
  }
  return stack[0] != 0;
}

}  // namespace mmedge::runtime
