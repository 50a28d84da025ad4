// The relations of a bundle at sizes of a call, and sizes for what a call leaves out.
#include "schema/constraints.h"

#include <algorithm>

#include "error.h"

namespace mmedge::runtime {
namespace {

// Combinations of sizes that `complete` tries, and sizes in a row for each dimension.
constexpr size_t kTries = 4096;
constexpr int64_t kSteps = 64;

}  // namespace

Relations::Relations(const std::map<std::string, Dimension>& dimensions,
                     const std::vector<Constraint>& constraints) {
  for (const auto& [name, limits] : dimensions) {
    names_.push_back(name);
    limits_.push_back(limits);
  }
  std::set<std::string> related;
  for (const Constraint& constraint : constraints) {
    std::string fault;
    std::optional<Expression> expression = parse_expression(constraint.expression, &fault);
    if (!expression) throw Error(Code::kBundle, constraint.expression + ": expected " + fault);
    expression->bind(names_);
    for (const std::string& name : expression->names()) {
      if (index(name) == names_.size()) {
        throw Error(Code::kBundle, constraint.expression + ": expected names of dimensions, got " +
                                       "unknown dimension '" + name + "'");
      }
      related.insert(name);
    }
    relations_.push_back({constraint, *std::move(expression)});
  }
  for (const std::string& name : related) related_names_.push_back(index(name));
}

size_t Relations::index(const std::string& name) const {
  const auto place = std::lower_bound(names_.begin(), names_.end(), name);
  return place != names_.end() && *place == name ? static_cast<size_t>(place - names_.begin())
                                                 : names_.size();
}

size_t Relations::first_broken(const int64_t* sizes) const noexcept {
  for (size_t i = 0; i < relations_.size(); ++i) {
    const Expression& expression = relations_[i].expression;
    if (expression.is_known(sizes) && !expression.holds(sizes)) return i;
  }
  return kNone;
}

bool Relations::keeps_open(const int64_t* sizes, const int64_t* candidate) const noexcept {
  for (const Relation& relation : relations_) {
    // Of the others it is known that they hold.
    if (!relation.expression.is_known(sizes) && !relation.expression.holds(candidate)) return false;
  }
  return true;
}

// The smallest size above `after` that is tried for a dimension; kUnknownSize where none is left.
int64_t Relations::next_candidate(size_t name, int64_t after,
                                  const int64_t* sizes) const noexcept {
  const Dimension& limits = limits_[name];
  const int64_t step = limits.multiple;
  int64_t best = kUnknownSize;
  const auto offer = [&](int64_t size) {
    if (size > after && allows(limits, size) && (best == kUnknownSize || size < best)) best = size;
  };
  const int64_t steps = after < limits.min ? 0 : (after - limits.min) / step + 1;
  int64_t size = 0;
  if (steps < kSteps && !__builtin_mul_overflow(steps, step, &size) &&
      !__builtin_add_overflow(size, limits.min, &size)) {
    offer(size);
  }
  for (size_t i = 0; i < names_.size(); ++i) {
    if (sizes[i] < 0) continue;
    const int64_t nearest = round_up(limits, sizes[i]);
    offer(nearest);
    if (!__builtin_add_overflow(nearest, step, &size)) offer(size);
  }
  return best;
}

bool Relations::complete(int64_t* sizes, int64_t* scratch) const noexcept {
  const size_t count = names_.size();
  for (size_t i = 0; i < count; ++i) scratch[i] = sizes[i] < 0 ? limits_[i].min : sizes[i];
  const auto finish = [&](bool found) {
    for (size_t i = 0; i < count; ++i) {
      if (sizes[i] < 0) sizes[i] = found ? scratch[i] : limits_[i].min;
    }
    return found;
  };
  if (holds(scratch)) return finish(true);
  if (!holds(sizes)) return finish(false);
  for (const size_t name : related_names_) {
    if (sizes[name] >= 0) continue;
    scratch[name] = next_candidate(name, -1, sizes);
    if (scratch[name] == kUnknownSize) return finish(false);
  }
  for (size_t tries = 0; tries < kTries; ++tries) {
    if (keeps_open(sizes, scratch)) return finish(true);
    if (!advance(sizes, scratch)) break;
  }
  return finish(false);
}

// Goes on to the next combination of sizes: the last name changes fastest. False behind the last.
bool Relations::advance(const int64_t* sizes, int64_t* candidate) const noexcept {
  for (size_t at = related_names_.size(); at > 0; --at) {
    const size_t name = related_names_[at - 1];
    if (sizes[name] >= 0) continue;
    const int64_t next = next_candidate(name, candidate[name], sizes);
    candidate[name] = next == kUnknownSize ? next_candidate(name, -1, sizes) : next;
    if (next != kUnknownSize) return true;
  }
  return false;
}

std::string Relations::describe(size_t broken, const int64_t* sizes) const {
  const Relation& relation = relations_[broken];
  std::string words;
  for (const std::string& name : relation.expression.names()) {
    words += (words.empty() ? "" : ", ") + name + "=" + std::to_string(sizes[index(name)]);
  }
  return "sizes " + words + ": this bundle takes only " + relation.constraint.expression +
         ", because of " + relation.constraint.source +
         "\n  What to do: pass sizes that keep it; elsewhere the network does something else, "
         "which is not in this bundle's graphs";
}

std::vector<int64_t> Relations::by_index(const Sizes& sizes) const {
  std::vector<int64_t> places(names_.size(), kUnknownSize);
  for (const auto& [name, size] : sizes) {
    const size_t place = index(name);
    if (place < places.size()) places[place] = size;
  }
  return places;
}

std::string Relations::fault(const Sizes& sizes) const {
  const std::vector<int64_t> places = by_index(sizes);
  const size_t broken = first_broken(places.data());
  return broken == kNone ? "" : describe(broken, places.data());
}

Sizes Relations::complete(const Sizes& sizes) const {
  std::vector<int64_t> places = by_index(sizes), scratch(places.size());
  complete(places.data(), scratch.data());
  Sizes completed = sizes;
  for (size_t i = 0; i < places.size(); ++i) completed[names_[i]] = places[i];
  return completed;
}

bool allows(const Dimension& dimension, int64_t size) noexcept {
  return dimension.min <= size && (!dimension.max || size <= *dimension.max) &&
         size % dimension.multiple == 0;
}

std::string spans(const Dimension& dimension) {
  std::string words = std::to_string(dimension.min) + " to " +
                      (dimension.max ? std::to_string(*dimension.max) : "any");
  if (dimension.multiple != 1) words += " in multiples of " + std::to_string(dimension.multiple);
  return words;
}

int64_t round_up(const Dimension& dimension, int64_t size) noexcept {
  const int64_t rest = size % dimension.multiple;
  int64_t rounded = size;
  if (rest > 0 && __builtin_add_overflow(size, dimension.multiple - rest, &rounded)) {
    rounded = size - rest;  // no size above it fits into 64 bits
  }
  rounded = std::max(rounded, dimension.min);
  return dimension.max ? std::min(rounded, *dimension.max) : rounded;
}

}  // namespace mmedge::runtime
