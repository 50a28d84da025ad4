// Reads safetensors: 8 bytes with the length of a header, the header in JSON, and the data.
#include "bundle/safetensors.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "schema/json.h"
#include "schema/read.h"

namespace mmedge::runtime {

namespace {

struct DTypeName {
  const char* name;
  DType dtype;
};

constexpr DTypeName kDTypes[] = {
    {"BOOL", DType::kBool},   {"F16", DType::kFloat16}, {"F32", DType::kFloat32},
    {"F64", DType::kFloat64}, {"I8", DType::kInt8},     {"I16", DType::kInt16},
    {"I32", DType::kInt32},   {"I64", DType::kInt64},   {"U8", DType::kUint8},
    {"U16", DType::kUint16},  {"U32", DType::kUint32},  {"U64", DType::kUint64},
};

// What the library knows besides, and no bundle uses.
constexpr const char* kOtherDTypes[] = {
    "BF16",    "C64",     "F4",          "F6_E2M3",     "F6_E3M2",
    "F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "F8_E8M0",
};

constexpr const char* kFields[] = {"dtype", "shape", "data_offsets"};

// What is wrong with a file, in words.
struct Fault {
  std::string text;
};

// What the header says of a tensor.
struct Entry {
  std::optional<DType> dtype;  // nothing: none that a bundle uses
  std::string dtype_name;      // then its name
  size_t rank = 0;
  uint64_t shape[kMaxRank] = {};
  uint64_t begin = 0;
  uint64_t end = 0;
};

std::string place(const std::string& name) { return "$[" + show(name) + "]"; }

// A whole number from 0 on, written without a point, that 64 bits hold.
uint64_t read_size(JsonValue value, const std::string& where, bool is_strict) {
  uint64_t size = 0;
  bool fits = value.is(JsonKind::kInteger);
  if (fits) {
    std::string_view digits = value.raw();
    // Rust's JSON keeps -0 as a float.
    if (digits == "-0" && is_strict) digits = "0";
    for (char c : digits) {
      fits = fits && c != '-' && !__builtin_mul_overflow(size, uint64_t{10}, &size) &&
             !__builtin_add_overflow(size, static_cast<uint64_t>(c - '0'), &size);
    }
  }
  if (!fits) throw Misfit(where, "whole numbers from 0", show(value));
  return size;
}

void read_dtype(JsonValue value, const std::string& where, bool is_strict, Entry* entry) {
  // Rust's JSON takes {"F32": null} for "F32", as for any enumeration.
  if (!is_strict && value.is(JsonKind::kObject) && value.size() == 1 &&
      value.first().next().is_null()) {
    value = value.first();
  }
  if (!value.is(JsonKind::kString)) throw Misfit(where, "the name of a dtype", show(value));
  const std::string name = value.string();
  for (const DTypeName& each : kDTypes) {
    if (name == each.name) entry->dtype = each.dtype;
  }
  if (entry->dtype) return;
  const bool is_other = std::find(std::begin(kOtherDTypes), std::end(kOtherDTypes), name) !=
                        std::end(kOtherDTypes);
  if (is_strict || !is_other) throw Misfit(where, "a dtype that a bundle uses", show(value));
  entry->dtype_name = name;  // it counts unless the tensor's name comes again
}

void read_field(size_t field, JsonValue value, const std::string& name, bool is_strict,
                Entry* entry) {
  const std::string where = place(name) + "." + kFields[field];
  if (field == 0) return read_dtype(value, where, is_strict, entry);
  if (!value.is(JsonKind::kList)) throw Misfit(where, "whole numbers from 0", show(value));
  const size_t count = value.size();
  if (field == 2 && count != 2) throw Misfit(where, "two offsets", show(value));
  JsonValue item = value.first();
  for (size_t i = 0; i < count; ++i) {
    const uint64_t size = read_size(item, where, is_strict);
    if (field == 2) {
      (i == 0 ? entry->begin : entry->end) = size;
    } else if (i < kMaxRank) {
      entry->shape[i] = size;
    }
    if (i + 1 < count) item = item.next();
  }
  if (field == 1) entry->rank = count;
}

Entry read_entry(JsonValue value, const std::string& name, bool is_strict) {
  Entry entry;
  const std::string where = place(name);
  if (!is_strict && value.is(JsonKind::kList)) {  // Rust's JSON takes the fields in a list, too
    if (value.size() != 3) throw Misfit(where, "dtype, shape and data_offsets", show(value));
    JsonValue item = value.first();
    for (size_t field = 0; field < 3; ++field) {
      read_field(field, item, name, is_strict, &entry);
      if (field < 2) item = item.next();
    }
    return entry;
  }
  if (!value.is(JsonKind::kObject)) throw Misfit(where, "an object", show(value));
  bool is_there[3] = {};
  JsonValue key = value.size() > 0 ? value.first() : JsonValue();
  for (size_t i = 0; i < value.size(); ++i) {
    const JsonValue member = key.next();
    size_t field = 0;
    while (field < 3 && !key.equals(kFields[field])) ++field;
    if (field < 3) {
      if (is_there[field]) throw Misfit(where, "each key once", "duplicate key " + show(key));
      is_there[field] = true;
      read_field(field, member, name, is_strict, &entry);
    } else if (is_strict) {
      throw Misfit(where, "dtype, shape and data_offsets", show(key));
    }
    if (i + 1 < value.size()) key = member.next();
  }
  if (!is_there[0] || !is_there[1] || !is_there[2]) {
    throw Misfit(where, "dtype, shape and data_offsets", "not all of them");
  }
  return entry;
}

// Refuses what Python's JSON takes and Rust's does not: NaN and infinities, numbers past float64,
// halves of surrogate pairs, deep nesting.
void check_for_rust(JsonValue value, int depth) {
  constexpr int kMaxDepth = 127;
  switch (value.kind()) {
    case JsonKind::kInteger:
    case JsonKind::kFloat:
      if (!std::isfinite(value.number())) throw Fault{"a number out of range"};
      return;
    case JsonKind::kString: {
      const std::string text = value.string();
      for (size_t i = 0; i + 1 < text.size(); ++i) {
        if (text[i] == '\xED' && static_cast<uint8_t>(text[i + 1]) >= 0xA0) {
          throw Fault{"half of a surrogate pair"};
        }
      }
      return;
    }
    case JsonKind::kList:
    case JsonKind::kObject: {
      if (depth == kMaxDepth) throw Fault{"lists or objects nested too deeply"};
      const size_t count = value.size() * (value.is(JsonKind::kObject) ? 2 : 1);
      JsonValue item = count > 0 ? value.first() : JsonValue();
      for (size_t i = 0; i < count; ++i) {
        check_for_rust(item, depth + 1);
        if (i + 1 < count) item = item.next();
      }
      return;
    }
    default:
      return;
  }
}

// The library's metadata: null, or texts by name.
void check_metadata(JsonValue value) {
  bool fits = value.is_null() || value.is(JsonKind::kObject);
  if (value.is(JsonKind::kObject) && value.size() > 0) {
    JsonValue key = value.first();
    for (size_t i = 0; i < value.size(); ++i) {
      const JsonValue member = key.next();
      fits = fits && member.is(JsonKind::kString);
      if (i + 1 < value.size()) key = member.next();
    }
  }
  if (!fits) throw Misfit("$['__metadata__']", "texts by name", show(value));
}

std::map<std::string, Entry> read_header(Bytes text, size_t most, bool is_strict) {
  const JsonDocument document(text);
  const JsonValue header = document.root();
  if (is_strict) {
    read_object(header, Place());
  } else {
    if (!header.is(JsonKind::kObject)) throw Misfit("$", "an object", show(header));
    check_for_rust(header, 0);
  }
  std::map<std::string, Entry> entries;
  bool has_metadata = false;
  JsonValue key = header.size() > 0 ? header.first() : JsonValue();
  for (size_t i = 0; i < header.size(); ++i) {
    const JsonValue value = key.next();
    const std::string name = key.string();
    if (name != "__metadata__") {
      entries[name] = read_entry(value, name, is_strict);
      if (entries.size() > most) {
        throw Misfit("$", "at most " + std::to_string(most) + " tensors", "more");
      }
    } else if (!is_strict) {
      if (has_metadata) throw Misfit("$", "each key once", "duplicate key " + show(key));
      has_metadata = true;
      check_metadata(value);
    }
    if (i + 1 < header.size()) key = value.next();
  }
  return entries;
}

// Bytes that the elements take; nothing where no array may have the shape. As in NumPy, an axis of
// size 0 does not excuse the others.
std::optional<uint64_t> bytes_of(const Entry& entry) {
  auto product = static_cast<int64_t>(item_size(*entry.dtype));
  bool is_empty = false;
  for (size_t axis = 0; axis < entry.rank; ++axis) {
    const uint64_t size = entry.shape[axis];
    if (size > static_cast<uint64_t>(INT64_MAX)) return std::nullopt;
    if (size == 0) {
      is_empty = true;
    } else if (__builtin_mul_overflow(product, static_cast<int64_t>(size), &product)) {
      return std::nullopt;
    }
  }
  return is_empty ? 0 : static_cast<uint64_t>(product);
}

TensorView view_of(const std::string& name, const Entry& entry, Bytes data) {
  if (!entry.dtype) {
    throw Fault{show(name) + " has dtype " + entry.dtype_name + ", which no bundle uses"};
  }
  if (entry.rank > kMaxRank || entry.begin > entry.end || entry.end > data.size) {
    throw Misfit(place(name),
                 "rank up to " + std::to_string(kMaxRank) + " and offsets inside the file",
                 "rank " + std::to_string(entry.rank) + " at " + std::to_string(entry.begin) +
                     " to " + std::to_string(entry.end));
  }
  const std::optional<uint64_t> bytes = bytes_of(entry);
  if (!bytes) throw Misfit(place(name) + ".shape", "sizes of an array", "a product past 2^63");
  if (*bytes != entry.end - entry.begin) {
    throw Misfit(place(name), std::to_string(entry.end - entry.begin) + " bytes",
                 "a shape of " + std::to_string(*bytes));
  }
  TensorView view;
  view.dtype = *entry.dtype;
  view.rank = entry.rank;
  for (size_t axis = 0; axis < entry.rank; ++axis) {
    view.shape[axis] = static_cast<int64_t>(entry.shape[axis]);
  }
  // A view has no form for reading alone; safetensors.h says that nobody writes.
  view.data = const_cast<uint8_t*>(data.data + entry.begin);
  return view;
}

std::map<std::string, TensorView> read(Bytes data, size_t most_header, size_t most,
                                       bool is_strict) {
  if (data.size < 8) throw Misfit("$", "safetensors", std::to_string(data.size) + " bytes");
  uint64_t length = 0;
  for (int i = 7; i >= 0; --i) length = length << 8 | data.data[i];
  if (length > most_header || length > data.size - 8) {
    throw Fault{"a header of " + std::to_string(length) + " bytes, expected at most " +
                std::to_string(length > most_header ? most_header : data.size - 8)};
  }
  const auto entries = read_header(data.part(8, length), most, is_strict);
  const Bytes body = data.part(8 + length, data.size - 8 - length);
  std::map<std::string, TensorView> tensors;
  std::vector<std::pair<uint64_t, uint64_t>> spans;
  spans.reserve(entries.size());
  for (const auto& [name, entry] : entries) {
    tensors.emplace(name, view_of(name, entry, body));
    spans.emplace_back(entry.begin, entry.end);
    if (is_strict && entry.dtype == DType::kBool) {
      for (uint8_t byte : body.part(entry.begin, entry.end - entry.begin)) {
        if (byte > 1) throw Misfit(place(name), "booleans of 0 and 1", "another byte");
      }
    }
  }
  std::sort(spans.begin(), spans.end());
  uint64_t at = 0;
  for (const auto& [begin, end] : spans) {
    if (begin != at) {
      throw Misfit("$", "tensors without gaps or overlaps, one at " + std::to_string(at),
                   "one at " + std::to_string(begin));
    }
    at = end;
  }
  if (at != body.size) {
    throw Misfit("$", std::to_string(at) + " bytes of tensors",
                 std::to_string(body.size) + " bytes");
  }
  return tensors;
}

std::map<std::string, TensorView> read_or_refuse(Bytes data, size_t most_header, size_t most,
                                                 bool is_strict, const std::string& source) {
  std::string fault;
  try {
    return read(data, most_header, most, is_strict);
  } catch (const Misfit& misfit) {
    fault = misfit.text;
  } catch (const Fault& other) {
    fault = other.text;
  }
  throw Error(Code::kBundle, source + ": not safetensors: " + fault + "; export the bundle again");
}

}  // namespace

std::map<std::string, TensorView> read_tensors(Bytes data, const std::string& source) {
  return read_or_refuse(data, kMaxTensorsHeader, kMaxTensors, true, source);
}

std::map<std::string, TensorView> read_sample_tensors(Bytes data, size_t most,
                                                      const std::string& source) {
  return read_or_refuse(data, kMaxSamplesHeader, most, false, source);
}

}  // namespace mmedge::runtime
