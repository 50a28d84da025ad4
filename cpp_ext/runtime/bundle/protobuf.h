// Protobuf's wire format (protobuf.dev/programming-guides/encoding), as mmedge/bundle/protobuf.py
// reads it.
//
// A general parser forgives what two readers may understand differently: fields that it does not
// know, a number where text should be, a second value where there can be one. Here a message is
// read by a table of the fields that it may have, and by a budget of fields, so that a small file
// costs little.
#ifndef MMEDGE_RUNTIME_BUNDLE_PROTOBUF_H_
#define MMEDGE_RUNTIME_BUNDLE_PROTOBUF_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

#include "tensor.h"

namespace mmedge::runtime::onnx {

// Wire types.
constexpr int kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5;

// Bits of a field beside those of its wire types: it may stand there more than once; it is of no
// interest, and checked without being given.
constexpr int kRepeated = 8, kSkipped = 9;

// Fields of one file: far above any real network.
constexpr int64_t kMaxFields = 4'000'000;

// The bytes are not the message that they should be, or more of it than is read.
class WireError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// What a message may hold: by field number the wire types, a bit for each, and the bits above.
using FieldTable = std::array<uint16_t, 27>;

constexpr FieldTable make_field_table(
    std::initializer_list<std::pair<unsigned, unsigned>> fields) {
  FieldTable table = {};
  for (const auto& field : fields) table[field.first] = static_cast<uint16_t>(field.second);
  return table;
}

struct Field {
  uint32_t number = 0;
  int wire = kVarint;
  uint64_t value = 0;  // of a varint
  size_t begin = 0;    // bytes of all else
  size_t end = 0;

  bool has_bytes() const { return wire == kBytes; }
};

// Reads messages that lie in one file, within a common budget of fields.
class WireReader {
 public:
  explicit WireReader(Bytes data) : data_(data) {}

  // The number at *at, which moves behind it. Throws WireError where none ends before `end`.
  uint64_t varint(size_t* at, size_t end) const;
  // The bytes as UTF-8. Throws WireError where they are not.
  std::string_view text(const Field& field) const;
  // As text(), of bytes that may be anything.
  std::string_view bytes(const Field& field) const {
    return data_.text().substr(field.begin, field.end - field.begin);
  }
  Bytes data() const { return data_; }

 private:
  friend class FieldReader;

  Bytes data_;
  int64_t left_ = kMaxFields;
};

// The fields of one message, in their order.
class FieldReader {
 public:
  FieldReader(WireReader& file, const FieldTable& table, size_t begin, size_t end)
      : file_(file), table_(table), at_(begin), end_(end) {}

  // The next field that is not skipped; false at the end. Throws WireError where the bytes are no
  // such message, or the budget is used up.
  bool next(Field* field);

 private:
  WireReader& file_;
  const FieldTable& table_;
  size_t at_;
  size_t end_;
  uint32_t seen_ = 0;  // a bit for each field that may stand there once
};

// Whether text is UTF-8 without surrogates, in its shortest form.
bool is_utf8(std::string_view text);

}  // namespace mmedge::runtime::onnx

#endif  // MMEDGE_RUNTIME_BUNDLE_PROTOBUF_H_
