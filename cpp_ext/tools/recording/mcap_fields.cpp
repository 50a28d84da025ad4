// Reads records of MCAP. https://mcap.dev/spec names their fields.
#include "recording/mcap_fields.h"

#include <algorithm>

#include "schema/utf8.h"

namespace mmedge::tools {

using runtime::Bytes;

namespace {

// Bytes of a message before its data.
constexpr uint64_t kMessageHead = 22;

void read_message_head(Fields* fields, Record* record) {
  record->id = static_cast<uint16_t>(fields->number(2));
  fields->number(4);  // its number in the channel
  record->log_time = fields->number(8);
  record->publish_time = fields->number(8);
}

void read_schema(Fields* fields, Record* record) {
  fields->number(2);
  record->name = fields->text();
  record->encoding = fields->text();
  fields->bytes(fields->number(4));
}

void read_channel(Fields* fields, Record* record) {
  record->id = static_cast<uint16_t>(fields->number(2));
  fields->number(2);
  record->name = fields->text();
  record->encoding = fields->text();
  fields->metadata();
}

void read_chunk(Fields* fields, Record* record) {
  for (int i = 0; i < 3; ++i) fields->number(8);
  record->crc = static_cast<uint32_t>(fields->number(4));
  record->encoding = fields->text();
  record->data = fields->bytes(fields->number(8));
}

void read_statistics(Fields* fields) {
  fields->number(8);
  fields->number(2);
  for (int i = 0; i < 4; ++i) fields->number(4);
  fields->number(8);
  fields->number(8);
  fields->skip_entries({2, 8});
}

}  // namespace

Bytes Fields::bytes(uint64_t count) {
  if (count == 0) return {data_.data + at_, 0};
  if (left() == 0) throw Damage{"it ends in the middle of a record"};
  const Bytes part = data_.part(at_, static_cast<size_t>(std::min<uint64_t>(count, left())));
  at_ += part.size;
  return part;
}

uint64_t Fields::number(size_t size) {
  const Bytes part = bytes(size);
  if (part.size < size) throw Damage{"it ends in the middle of a number"};
  uint64_t value = 0;
  for (size_t i = size; i > 0; --i) value = value << 8 | part.data[i - 1];
  return value;
}

std::string_view Fields::text_of(uint64_t count) {
  const std::string_view text = bytes(count).text();
  if (runtime::utf8_length(text) < text.size()) throw Damage{"a text that is not UTF-8"};
  return text;
}

Metadata Fields::metadata() {
  const uint64_t size = number(4);
  const uint64_t end = at_ + size;
  Metadata entries;
  while (at_ < end) {
    const std::string_view key = text();
    entries[key] = text();
  }
  return entries;
}

void Fields::skip_entries(std::initializer_list<size_t> sizes) {
  const uint64_t size = number(4);
  const uint64_t end = at_ + size;
  while (at_ < end) {
    for (const size_t each : sizes) number(each);
  }
}

Record read_record(Fields* fields, uint8_t kind, uint64_t length) {
  Record record;
  record.kind = static_cast<Opcode>(kind);
  const size_t begin = fields->at();
  switch (record.kind) {
    case Opcode::kHeader:
      fields->text();
      fields->text();
      break;
    case Opcode::kFooter:
      fields->number(8);
      fields->number(8);
      fields->number(4);
      break;
    case Opcode::kSchema:
      read_schema(fields, &record);
      break;
    case Opcode::kChannel:
      read_channel(fields, &record);
      break;
    case Opcode::kMessage:
      read_message_head(fields, &record);
      // The library asks for -1 bytes, which means all.
      if (length == kMessageHead - 1) {
        record.data = fields->bytes(fields->left());
        break;
      }
      if (length < kMessageHead) throw Damage{"a message of " + std::to_string(length) + " bytes"};
      record.data = fields->bytes(length - kMessageHead);
      break;
    case Opcode::kChunk:
      read_chunk(fields, &record);
      break;
    case Opcode::kMessageIndex:
      fields->number(2);
      fields->skip_entries({8, 8});
      break;
    case Opcode::kChunkIndex:
      for (int i = 0; i < 4; ++i) fields->number(8);
      fields->skip_entries({2, 8});
      fields->number(8);
      fields->text();
      fields->number(8);
      fields->number(8);
      break;
    case Opcode::kAttachment:
      fields->number(8);
      fields->number(8);
      fields->text();
      fields->text();
      fields->bytes(fields->number(8));
      fields->number(4);
      break;
    case Opcode::kAttachmentIndex:
      for (int i = 0; i < 5; ++i) fields->number(8);
      fields->text();
      fields->text();
      break;
    case Opcode::kStatistics:
      read_statistics(fields);
      break;
    case Opcode::kMetadata:
      record.name = fields->text();
      record.metadata = fields->metadata();
      break;
    case Opcode::kMetadataIndex:
      fields->number(8);
      fields->number(8);
      fields->text();
      break;
    case Opcode::kSummaryOffset:
      fields->number(1);
      fields->number(8);
      fields->number(8);
      break;
    case Opcode::kDataEnd:
      fields->number(4);
      break;
    default:
      fields->bytes(length);
      break;
  }
  const uint64_t taken = fields->at() - begin;
  if (length > taken) fields->bytes(length - taken);
  return record;
}

bool read_part(uint8_t kind, Bytes body, Record* record) {
  record->kind = static_cast<Opcode>(kind);
  Fields fields(body);
  if (record->kind == Opcode::kMessage) {
    read_message_head(&fields, record);
    record->data = body.part(fields.at(), fields.left());
  } else if (record->kind == Opcode::kChannel) {
    read_channel(&fields, record);
  } else if (record->kind == Opcode::kSchema) {
    read_schema(&fields, record);
  } else {
    return false;
  }
  return true;
}

}  // namespace mmedge::tools
