// Reads a zip of stored entries by the letter of PKWARE's APPNOTE 6.3.10.
#include "bundle/zipped.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cinttypes>
#include <cstring>
#include <set>
#include <system_error>

#include "bundle/crc32.h"
#include "bundle/file_descriptor.h"
#include "bundle/paths.h"
#include "bundle/sha256.h"

namespace mmedge::runtime {

namespace {

// Bytes of the records of APPNOTE 4.3.7, 4.3.12, 4.3.16, 4.3.15 and 4.3.14, without what varies.
constexpr size_t kLocalSize = 30, kEntrySize = 46, kEndSize = 22;
constexpr size_t kLocator64Size = 20, kEnd64Size = 56;

constexpr unsigned kUtf8Name = 0x800;  // general purpose bit 11: the one flag that an entry may carry
constexpr unsigned kEncrypted = 0x1;
// They stand for "see the zip64 record".
constexpr uint32_t kMany16 = 0xFFFF, kMany32 = 0xFFFFFFFF;

// Bytes at the end of a zip in which the names of its entries are looked for.
constexpr size_t kNamesBytes = size_t{1} << 24;

// Bytes that are hashed before they are taken out of resident memory.
constexpr size_t kHashBytes = size_t{4} << 20;

// Little-endian numbers of a record.
uint64_t number(const uint8_t* at, int bytes) {
  uint64_t value = 0;
  for (int i = bytes - 1; i >= 0; --i) value = value << 8 | at[i];
  return value;
}
uint32_t u16(const uint8_t* at) { return static_cast<uint32_t>(number(at, 2)); }
uint32_t u32(const uint8_t* at) { return static_cast<uint32_t>(number(at, 4)); }
uint64_t u64(const uint8_t* at) { return number(at, 8); }

}  // namespace

Zipped::Zipped(const std::string& path) : Archive(path) {
  // Where a pipe has taken the file's place, nobody waits for its other end.
  const FileDescriptor file(::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
  struct stat status;
  if (!file || fstat(file.get(), &status) != 0) {
    throw refusal("the bundle cannot be read: %s", std::generic_category().message(errno).c_str());
  }
  identity_ = Identity(status);
  if (identity_.size == 0) throw refusal("an empty file is no bundle");
  if (has_hole(file.get(), status)) {
    throw refusal("a sparse file: %" PRIu64 " bytes, of which some are not stored; copy it with cp "
                  "--sparse=never",
                  identity_.size);
  }
  mapping_ = Mapping(file.get(), static_cast<size_t>(identity_.size));
  if (!mapping_.valid()) {
    throw refusal("the bundle cannot be read: %s", std::generic_category().message(errno).c_str());
  }
  all_ = mapping_.bytes();
  // Before the zip's own rules, which say nothing to whoever named another file.
  const size_t names = std::min(all_.size, kNamesBytes);
  const char* manifest = kManifestFile;
  if (memmem(all_.end() - names, names, manifest, std::strlen(manifest)) == nullptr) {
    throw Error(Code::kBundle,
                path + " is not a bundle: not a whole zip that holds " + manifest +
                    ". A bundle is the folder, or the one file NAME.mmedge, that mmedge export "
                    "wrote");
  }
  locate();
}

Bytes Zipped::read(const std::string& name) {
  const auto found = files_.find(name);
  if (found == files_.end()) throw refusal("no file %s in the bundle", quoted(name).c_str());
  return found->second;
}

std::string Zipped::digest(const std::string& name) {
  const Bytes data = read(name);
  Sha256 hash;
  for (size_t at = 0; at < data.size; at += kHashBytes) {
    const Bytes part = data.part(at, std::min(kHashBytes, data.size - at));
    hash.update(part);
    // One pass over a large bundle would otherwise stay in this process's resident memory.
    if (part.size == kHashBytes) mapping_.forget(part);
  }
  return hash.hexadecimal();
}

std::string Zipped::file(const std::string& name) {
  read(name);
  throw refusal("%s has no path of its own inside a zip; unpack the bundle into a directory and open "
                "that",
                name.c_str());
}

void Zipped::check_unchanged() {
  struct stat status;
  if (lstat(path_.c_str(), &status) != 0) {
    throw refusal("changed since the bundle was opened: %s",
                  std::generic_category().message(errno).c_str());
  }
  if (Identity(status) != identity_) {
    throw refusal("changed since the bundle was opened; open it again");
  }
}

Error Zipped::fault(const char* format, ...) const {
  va_list arguments;
  va_start(arguments, format);
  const std::string what = message_text(format, arguments);
  va_end(arguments);
  return refusal("%s; export the bundle again", what.c_str());
}

// The bytes of a record, which begins with `magic`.
const uint8_t* Zipped::record(uint64_t offset, size_t size, const char* magic) const {
  if (offset > all_.size || size > all_.size - offset ||
      std::memcmp(all_.data + offset, magic, 4) != 0) {
    throw fault("not a whole zip: no record b%s at byte %" PRIu64, quoted({magic, 4}).c_str(), offset);
  }
  return all_.data + offset;
}

// Fills files_ and sizes_, after every rule has been checked.
void Zipped::locate() {
  uint64_t start = 0;
  std::vector<Entry> entries = directory(&start);
  std::stable_sort(entries.begin(), entries.end(),
                   [](const Entry& a, const Entry& b) { return a.offset < b.offset; });
  uint64_t cursor = 0;
  for (const Entry& entry : entries) {
    if (entry.offset != cursor) {
      throw fault("entry %s at byte %" PRIu64 " %s before", entry.name.c_str(), entry.offset,
                  entry.offset < cursor ? "overlaps the one" : "leaves a gap");
    }
    const uint64_t begin = data_start(entry);
    if (begin > start || entry.size > start - begin) {
      throw fault("entry %s overlaps the directory or is truncated", entry.name.c_str());
    }
    cursor = begin + entry.size;
    files_.emplace(entry.name, all_.part(begin, entry.size));
    sizes_.emplace(entry.name, entry.size);
  }
  if (cursor != start) {
    throw fault("bytes %" PRIu64 " to %" PRIu64 " belong to no entry", cursor, start);
  }
  for (const Entry& entry : entries) {
    // Digests guard all other files; nothing else guards the manifest from a flipped bit.
    if (entry.name == kManifestFile && crc32(files_.at(entry.name)) != entry.crc) {
      throw fault("%s is altered: its CRC-32 is not the zip's", kManifestFile);
    }
  }
}

// The entries of the central directory, and where it starts.
std::vector<Zipped::Entry> Zipped::directory(uint64_t* start) const {
  if (all_.size < kEndSize) throw fault("not a whole zip: no end record");
  uint64_t end = all_.size - kEndSize;
  const uint8_t* last = record(end, kEndSize, "PK\5\6");
  uint64_t count = u16(last + 8), size = u32(last + 12);
  *start = u32(last + 16);
  uint64_t count2 = u16(last + 10);
  if (u16(last + 4) != 0 || u16(last + 6) != 0 || u16(last + 20) != 0 || count != count2) {
    throw fault("a zip in several parts or with a comment");
  }
  // Some writers, Python's among them, add the record well before a number needs it.
  const bool has_locator =
      end >= kLocator64Size && std::memcmp(last - kLocator64Size, "PK\6\7", 4) == 0;
  if (has_locator || count == kMany16 || size == kMany32 || *start == kMany32) {
    if (end < kLocator64Size + kEnd64Size) throw fault("not a whole zip: no zip64 end record");
    const uint8_t* locator = record(end - kLocator64Size, kLocator64Size, "PK\6\7");
    end -= kLocator64Size + kEnd64Size;
    const uint8_t* wide = record(end, kEnd64Size, "PK\6\6");
    const bool is_one_disk = u32(locator + 4) == 0 && u32(locator + 16) == 1 &&
                             u32(wide + 16) == 0 && u32(wide + 20) == 0;
    if (!is_one_disk || u64(locator + 8) != end || u64(wide + 4) != kEnd64Size - 12) {
      throw fault("a zip64 end record that contradicts itself");
    }
    const uint64_t wide_count = u64(wide + 24), wide_size = u64(wide + 40);
    const uint64_t wide_start = u64(wide + 48);
    if ((count != wide_count && count != kMany16) || (size != wide_size && size != kMany32) ||
        (*start != wide_start && *start != kMany32)) {
      throw fault("a zip64 end record that contradicts the end record");
    }
    count = wide_count;
    count2 = u64(wide + 32);
    size = wide_size;
    *start = wide_start;
  }
  if (count != count2 || count > kMaxFiles + 3) {
    throw fault("at most %zu files expected, the zip declares %" PRIu64, kMaxFiles, count);
  }
  if (*start > end || size != end - *start) {
    throw fault("the zip's directory does not end where its end record begins");
  }
  std::vector<Entry> entries;
  std::set<std::string> names;
  uint64_t at = *start;
  for (uint64_t i = 0; i < count; ++i) {
    entries.push_back(entry(&at));
    if (!names.insert(entries.back().name).second) {
      throw fault("duplicate zip entry %s", entries.back().name.c_str());
    }
  }
  if (at != end) throw fault("the zip's directory holds more than its entries");
  return entries;
}

// The directory's entry at byte `at`, which is moved to the next one.
Zipped::Entry Zipped::entry(uint64_t* at) const {
  const uint8_t* head = record(*at, kEntrySize, "PK\1\2");
  const uint64_t name_at = *at + kEntrySize;
  const uint64_t extra_at = name_at + u16(head + 28);
  const uint64_t after = extra_at + u16(head + 30);
  if (after > all_.size || u16(head + 32) != 0 || u16(head + 34) != 0) {
    throw fault("a directory entry that is truncated, commented or on another disk");
  }
  Entry entry;
  entry.name = all_.part(name_at, extra_at - name_at).text();
  const std::string wrong = path_fault(entry.name);
  if (!wrong.empty()) throw fault("%s", wrong.c_str());
  const char* name = entry.name.c_str();
  const unsigned kind = u32(head + 38) >> 16 & S_IFMT;
  if (kind != 0 && kind != S_IFREG) {
    throw fault("entry %s is a link or a device; a bundle holds plain files", name);
  }
  const unsigned flags = u16(head + 8), method = u16(head + 10);
  if (flags & kEncrypted) throw fault("entry %s is encrypted", name);
  if (flags & ~kUtf8Name) {
    throw fault("entry %s has flags 0x%x; sizes must stand in its header", name, flags);
  }
  if (method != 0) {
    throw fault("entry %s is compressed (method %u); zip with -0", name, method);
  }
  Numbers numbers{u32(head + 24), u32(head + 20), u32(head + 42)};
  widen(all_.part(extra_at, after - extra_at), entry.name, &numbers);
  if (numbers.stored_size != numbers.size) {
    throw fault("entry %s declares %" PRIu64 " bytes but stores %" PRIu64, name, numbers.size,
                numbers.stored_size);
  }
  entry.crc = u32(head + 16);
  entry.size = numbers.size;
  entry.offset = numbers.offset;
  *at = after;
  return entry;
}

// Fills in the 64-bit numbers: APPNOTE 4.5.3. No other extra field is allowed: one of them gives
// the entry another name (4.6.9).
void Zipped::widen(Bytes extra, const std::string& name, Numbers* numbers) const {
  uint64_t* const fields[] = {&numbers->size, &numbers->stored_size, &numbers->offset};
  size_t wide_count = 0;
  for (const uint64_t* field : fields) wide_count += *field == kMany32;
  if (extra.size == 0 && wide_count == 0) return;
  if (extra.size < 4) throw fault("entry %s lacks its zip64 sizes", name.c_str());
  const unsigned kind = u16(extra.data), length = u16(extra.data + 2);
  if (kind != 1 || length != extra.size - 4) {
    throw fault("entry %s has an extra field 0x%04x; zip with -X", name.c_str(), kind);
  }
  if (wide_count == 0 || length != 8 * wide_count) {
    throw fault("entry %s lacks its zip64 sizes", name.c_str());
  }
  const uint8_t* wide = extra.data + 4;
  for (uint64_t* field : fields) {
    if (*field != kMany32) continue;
    *field = u64(wide);
    wide += 8;
  }
}

// First byte of the entry's data, after its local header has been compared.
uint64_t Zipped::data_start(const Entry& entry) const {
  const uint8_t* head = record(entry.offset, kLocalSize, "PK\3\4");
  const uint64_t name_at = entry.offset + kLocalSize;
  const uint64_t extra_at = name_at + u16(head + 26);
  const uint64_t begin = extra_at + u16(head + 28);
  if (begin > all_.size || all_.part(name_at, extra_at - name_at).text() != entry.name) {
    throw fault("entry %s has another name in its own header", entry.name.c_str());
  }
  Numbers numbers{u32(head + 22), u32(head + 18), 0};
  widen(all_.part(extra_at, begin - extra_at), entry.name, &numbers);
  if ((u16(head + 6) & ~kUtf8Name) != 0 || u16(head + 8) != 0 ||
      numbers.stored_size != numbers.size || numbers.size != entry.size) {
    throw fault("entry %s is declared otherwise in its own header", entry.name.c_str());
  }
  return begin;
}

}  // namespace mmedge::runtime
