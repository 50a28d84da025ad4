// Which integer divisions of a graph end the process, and which are guarded: the rules of
// mmedge/bundle/integers.py.
//
// The processor traps when the smallest int32 or int64 is divided by -1, and ONNX Runtime lets it,
// for `Mod` until 1.31. So a `Div` or `Mod` whose tensors may be of these types needs a divisor
// that cannot be -1, or a dividend that cannot be the smallest: a constant, or
// `Where(Equal(divisor, -1), 1, divisor)`. What is not known may be an integer.
#ifndef MMEDGE_RUNTIME_BUNDLE_INTEGERS_H_
#define MMEDGE_RUNTIME_BUNDLE_INTEGERS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "bundle/onnx_graph.h"
#include "bundle/operators.h"

namespace mmedge::runtime::onnx {

// What is known of the tensors of a graph, and of bodies inside it, up to some node.
class Scope {
 public:
  // The model must stay, and gets constants that nodes make.
  Scope(ParsedModel& model, OperatorCache& operators)
      : model_(model), operators_(operators), visible_(model.names.size(), 0) {}

  // A graph or body for as long as it is gone through; then its tensors are forgotten.
  class Level {
   public:
    explicit Level(Scope& scope) : scope_(scope), outer_(scope.base_) {
      scope.base_ = scope.symbols_.size();
    }
    ~Level() { scope_.leave(outer_); }
    Level(const Level&) = delete;
    Level& operator=(const Level&) = delete;

   private:
    Scope& scope_;
    size_t outer_;
  };

  // Takes a graph's inputs and constants; a default of an input is no constant. Nodes may stand in
  // any order: a name that a body makes further down is not that of a tensor around it.
  void enter(const ParsedGraph& graph, bool is_body);
  // Takes a node's results. `results`: of a node with bodies or of a function, whether each of its
  // first ones may be an integer; null where the operator tells.
  void add(const ParsedNode& node, const std::vector<char>* results);
  // Takes a tensor of which nothing but that is known.
  void add_input(NameId name, bool may_be_integer) { own(name).may_be_integer = may_be_integer; }

  // Whether a tensor may be int32 or int64.
  bool may_be_integer(NameId name) const;
  // The constant of that name; null: it is computed or comes from outside.
  const ParsedTensor* constant(NameId name) const;
  // Whether a tensor surely has an axis.
  bool has_rank(NameId name) const;
  // The node that makes a tensor; null where it is not known.
  const ParsedNode* maker(NameId name) const;

 private:
  struct Symbol {
    NameId name = kNoName;
    uint32_t shadowed = 0;  // what `visible_` held
    int32_t constant = -1;  // in ParsedModel::tensors
    int32_t maker = -1;     // in ParsedModel::nodes
    int32_t rank = -1;
    bool may_be_integer = true;
    bool is_input = false;
  };

  void leave(size_t outer);
  Symbol& own(NameId name);
  const Symbol* find(NameId name) const {
    return visible_[name] == 0 ? nullptr : &symbols_[visible_[name] - 1];
  }
  void add_constant(NameId name, int32_t tensor);
  int32_t constant_of(ParsedAttribute& attribute);
  bool add_constant_node(const ParsedNode& node);
  bool results_may_be_integer(const ParsedNode& node, const Operator* known) const;
  bool input_may_be_integer(const ParsedNode& node, uint32_t index) const;

  ParsedModel& model_;
  OperatorCache& operators_;
  std::vector<uint32_t> visible_;  // by name the place after the innermost symbol; 0: none
  std::vector<Symbol> symbols_;    // those of inner bodies behind those around them
  size_t base_ = 0;                // where those of the innermost begin
};

// Why a `Div` or `Mod` may end the process; empty where it cannot.
std::string division_fault(ParsedModel& model, const ParsedNode& node, const Scope& scope);

}  // namespace mmedge::runtime::onnx

#endif  // MMEDGE_RUNTIME_BUNDLE_INTEGERS_H_
