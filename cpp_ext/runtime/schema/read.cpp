// Readers of single JSON values.
#include "schema/read.h"

#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstring>

#include "schema/names.h"
#include "schema/utf8.h"

namespace mmedge::runtime {
namespace {

// Characters of a value in a message.
constexpr size_t kMaxShown = 80;

std::string shortest(const std::string& text) {
  return text.size() <= kMaxShown ? text : text.substr(0, kMaxShown - 3) + "...";
}

std::string short_number(double number) {
  char text[32];
  std::snprintf(text, sizeof text, "%g", number);
  return text;
}

std::string read_string(JsonValue value, const Place& where) {
  if (!value.is(JsonKind::kString)) throw Misfit(where.text(), "a string", show(value));
  return value.string();
}

std::string read_form(JsonValue value, const Place& where, bool (*fits)(std::string_view),
                      const char* form) {
  std::string text = read_string(value, where);
  if (!fits(text)) {
    throw Misfit(where.text(), std::string("text of the form ") + form, show(value));
  }
  return text;
}

}  // namespace

std::string Place::text() const {
  if (around_ == nullptr) return "$";
  std::string text = around_->text();
  if (field_ != nullptr) return text + "." + field_;
  if (format_ == nullptr) return text + "[" + std::to_string(index_) + "]";
  for (const char* c = format_; *c != '\0'; ++c) {
    if (*c == '%') {
      text += show(key_);
    } else {
      text += *c;
    }
  }
  return text;
}

std::string show(std::string_view text) {
  // As Python's ascii(): in double quotes only what has single ones and no double ones.
  const bool has_single = text.find('\'') != std::string_view::npos;
  const char quote = has_single && text.find('"') == std::string_view::npos ? '"' : '\'';
  std::string shown(1, quote);
  for (size_t at = 0; at < text.size() && shown.size() <= kMaxShown;) {
    const uint32_t c = next_character(text, &at);
    char escape[16] = "";
    if (c == '\t' || c == '\n' || c == '\r') {
      std::snprintf(escape, sizeof escape, "\\%c", c == '\t' ? 't' : c == '\n' ? 'n' : 'r');
    } else if (c == '\\' || c == static_cast<uint32_t>(quote)) {
      std::snprintf(escape, sizeof escape, "\\%c", static_cast<char>(c));
    } else if (c >= 0x20 && c < 0x7f) {
      escape[0] = static_cast<char>(c);
    } else {
      const char* format = c < 0x100 ? "\\x%02x" : c < 0x10000 ? "\\u%04x" : "\\U%08x";
      std::snprintf(escape, sizeof escape, format, c);
    }
    shown += escape;
  }
  return shortest(shown + quote);
}

std::string show(double number) {
  // As Python's repr(): the fewest digits that mean this number.
  char text[32];
  for (int digits = 1; digits <= 17; ++digits) {
    std::snprintf(text, sizeof text, "%.*g", digits, number);
    double read = 0;
    std::from_chars(text, text + std::strlen(text), read);
    if (read == number) break;
  }
  return std::strpbrk(text, ".en") == nullptr ? std::string(text) + ".0" : text;
}

std::string show(JsonValue value) {
  switch (value.kind()) {
    case JsonKind::kNull:
      return "null";
    case JsonKind::kFalse:
      return "false";
    case JsonKind::kTrue:
      return "true";
    case JsonKind::kInteger:
      return shortest(std::string(value.raw().substr(0, kMaxShown + 1)));
    case JsonKind::kFloat: {
      const double number = value.number();
      if (std::isnan(number)) return "nan";
      if (std::isinf(number)) return number < 0 ? "-inf" : "inf";
      return shortest(std::string(value.raw().substr(0, kMaxShown + 1)));
    }
    case JsonKind::kString:
      return show(value.string());
    case JsonKind::kList:
      return "a list of " + std::to_string(value.size());
    case JsonKind::kObject:
      break;
  }
  return "an object";
}

JsonValue read_object(JsonValue value, const Place& where) {
  if (!value.is(JsonKind::kObject)) throw Misfit(where.text(), "an object", show(value));
  if (const auto key = value.duplicate_key()) {
    throw Misfit(where.text(), "each key once", "duplicate key " + show(*key));
  }
  return value;
}

size_t read_list(JsonValue value, const Place& where, size_t least, size_t most) {
  if (!value.is(JsonKind::kList) || value.size() < least || value.size() > most) {
    throw Misfit(where.text(), "a list of " + std::to_string(least) + " to " + std::to_string(most),
                 show(value));
  }
  return value.size();
}

size_t read_table(JsonValue value, const Place& where, size_t most) {
  read_object(value, where);
  if (value.size() > most) {
    throw Misfit(where.text(), "at most " + std::to_string(most) + " members",
                 std::to_string(value.size()));
  }
  return value.size();
}

bool read_boolean(JsonValue value, const Place& where) {
  if (!value.is(JsonKind::kTrue) && !value.is(JsonKind::kFalse)) {
    throw Misfit(where.text(), "true or false", show(value));
  }
  return value.is(JsonKind::kTrue);
}

int64_t read_integer(JsonValue value, const Place& where, int64_t least, int64_t most) {
  int64_t number = 0;
  if (!value.integer(&number) || number < least || number > most) {
    throw Misfit(where.text(),
                 "a whole number from " + std::to_string(least) + " to " + std::to_string(most),
                 show(value));
  }
  return number;
}

double read_number(JsonValue value, const Place& where, const Limits& limits) {
  const double number = value.number();
  if (!std::isfinite(number) || !(number > limits.above) || number < limits.least ||
      number > limits.most) {
    std::string expected = "a finite number";
    if (std::isfinite(limits.above)) expected += " above " + short_number(limits.above);
    if (std::isfinite(limits.least)) expected += " from " + short_number(limits.least);
    if (std::isfinite(limits.most)) expected += " to " + short_number(limits.most);
    throw Misfit(where.text(), expected, show(value));
  }
  return number;
}

std::string read_text(JsonValue value, const Place& where) {
  std::string text = read_string(value, where);
  if (count_characters(text) > kMaxText || !is_printable(text)) {
    throw Misfit(where.text(), "at most " + std::to_string(kMaxText) + " printable characters",
                 show(value));
  }
  return text;
}

std::string read_name(JsonValue value, const Place& where) {
  return read_form(value, where, is_name, "[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}");
}

std::string read_tensor_name(JsonValue value, const Place& where) {
  return read_form(value, where, is_tensor_name, "[A-Za-z0-9_./:-]{1,200}");
}

std::string read_digest(JsonValue value, const Place& where) {
  return read_form(value, where, is_digest, "[0-9a-f]{64}");
}

std::string read_path(JsonValue value, const Place& where) {
  std::string path = read_text(value, where);
  const std::string fault = path_fault(path);
  if (!fault.empty()) throw Misfit(where.text(), "a relative path inside the bundle", fault);
  return path;
}

size_t read_option(JsonValue value, const Place& where,
                   std::initializer_list<const char*> options) {
  size_t index = 0;
  std::string expected = "one of ";
  for (const char* option : options) {
    if (value.equals(option)) return index;
    if (index++ > 0) expected += ", ";
    expected += option;
  }
  throw Misfit(where.text(), expected, show(value));
}

Record::Record(JsonValue value, const Place& where, std::initializer_list<const char*> fields,
               uint32_t optional)
    : where_(where) {
  std::string expected;
  size_t count = 0;
  for (const char* field : fields) names_[count++] = field;
  read_object(value, where);
  JsonValue key = value.first();
  for (size_t i = 0; i < value.size(); ++i, key = key.next().next()) {
    size_t field = 0;
    while (field < count && !key.equals(names_[field])) ++field;
    if (field == count) {
      for (const char* name : fields) expected += (expected.empty() ? "" : ", ") + std::string(name);
      throw Misfit(where.text(), "the fields " + expected, "unknown field " + show(key));
    }
    values_[field] = key.next();
    present_ |= uint32_t{1} << field;
  }
  for (size_t field = 0; field < count; ++field) {
    if (!has(field) && !(optional >> field & 1)) {
      throw Misfit(at(field).text(), "a value", "a missing field");
    }
  }
}

}  // namespace mmedge::runtime
