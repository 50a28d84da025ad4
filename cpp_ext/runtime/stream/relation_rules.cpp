// A bundle's relations between sizes.
#include "stream/relation_rules.h"

#include <algorithm>
#include <cstring>

#include "execution/inputs.h"
#include "stream/text.h"

namespace mmedge::runtime::stream {

RelationRules::RelationRules(const Manifest& manifest)
    : relations_(call_dimensions(manifest), manifest.constraints) {
  for (const Constraint& constraint : manifest.constraints) {
    Wording wording;
    std::string fault;
    const std::optional<Expression> expression =
        parse_expression(constraint.expression, &fault);
    if (expression) {
      for (const std::string& name : expression->names()) {
        wording.names.emplace_back(name, relations_.index(name));
      }
    }
    wording.rest = ": this bundle takes only " + constraint.expression + ", because of " +
                   constraint.source +
                   "\n  What to do: pass sizes that keep it; elsewhere the network does something "
                   "else, which is not in this bundle's graphs";
    wordings_.push_back(std::move(wording));
  }
}

bool RelationRules::is_broken(const int64_t* sizes, char* text, size_t capacity) const noexcept {
  const size_t broken = relations_.first_broken(sizes);
  if (broken == Relations::kNone) return false;
  Text fault("sizes ");
  const char* separator = "";
  for (const auto& [name, place] : wordings_[broken].names) {
    fault.add(separator).add(std::string_view(name)).add("=").add_whole(sizes[place]);
    separator = ", ";
  }
  fault.add(std::string_view(wordings_[broken].rest));
  const size_t count = std::min(fault.view().size(), capacity - 1);
  std::memcpy(text, fault.view().data(), count);
  text[count] = '\0';
  return true;
}

}  // namespace mmedge::runtime::stream
