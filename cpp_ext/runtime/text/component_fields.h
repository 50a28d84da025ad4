// Reads fields of a component of a tokenizer file. Each throws Error(kBundle) where the library would
// not take the file.
#ifndef MMEDGE_RUNTIME_TEXT_COMPONENT_FIELDS_H_
#define MMEDGE_RUNTIME_TEXT_COMPONENT_FIELDS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "schema/json.h"
#include "text/pattern.h"

namespace mmedge::runtime {

// A component, and its place in the file for messages.
struct ComponentFields {
  JsonValue value;
  std::string where;

  std::string type() const { return text("type"); }
  std::string text(const char* name) const;
  // A single character.
  uint32_t character(const char* name) const;
  bool flag(const char* name) const;
  bool flag(const char* name, bool otherwise) const;
  int64_t count(const char* name) const;
  Pattern pattern() const;
  // A field that is there and not null.
  std::optional<JsonValue> find(const char* name) const;
  [[noreturn]] void refuse(const char* name, const char* expected) const;
};

// The components of a part, those inside sequences in their order; none where it is null. `parts` is
// the field of a sequence.
std::vector<ComponentFields> flatten(const std::optional<JsonValue>& value, const char* parts,
                                     const std::string& where);

// Text of a string that is UTF-8. Throws Error(kBundle).
std::string read_text(JsonValue value, const std::string& where);

}  // namespace mmedge::runtime

#endif  // MMEDGE_RUNTIME_TEXT_COMPONENT_FIELDS_H_
