// Fields of protobuf messages, one after the other.
#include "bundle/protobuf.h"

namespace mmedge::runtime::onnx {

uint64_t WireReader::varint(size_t* at, size_t end) const {
  uint64_t value = 0;
  for (int shift = 0; *at < end && shift < 70; shift += 7) {
    const uint8_t byte = data_.data[(*at)++];
    value |= static_cast<uint64_t>(byte & 0x7F) << shift;
    if (byte < 0x80) return value;
  }
  throw WireError("number not ended at byte " + std::to_string(*at));
}

std::string_view WireReader::text(const Field& field) const {
  const std::string_view text = bytes(field);
  if (!is_utf8(text)) {
    throw WireError("a name that is not UTF-8 at byte " + std::to_string(field.begin));
  }
  return text;
}

bool FieldReader::next(Field* field) {
  while (at_ < end_) {
    if (--file_.left_ < 0) {
      throw WireError("more than " + std::to_string(kMaxFields) + " fields");
    }
    const uint64_t tag = file_.varint(&at_, end_);
    const uint64_t number = tag >> 3;
    const int wire = static_cast<int>(tag & 7);
    const unsigned rule = number < table_.size() ? table_[static_cast<size_t>(number)] : 0;
    if ((rule >> wire & 1) == 0) {
      throw WireError("field " + std::to_string(number) + " of wire type " + std::to_string(wire) +
                      " before byte " + std::to_string(at_) + " is not known");
    }
    if ((rule >> kRepeated & 1) == 0) {
      // A reader keeps the last, or merges them; two might not agree.
      const uint32_t once = uint32_t{1} << number;
      if ((seen_ & once) != 0) {
        throw WireError("field " + std::to_string(number) + " given twice, before byte " +
                        std::to_string(at_));
      }
      seen_ |= once;
    }
    field->number = static_cast<uint32_t>(number);
    field->wire = wire;
    if (wire == kVarint) {
      field->value = file_.varint(&at_, end_);
    } else {
      const uint64_t size = wire == kBytes     ? file_.varint(&at_, end_)
                            : wire == kFixed64 ? 8
                                               : 4;
      if (size > end_ - at_) throw WireError("truncated at byte " + std::to_string(end_));
      field->begin = at_;
      at_ += static_cast<size_t>(size);
      field->end = at_;
    }
    if ((rule >> kSkipped & 1) == 0) return true;
  }
  return false;
}

bool is_utf8(std::string_view text) {
  size_t at = 0;
  while (at < text.size()) {
    const auto first = static_cast<uint8_t>(text[at++]);
    if (first < 0x80) continue;
    const int more = first >= 0xF0 ? 3 : first >= 0xE0 ? 2 : 1;
    if (first < 0xC2 || first > 0xF4 || text.size() - at < static_cast<size_t>(more)) return false;
    uint32_t point = first & (0x3Fu >> more);
    for (int i = 0; i < more; ++i) {
      const auto byte = static_cast<uint8_t>(text[at++]);
      if ((byte & 0xC0) != 0x80) return false;
      point = point << 6 | (byte & 0x3F);
    }
    const bool is_surrogate = point >= 0xD800 && point < 0xE000;
    if (is_surrogate || point > 0x10FFFF) return false;
    if ((more == 2 && point < 0x800) || (more == 3 && point < 0x10000)) return false;
  }
  return true;
}

}  // namespace mmedge::runtime::onnx
