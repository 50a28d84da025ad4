// Fields of an MCAP file's records, read in order as the library mcap of Python reads them: by what
// each field says, whatever length the record states.
#ifndef MMEDGE_TOOLS_RECORDING_MCAP_FIELDS_H_
#define MMEDGE_TOOLS_RECORDING_MCAP_FIELDS_H_

#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include "tensor.h"

namespace mmedge::tools {

// Why bytes are no records of an MCAP file, in words.
struct Damage {
  std::string text;
  bool is_too_long = false;  // a record states more bytes than any that is read
};

enum class Opcode : uint8_t {
  kHeader = 0x01,
  kFooter = 0x02,
  kSchema = 0x03,
  kChannel = 0x04,
  kMessage = 0x05,
  kChunk = 0x06,
  kMessageIndex = 0x07,
  kChunkIndex = 0x08,
  kAttachment = 0x09,
  kAttachmentIndex = 0x0a,
  kStatistics = 0x0b,
  kMetadata = 0x0c,
  kMetadataIndex = 0x0d,
  kSummaryOffset = 0x0e,
  kDataEnd = 0x0f,
};

// Bytes of a record's kind and length, before its content.
constexpr size_t kHeadBytes = 9;

// Texts by key, of which the last of equal keys counts.
using Metadata = std::map<std::string_view, std::string_view>;

// A place in bytes that moves over what is read. Views are of those bytes. Each function throws
// Damage: nothing is left where something is asked for, a number is cut, a text is not UTF-8.
class Fields {
 public:
  explicit Fields(runtime::Bytes data) : data_(data) {}

  size_t at() const { return at_; }
  size_t left() const { return data_.size - at_; }

  // Up to `count` bytes, and at least one of them unless none is asked for.
  runtime::Bytes bytes(uint64_t count);
  // A whole number of `size` bytes, the lowest first.
  uint64_t number(size_t size);
  std::string_view text() { return text_of(number(4)); }
  std::string_view text_of(uint64_t count);
  Metadata metadata();
  // Passes over entries of numbers that take so many bytes in all, each of `sizes`.
  void skip_entries(std::initializer_list<size_t> sizes);

 private:
  runtime::Bytes data_;
  size_t at_ = 0;
};

// One record. What its kind does not have is empty.
struct Record {
  Opcode kind = Opcode::kHeader;
  uint16_t id = 0;                // of a channel; a message's channel
  std::string_view name;          // of a schema or metadata; a channel's topic
  std::string_view encoding;      // of a schema; a channel's messages; a chunk's compression
  uint64_t log_time = 0;          // of a message
  uint64_t publish_time = 0;
  uint32_t crc = 0;               // of a chunk's records
  runtime::Bytes data;            // of a message, or the records of a chunk
  Metadata metadata;              // of metadata
};

// Reads the content of a record of `length` bytes, and what is left of it.
Record read_record(Fields* fields, uint8_t kind, uint64_t length);
// The same of one record inside a chunk, of which `body` is the content; false: it is of a kind that
// is passed over there.
bool read_part(uint8_t kind, runtime::Bytes body, Record* record);

}  // namespace mmedge::tools

#endif  // MMEDGE_TOOLS_RECORDING_MCAP_FIELDS_H_
