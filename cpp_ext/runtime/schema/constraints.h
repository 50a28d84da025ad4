// Relations between dynamic sizes: read strictly, evaluated exactly: mmedge/constraints.py.
//
// docs/reference/bundle.md, "Constraint", has the grammar and its meaning.
#ifndef MMEDGE_RUNTIME_SCHEMA_CONSTRAINTS_H_
#define MMEDGE_RUNTIME_SCHEMA_CONSTRAINTS_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "spec.h"

namespace mmedge::runtime {

// Relations of a bundle; characters, tokens and nesting of one of them; tokens of all.
constexpr size_t kMaxConstraints = 256, kMaxExpression = 1000, kMaxTokens = 256, kMaxDepth = 32;
constexpr size_t kMaxAllTokens = 2048;

// A size that is not known yet. Relations in which it occurs are not looked at.
constexpr int64_t kUnknownSize = -1;

using Sizes = std::map<std::string, int64_t>;  // dimension to size

// A relation that has been read: operations on a small stack.
class Expression {
 public:
  // The dimensions in it, and how many numbers, names, operators and brackets it has.
  const std::set<std::string>& names() const { return names_; }
  size_t tokens() const { return tokens_; }

  // Says in which of an array's places each name's size is: its index in `names`, which has all.
  void bind(const std::vector<std::string>& names);
  // Whether it holds; a division by 0 or a number past 2^63 - 1 to either side of 0 breaks it.
  // Takes the sizes at the places that `bind` was given; each is at least 0.
  bool holds(const int64_t* sizes) const noexcept;
  // Whether all its dimensions have a size.
  bool is_known(const int64_t* sizes) const noexcept;

 private:
  friend class ExpressionParser;

  enum class Operator : uint8_t {
    kNumber,
    kName,
    kNot,
    kAdd,
    kSubtract,
    kMultiply,
    kDivide,
    kModulo,
    kMin,
    kMax,
    kEqual,
    kUnequal,
    kLess,
    kLessEqual,
    kGreater,
    kGreaterEqual,
    kSkipIfFalse,  // "and": jumps past what follows, or drops the truth so far
    kSkipIfTrue,   // "or"
  };
  struct Operation {
    Operator op;
    int64_t number;  // the number, the name's place, or where a jump leads
  };

  // False: a number past the largest, or a division by 0.
  static bool compute(Operator op, int64_t a, int64_t b, int64_t* result) noexcept;

  std::vector<Operation> operations_;
  std::set<std::string> names_;
  std::vector<std::string> order_;  // names by the numbers that operations had before `bind`
  std::vector<size_t> places_;      // of each name of `order_`
  size_t tokens_ = 0;
};

// Reads a relation; null where `text` is none, and `fault` says what was expected where.
std::optional<Expression> parse_expression(std::string_view text, std::string* fault);

// The limits of a bundle's dimensions and the relations between them.
//
// It is made once. The functions on arrays are for every call: they allocate nothing. Such an array
// has the size of each dimension at its index in `names()`, or kUnknownSize.
class Relations {
 public:
  // Throws Error: a constraint that is no relation. A manifest that was read has none.
  Relations(const std::map<std::string, Dimension>& dimensions,
            const std::vector<Constraint>& constraints);

  bool any() const { return !relations_.empty(); }
  // Every dimension, in order of name.
  const std::vector<std::string>& names() const { return names_; }
  // The index of a dimension; names().size() where it is none.
  size_t index(const std::string& name) const;

  static constexpr size_t kNone = static_cast<size_t>(-1);
  // The first relation that is broken; kNone where every one holds.
  size_t first_broken(const int64_t* sizes) const noexcept;
  bool holds(const int64_t* sizes) const noexcept { return first_broken(sizes) == kNone; }
  // Gives every dimension without a size one: what stands in for what is absent (the page's "Sizes
  // of an absent modality"). `scratch` has as many places. False where no choice keeps all
  // relations; the sizes are then the smallest.
  bool complete(int64_t* sizes, int64_t* scratch) const noexcept;

  // What a broken relation says of sizes, in words.
  std::string describe(size_t broken, const int64_t* sizes) const;

  // The same by name. `fault` is empty where every relation holds.
  std::string fault(const Sizes& sizes) const;
  Sizes complete(const Sizes& sizes) const;

 private:
  struct Relation {
    Constraint constraint;
    Expression expression;
  };

  std::vector<int64_t> by_index(const Sizes& sizes) const;
  bool keeps_open(const int64_t* sizes, const int64_t* candidate) const noexcept;
  bool advance(const int64_t* sizes, int64_t* candidate) const noexcept;
  int64_t next_candidate(size_t name, int64_t after, const int64_t* sizes) const noexcept;

  std::vector<std::string> names_;
  std::vector<Dimension> limits_;      // by index
  std::vector<Relation> relations_;
  std::vector<size_t> related_names_;  // indices of what relations name, in order of name
};

// Whether a size is within the limits of a dimension, relations to others aside.
bool allows(const Dimension& dimension, int64_t size) noexcept;
// The sizes that a dimension may have, in words.
std::string spans(const Dimension& dimension);
// The smallest size from `size` on that a dimension may have; its largest where there is none.
int64_t round_up(const Dimension& dimension, int64_t size) noexcept;

}  // namespace mmedge::runtime

#endif  // MMEDGE_RUNTIME_SCHEMA_CONSTRAINTS_H_
