// Readers of single JSON values, which say where one is not what the schema expects:
// mmedge/schema/read.py.
#ifndef MMEDGE_RUNTIME_SCHEMA_READ_H_
#define MMEDGE_RUNTIME_SCHEMA_READ_H_

#include <initializer_list>
#include <limits>
#include <string>
#include <string_view>

#include "schema/json.h"

namespace mmedge::runtime {

// A value is not what the schema expects. Public functions turn it into an Error.
struct Misfit {
  Misfit(const std::string& where, const std::string& expected, const std::string& got)
      : text(where + ": expected " + expected + ", got " + got) {}

  std::string text;
};

// A JSON path, put together when a message needs it. It refers to the place around it and must not
// outlive it.
class Place {
 public:
  Place() = default;  // the document: $
  Place(const Place& around, const char* field) : around_(&around), field_(field) {}
  Place(const Place& around, size_t index) : around_(&around), index_(index) {}
  Place(const Place& around, JsonValue key, const char* format) // "[%]" or " key %"
      : around_(&around), format_(format), key_(key) {}

  std::string text() const;

 private:
  const Place* around_ = nullptr;
  const char* field_ = nullptr;
  const char* format_ = nullptr;
  size_t index_ = 0;
  JsonValue key_;
};

// A value as an error message names it: short, and with nothing that a terminal would act on.
std::string show(JsonValue value);
std::string show(std::string_view text);
std::string show(double number);

// Throws Misfit unless it is an object whose keys are all different. Returns the value.
JsonValue read_object(JsonValue value, const Place& where);
// Throws Misfit unless it is a list of so many items. Returns how many there are.
size_t read_list(JsonValue value, const Place& where, size_t least = 0, size_t most = 4096);
// Throws Misfit unless it is an object of up to so many members. Returns how many there are.
size_t read_table(JsonValue value, const Place& where, size_t most = 4096);

bool read_boolean(JsonValue value, const Place& where);
int64_t read_integer(JsonValue value, const Place& where, int64_t least, int64_t most);

// Limits of a number that is finite.
struct Limits {
  double above = -std::numeric_limits<double>::infinity();
  double least = -std::numeric_limits<double>::infinity();
  double most = std::numeric_limits<double>::infinity();
};
double read_number(JsonValue value, const Place& where, const Limits& limits = {});

// Up to 4,096 printable characters.
std::string read_text(JsonValue value, const Place& where);
// Text that is a name, a tensor's name, a digest or a path in the bundle (schema/names.h).
std::string read_name(JsonValue value, const Place& where);
std::string read_tensor_name(JsonValue value, const Place& where);
std::string read_digest(JsonValue value, const Place& where);
std::string read_path(JsonValue value, const Place& where);
// The index of the option that it is.
size_t read_option(JsonValue value, const Place& where,
                   std::initializer_list<const char*> options);

// Members of an object with exactly the fields of a list.
class Record {
 public:
  static constexpr size_t kMaxFields = 20;

  // Throws Misfit: not an object, a field that is not in the list, or one missing that is not
  // `optional` (a bit for each field).
  Record(JsonValue value, const Place& where, std::initializer_list<const char*> fields,
         uint32_t optional = 0);

  bool has(size_t field) const { return present_ >> field & 1; }
  JsonValue operator[](size_t field) const { return values_[field]; }
  // The place of a field.
  Place at(size_t field) const { return {where_, names_[field]}; }

 private:
  const Place& where_;
  const char* names_[kMaxFields] = {};
  JsonValue values_[kMaxFields];
  uint32_t present_ = 0;
};

}  // namespace mmedge::runtime

#endif  // MMEDGE_RUNTIME_SCHEMA_READ_H_
