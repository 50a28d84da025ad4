// Fields by name, with the types that the library asks for.
#include "text/component_fields.h"

#include "error.h"
#include "schema/utf8.h"
#include "text/text_buffer.h"

namespace mmedge::runtime {

void ComponentFields::refuse(const char* name, const char* expected) const {
  throw Error(Code::kBundle,
              where + "." + name + ": expected " + expected + "; export the bundle again");
}

std::optional<JsonValue> ComponentFields::find(const char* name) const {
  const auto value = this->value.find(name);
  return value && !value->is_null() ? value : std::nullopt;
}

std::string ComponentFields::text(const char* name) const {
  const auto value = find(name);
  if (!value) refuse(name, "a string");
  return read_text(*value, where + "." + name);
}

uint32_t ComponentFields::character(const char* name) const {
  const std::string all = text(name);
  if (count_characters(all) != 1) refuse(name, "one character");
  size_t at = 0;
  return read_character(all, &at);
}

bool ComponentFields::flag(const char* name) const {
  const auto value = find(name);
  if (!value || (!value->is(JsonKind::kTrue) && !value->is(JsonKind::kFalse))) {
    refuse(name, "true or false");
  }
  return value->is(JsonKind::kTrue);
}

bool ComponentFields::flag(const char* name, bool otherwise) const {
  return find(name) ? flag(name) : otherwise;
}

int64_t ComponentFields::count(const char* name) const {
  const auto value = find(name);
  int64_t number = 0;
  if (!value || !value->integer(&number) || number < 0) refuse(name, "a whole number from 0");
  return number;
}

Pattern ComponentFields::pattern() const {
  const auto value = find("pattern");
  const std::string place = where + ".pattern";
  if (value && value->is(JsonKind::kObject) && value->size() == 1) {
    const JsonValue kind = value->first();
    const std::string text = read_text(kind.next(), place);
    if (kind.equals("Regex")) return Pattern(text, true, place);
    if (kind.equals("String")) return Pattern(text, false, place);
  }
  refuse("pattern", "a String or a Regex");
}

std::vector<ComponentFields> flatten(const std::optional<JsonValue>& value, const char* parts,
                                     const std::string& where) {
  std::vector<ComponentFields> all;
  if (!value || value->is_null()) return all;
  const ComponentFields component{*value, where};
  if (component.type() != "Sequence") {
    all.push_back(component);
    return all;
  }
  const auto sequence = component.find(parts);
  if (!sequence || !sequence->is(JsonKind::kList)) component.refuse(parts, "a list");
  if (sequence->size() == 0) return all;
  JsonValue part = sequence->first();
  for (size_t i = 0; i < sequence->size(); ++i, part = part.next()) {
    for (ComponentFields& each :
         flatten(part, parts, where + "." + parts + "[" + std::to_string(i) + "]")) {
      all.push_back(std::move(each));
    }
  }
  return all;
}

std::string read_text(JsonValue value, const std::string& where) {
  if (!value.is(JsonKind::kString)) {
    throw Error(Code::kBundle, where + ": expected a string; export the bundle again");
  }
  std::string text = value.string();
  if (utf8_length(text) != text.size()) {
    throw Error(Code::kBundle,
                where + ": a string with half of a surrogate pair; export the bundle again");
  }
  return text;
}

}  // namespace mmedge::runtime
