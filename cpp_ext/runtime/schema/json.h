// JSON exactly as Python's json module reads it: mmedge/schema/read.py, `decode`.
//
// The reader is this project's own: numbers past float64, lone surrogates, NaN and the place where a
// duplicate key counts decide whether a file is taken, and each library decides them otherwise.
#ifndef MMEDGE_RUNTIME_SCHEMA_JSON_H_
#define MMEDGE_RUNTIME_SCHEMA_JSON_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tensor.h"

namespace mmedge::runtime {

enum class JsonKind : uint8_t {
  kNull,
  kFalse,
  kTrue,
  kInteger,  // written without a point or an exponent, of any size
  kFloat,    // any other number; NaN, Infinity and -Infinity too
  kString,
  kList,
  kObject,
};

// One value of a document. It is a place in it, as cheap to copy as a pointer, and lives as long.
class JsonValue {
 public:
  JsonValue() = default;

  JsonKind kind() const;
  bool is(JsonKind kind) const { return this->kind() == kind; }
  bool is_null() const { return is(JsonKind::kNull); }
  // An object whose keys are all different: what Python's reader gives as a dict.
  bool is_mapping() const { return is(JsonKind::kObject) && !duplicate_key(); }

  // Items of a list, members of an object.
  size_t size() const;
  // The first item of a list or key of an object that is not empty.
  JsonValue first() const;
  // What follows in the same list; in an object a key's value, and after a value the next key.
  JsonValue next() const;
  // The value of a key of an object; null where there is none.
  std::optional<JsonValue> find(std::string_view key) const;
  // The first key of an object that an earlier member has too.
  std::optional<JsonValue> duplicate_key() const;

  // Text of a string in UTF-8; half of a surrogate pair is coded like any other character.
  std::string string() const;
  // Whether it is this string.
  bool equals(std::string_view text) const;
  // Bytes of a string or a number as the document has them.
  std::string_view raw() const;

  // A whole number that fits into 64 bits; false for all else.
  bool integer(int64_t* out) const;
  // A number as float64, rounded to the nearest; NaN for all else. Infinite where it is too large.
  double number() const;

 private:
  friend class JsonDocument;
  JsonValue(const class JsonDocument* document, size_t at) : document_(document), at_(at) {}

  uint32_t word() const;

  const class JsonDocument* document_ = nullptr;
  size_t at_ = 0;
};

// A parsed document. It keeps places in the bytes that it was made from, which must outlive it.
//
// It takes up to two words of 4 bytes for each value, and time in proportion to the bytes.
class JsonDocument {
 public:
  // Most bytes of any document.
  static constexpr size_t kMaxBytes = size_t{128} << 20;
  // How deep lists and objects are nested at most: Python's limit of recursion.
  static constexpr size_t kMaxDepth = 1000;

  // Throws Misfit (schema/read.h): more than `most` bytes, not UTF-8, not JSON, nested too deeply.
  explicit JsonDocument(Bytes data, size_t most = kMaxBytes);
  JsonDocument(const JsonDocument&) = delete;
  JsonDocument& operator=(const JsonDocument&) = delete;

  JsonValue root() const { return {this, 0}; }

 private:
  friend class JsonValue;
  friend class JsonParser;

  std::string_view text_;
  // A value is its kind (upper 4 bits) and the place of its text; a list or an object is its kind
  // and number of members, then the index behind it, then the members.
  std::vector<uint32_t> words_;
};

// Compares two whole numbers of any size: below 0, 0 or above 0 as the first is smaller, equal or
// larger.
int compare_integers(JsonValue a, JsonValue b);

}  // namespace mmedge::runtime

#endif  // MMEDGE_RUNTIME_SCHEMA_JSON_H_
