// A recording as one MCAP file: a channel for each modality, a message for each sample.
// mmedge/recording/mcap.py in C++.
#include <fcntl.h>

#include <array>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <system_error>

#include "bundle/crc32.h"
#include "bundle/file_descriptor.h"
#include "bundle/sha256.h"
#include "recording/json_text.h"
#include "recording/mcap_fields.h"
#include "recording/sample.h"
#include "schema/read.h"

namespace mmedge::tools {
namespace {

using runtime::Bytes;
using runtime::FileDescriptor;
using runtime::JsonDocument;
using runtime::JsonKind;
using runtime::JsonValue;
using runtime::Mapping;
using runtime::Misfit;

constexpr std::string_view kEncoding = "safetensors", kSchema = "mmedge.Sample",
                           kSchemaEncoding = "text/plain", kBegin = "mmedge.recording",
                           kEnd = "mmedge.recording.end", kMagic = "\x89MCAP0\r\n";
// How topics and schemas of a flight recorder's dump begin, whose messages are no samples.
constexpr std::string_view kExtra = "/mmedge/", kExtraSchema = "mmedge.Flight";
constexpr uint64_t kMaxRecordBytes = kMaxValueBytes + (uint64_t{64} << 20);
constexpr size_t kMaxEndBytes = size_t{1} << 20;
constexpr double kMaxSeconds = 1e11;

std::string quoted(std::string_view text) { return runtime::show(text); }

bool begins(std::string_view text, std::string_view beginning) {
  return text.substr(0, beginning.size()) == beginning;
}

std::optional<std::string_view> find(const Metadata& metadata, std::string_view key) {
  const auto found = metadata.find(key);
  if (found == metadata.end()) return std::nullopt;
  return found->second;
}

// SHA-256 of all that a metadata record says but its digest.
bool has_digest(const Metadata& metadata) {
  JsonText text;
  text.open('{');
  for (const auto& [key, value] : metadata) {
    if (key != "sha256") text.key(key).string(value);
  }
  text.close('}');
  const auto stated = find(metadata, "sha256");
  return stated && *stated == runtime::sha256_hexadecimal(
                                  {reinterpret_cast<const uint8_t*>(text.text().data()),
                                   text.text().size()});
}

// -?[0-9]+(\.[0-9]+)?(e[+-][0-9]+)?, of up to 64 characters: what repr() writes of a number.
bool is_number(std::string_view text) {
  if (text.size() > 64) return false;
  size_t at = 0;
  const auto skip_digits = [&] {
    const size_t begin = at;
    while (at < text.size() && text[at] >= '0' && text[at] <= '9') ++at;
    return at > begin;
  };
  if (at < text.size() && text[at] == '-') ++at;
  if (!skip_digits()) return false;
  if (at < text.size() && text[at] == '.') {
    ++at;
    if (!skip_digits()) return false;
  }
  if (at < text.size() && text[at] == 'e') {
    ++at;
    if (at >= text.size() || (text[at] != '+' && text[at] != '-')) return false;
    ++at;
    if (!skip_digits()) return false;
  }
  return at == text.size();
}

class Mcap final : public Recording {
 public:
  explicit Mcap(const std::string& path) : path_(path) {
    // Not to wait for a pipe.
    const FileDescriptor file(::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
    if (!file) {
      throw refusal(path_,
                    "the recording cannot be read: " + std::generic_category().message(errno));
    }
    file_ = map_file(file.get(), SIZE_MAX, path_);
    const std::string_view text = file_.bytes().text();
    if (text.substr(0, kMagic.size()) != kMagic) {
      throw refusal(path_, "not an MCAP file; give a recording of mmedge");
    }
    is_cut_ = text.size() < 2 * kMagic.size() ||
              text.substr(text.size() - kMagic.size()) != kMagic;
    bool has_begin = false;
    read_records([&](const Record& record) {
      check_own(record);
      if (record.kind == Opcode::kMessage) return false;
      has_begin = record.kind == Opcode::kMetadata && record.name == kBegin;
      if (has_begin) take_begin(record.metadata);
      return !has_begin;
    });
    if (!has_begin) refuse("no metadata record of mmedge at its beginning");
    missing = is_cut_
                  ? "the recorder was not closed: what came after the last whole chunk is missing"
                  : words(losses());
  }

  void read(const std::function<void(const Recorded&)>& take) const override {
    Order order(name);
    std::vector<std::optional<std::string_view>> topics(size_t{1} << 16);
    std::optional<std::string> expected;
    read_records([&](const Record& record) {
      check_own(record);
      if (record.kind == Opcode::kChannel) {
        topics[record.id] = record.name;
      } else if (record.kind == Opcode::kMetadata && record.name == kEnd) {
        const auto count = find(record.metadata, "count");
        expected.reset();
        if (count) expected = std::string(*count);
      } else if (record.kind == Opcode::kMessage) {
        const auto& topic = topics[record.id];
        if (!topic || !begins(*topic, kExtra)) take_message(record, topic, &order, take);
      }
      return true;
    });
    if (!is_cut_ && expected != std::to_string(order.count())) {
      throw refusal(path_, "expected " + expected.value_or("no count of") + " samples, got " +
                               std::to_string(order.count()) + "; copy it anew");
    }
  }

 private:
  using Visit = std::function<bool(const Record&)>;

  void take_message(const Record& record, const std::optional<std::string_view>& topic,
                    Order* order, const std::function<void(const Recorded&)>& take) const {
    const std::string where = path_ + ": sample " + std::to_string(order->count());
    if (!topic) {
      throw refusal(where, "of channel " + std::to_string(record.id) + ", which is unknown");
    }
    std::vector<std::pair<std::string, runtime::TensorView>> tensors;
    for (const auto& [name, view] : unpack(record.data, where)) tensors.emplace_back(name, view);
    Recorded sample;
    sample.value = value_of(std::move(tensors), where);
    const std::string_view modality = topic->substr(begins(*topic, "/") ? 1 : 0);
    while (sample.modality < modalities.size() && modalities[sample.modality] != modality) {
      ++sample.modality;
    }
    if (sample.modality == modalities.size()) {
      throw refusal(order->where(), "unknown modality " + quoted(modality));
    }
    sample.t = seconds(record.publish_time);
    sample.arrival = seconds(record.log_time);
    order->check(sample);
    take(sample);
  }

  double seconds(uint64_t ns) const {
    const __int128 since = static_cast<__int128>(ns) - static_cast<__int128>(start_ns_);
    return origin_ + static_cast<double>(since) / 1e9;
  }

  // Hands records up to the end of the data to `visit`, those of chunks too, or to where the file
  // was cut, until `visit` says no.
  void read_records(const Visit& visit) const {
    Fields fields(file_.bytes());
    fields.bytes(kMagic.size());
    for (;;) {
      const size_t begin = fields.at();
      Record record;
      std::vector<Record> parts;
      try {
        const auto kind = static_cast<uint8_t>(fields.number(1));
        const uint64_t length = fields.number(8);
        if (length > kMaxRecordBytes) {
          throw Damage{"a record of " + std::to_string(length) + " bytes, expected at most " +
                           std::to_string(kMaxRecordBytes),
                       true};
        }
        record = read_record(&fields, kind, length);
        if (record.kind == Opcode::kDataEnd) return;
        if (record.kind == Opcode::kChunk && record.encoding.empty()) {
          // All of it before any is handed out: the last chunk of a file that was cut counts as a
          // whole or not at all.
          each_part(record, [](const Record&) { return true; });
        }
      } catch (const Damage& damage) {
        if (is_cut_ && fields.left() == 0 && !damage.is_too_long) return;
        throw refusal(path_, "damaged: " + damage.text + "; copy it anew");
      }
      const bool is_own_chunk = record.kind == Opcode::kChunk && record.encoding.empty();
      if (!(is_own_chunk ? each_part(record, visit) : visit(record))) return;
      if (record.kind == Opcode::kFooter) {
        check_final_magic(&fields);
        return;
      }
      file_.forget(file_.bytes().part(begin, fields.at() - begin));
    }
  }

  void check_final_magic(Fields* fields) const {
    try {
      if (fields->bytes(kMagic.size()).text() == kMagic) return;
    } catch (const Damage&) {
      if (is_cut_) return;
    }
    if (is_cut_ && fields->left() == 0) return;
    throw refusal(path_, "damaged: it does not end as an MCAP file; copy it anew");
  }

  // Hands the records of a chunk to `visit`, until it says no. Throws Damage.
  static bool each_part(const Record& chunk, const Visit& visit) {
    if (chunk.crc != 0 && chunk.crc != runtime::crc32(chunk.data)) {
      throw Damage{"the checksum of a chunk differs"};
    }
    size_t at = 0;
    while (at < chunk.data.size) {
      Fields head(chunk.data.part(at, chunk.data.size - at));
      const auto kind = static_cast<uint8_t>(head.number(1));
      const uint64_t length = head.number(8);
      if (length > head.left()) throw Damage{"a record that ends after its chunk"};
      Record record;
      const Bytes body = chunk.data.part(at + kHeadBytes, static_cast<size_t>(length));
      at += kHeadBytes + body.size;
      if (read_part(kind, body, &record) && !visit(record)) return false;
    }
    return true;
  }

  // What the metadata record at the end says of samples that were not recorded. Records are passed
  // over by their lengths.
  Losses losses() const {
    Losses counts;
    const Bytes all = file_.bytes();
    size_t at = kMagic.size();
    while (at <= all.size && all.size - at >= kHeadBytes) {
      Fields head(all.part(at, all.size - at));
      const auto kind = static_cast<Opcode>(head.number(1));
      const uint64_t length = head.number(8);
      at += kHeadBytes;
      if (kind == Opcode::kDataEnd) break;
      const size_t size = static_cast<size_t>(std::min<uint64_t>(length, all.size - at));
      if (kind == Opcode::kMetadata && length <= kMaxEndBytes) {
        read_end(all.part(at, size), &counts);
      }
      if (length > all.size - at) break;
      at += size;
    }
    return counts;
  }

  void read_end(Bytes body, Losses* counts) const {
    std::string fault;
    try {
      Fields fields(body);
      const std::string_view name = fields.text();
      const Metadata metadata = fields.metadata();
      if (name != kEnd) return;
      const auto lost = find(metadata, "lost");
      if (has_digest(metadata) && lost) {
        const JsonDocument document(
            {reinterpret_cast<const uint8_t*>(lost->data()), lost->size()}, kMaxEndBytes);
        *counts = read_losses(document.root(), runtime::Place());
        return;
      }
      fault = lost ? "its digest differs" : "it has no 'lost'";
    } catch (const Damage& damage) {
      fault = damage.text;
    } catch (const Misfit& misfit) {
      fault = misfit.text;
    }
    throw refusal(path_, "metadata " + quoted(kEnd) + ": " + fault + "; copy it anew");
  }

  // Refuses what another program wrote.
  void check_own(const Record& record) const {
    if (record.kind == Opcode::kChunk && !record.encoding.empty()) {
      throw refusal(path_, "its chunks are compressed with " + quoted(record.encoding) +
                               "; write it anew with mcap compress --compression none");
    }
    if (record.kind == Opcode::kSchema &&
        (record.name != kSchema || record.encoding != kSchemaEncoding) &&
        !begins(record.name, kExtraSchema)) {
      refuse("schema " + quoted(record.name) + " of encoding " + quoted(record.encoding));
    }
    if (record.kind == Opcode::kChannel && record.encoding != kEncoding &&
        !begins(record.name, kExtra)) {
      refuse("topic " + quoted(record.name) + " of message encoding " + quoted(record.encoding));
    }
  }

  [[noreturn]] void refuse(const std::string& fault) const {
    throw refusal(path_, "not a recording of mmedge: " + fault +
                             "; expected messages of encoding 'safetensors' with schema "
                             "'mmedge.Sample'. Decode it with your own code, and write each message "
                             "with mmedge.recording.Recorder.record");
  }

  void take_begin(const Metadata& data) {
    const std::string where = path_ + ": metadata " + quoted(kBegin);
    const auto version = find(data, "recording_version");
    if (version != std::to_string(kVersion)) {
      throw refusal(where, "expected recording_version " + std::to_string(kVersion) + ", got " +
                               (version ? quoted(*version) : "none") +
                               "; record it again with this version");
    }
    if (!has_digest(data)) {
      throw refusal(where + " is altered", "its digest differs; copy it anew");
    }
    const auto names = find(data, "modalities"), of = find(data, "bundle"),
               start = find(data, "start_ns"), origin = find(data, "origin_s");
    if (!names || !of || !start || !origin) {
      throw refusal(where, "modalities, bundle, start_ns or origin_s is missing; record it again");
    }
    const auto read = std::from_chars(start->data(), start->data() + start->size(), start_ns_);
    const bool is_whole =
        read.ec == std::errc() && read.ptr == start->data() + start->size() && start->size() <= 20;
    const bool has_origin = is_number(*origin);
    if (has_origin) origin_ = std::strtod(std::string(*origin).c_str(), nullptr);
    if (!is_whole || !has_origin || !(std::abs(origin_) <= kMaxSeconds)) {
      throw refusal(where, "times that no clock has; record it again");
    }
    bundle = std::string(*of);
    read_modalities(*names, where);
  }

  void read_modalities(std::string_view text, const std::string& where) {
    try {
      const JsonDocument document({reinterpret_cast<const uint8_t*>(text.data()), text.size()});
      const JsonValue list = document.root();
      if (!list.is(JsonKind::kList)) throw Misfit("$", "a list of modalities", runtime::show(list));
      JsonValue item = list.size() > 0 ? list.first() : JsonValue();
      for (size_t i = 0; i < list.size(); ++i) {
        if (!item.is(JsonKind::kString)) throw Misfit("$", "a list of texts", runtime::show(item));
        modalities.push_back(item.string());
        if (i + 1 < list.size()) item = item.next();
      }
    } catch (const Misfit& misfit) {
      throw refusal(where, misfit.text + "; record it again");
    }
    check_modalities(modalities, where);
  }

  std::string path_;
  Mapping file_;
  bool is_cut_ = false;  // the end is not there
  uint64_t start_ns_ = 0;
  double origin_ = 0;
};

}  // namespace

std::unique_ptr<Recording> open_mcap(const std::string& path) {
  return std::make_unique<Mcap>(path);
}

}  // namespace mmedge::tools
