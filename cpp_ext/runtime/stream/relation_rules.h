// A bundle's relations between sizes, as a stream asks for them: without allocation.
#ifndef MMEDGE_RUNTIME_STREAM_RELATION_RULES_H_
#define MMEDGE_RUNTIME_STREAM_RELATION_RULES_H_

#include <string>
#include <utility>
#include <vector>

#include "schema/constraints.h"
#include "spec.h"
#include "stream/options.h"

namespace mmedge::runtime::stream {

class RelationRules : public SizeRules {
 public:
  // Throws Error: a constraint that is no relation.
  explicit RelationRules(const Manifest& manifest);

  bool any() const noexcept override { return relations_.any(); }
  bool is_broken(const int64_t* sizes, char* text, size_t capacity) const noexcept override;

 private:
  struct Wording {
    std::vector<std::pair<std::string, size_t>> names;  // with the place of their sizes
    std::string rest;
  };

  Relations relations_;
  std::vector<Wording> wordings_;
};

}  // namespace mmedge::runtime::stream

#endif  // MMEDGE_RUNTIME_STREAM_RELATION_RULES_H_
