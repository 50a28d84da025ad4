// A recording as a folder: recording.json, and chunks of samples in safetensors.
// mmedge/recording/directory.py in C++.
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <system_error>

#include "bundle/file_descriptor.h"
#include "bundle/sha256.h"
#include "recording/json_text.h"
#include "recording/sample.h"
#include "schema/names.h"
#include "schema/read.h"

namespace mmedge::tools {
namespace {

using runtime::Bytes;
using runtime::DType;
using runtime::FileDescriptor;
using runtime::JsonDocument;
using runtime::JsonValue;
using runtime::Mapping;
using runtime::Misfit;
using runtime::Place;
using runtime::Sha256;
using runtime::TensorView;

constexpr const char* kIndex = "recording.json";
constexpr size_t kMaxIndexBytes = size_t{32} << 20, kMaxChunks = 1'000'000;
// One value of the largest size on top of a full chunk, and its header.
constexpr size_t kMaxChunkBytes = kMaxValueBytes + (size_t{16} << 20) + (size_t{64} << 20);
constexpr int64_t kMaxCount = int64_t{1} << 53;

struct Index {
  std::string bundle;
  std::vector<std::string> modalities;
  std::string start;
  bool complete = false;
  int64_t count = 0;
  std::vector<int64_t> chunk_bytes;
  Losses lost;
  std::string sha256;
};

std::string system_message(int error) { return std::generic_category().message(error); }

Bytes bytes_of(const std::string& text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

bool is_start(const std::string& text) {
  return !text.empty() && text.size() <= 40 &&
         text.find_first_not_of("0123456789T:.+-") == std::string::npos;
}

std::string chunk_name(size_t number) {
  char name[40];
  std::snprintf(name, sizeof name, "chunk-%06zu.safetensors", number);
  return name;
}

// chunk-NNNNNN.safetensors
bool is_chunk(const std::string& name) {
  return name.size() == 24 && name.compare(0, 6, "chunk-") == 0 &&
         std::all_of(name.begin() + 6, name.begin() + 12,
                     [](char c) { return c >= '0' && c <= '9'; }) &&
         name.compare(12, 12, ".safetensors") == 0;
}

// What a killed recorder was about to write.
bool is_part(const std::string& name) {
  if (name.size() < 7 || name[0] != '.' || name.compare(name.size() - 5, 5, ".part") != 0) {
    return false;
  }
  const std::string inner = name.substr(1, name.size() - 6);
  return inner == kIndex || is_chunk(inner);
}

Index read_index(JsonValue root) {
  const Place top;
  const runtime::Record record(root, top,
                               {"recording_version", "bundle", "modalities", "start", "complete",
                                "count", "chunk_bytes", "lost", "sha256"});
  Index index;
  runtime::read_integer(record[0], record.at(0), kVersion, kVersion);
  index.bundle = runtime::read_text(record[1], record.at(1));
  const Place modalities = record.at(2);
  size_t count = runtime::read_list(record[2], modalities, 1);
  JsonValue item = record[2].first();
  for (size_t i = 0; i < count; ++i) {
    index.modalities.push_back(runtime::read_text(item, Place(modalities, i)));
    if (i + 1 < count) item = item.next();
  }
  index.start = runtime::read_text(record[3], record.at(3));
  if (!is_start(index.start)) {
    throw Misfit(record.at(3).text(), "text of the form [0-9T:.+-]{1,40}",
                 runtime::show(record[3]));
  }
  index.complete = runtime::read_boolean(record[4], record.at(4));
  index.count = runtime::read_integer(record[5], record.at(5), 0, kMaxCount);
  const Place sizes = record.at(6);
  count = runtime::read_list(record[6], sizes, 0, kMaxChunks);
  if (count > 0) item = record[6].first();
  for (size_t i = 0; i < count; ++i) {
    index.chunk_bytes.push_back(
        runtime::read_integer(item, Place(sizes, i), 1, static_cast<int64_t>(kMaxChunkBytes)));
    if (i + 1 < count) item = item.next();
  }
  index.lost = read_losses(record[7], record.at(7));
  index.sha256 = runtime::read_digest(record[8], record.at(8));
  return index;
}

// SHA-256 of all that the index says, with sorted keys.
std::string digest_of(const Index& index) {
  JsonText text;
  text.open('{').key("bundle").string(index.bundle).key("chunk_bytes").open('[');
  for (const int64_t size : index.chunk_bytes) text.whole(size);
  text.close(']').key("complete").boolean(index.complete).key("count").whole(index.count);
  Losses lost = index.lost;
  std::sort(lost.begin(), lost.end());
  text.key("lost").open('{');
  for (const auto& [reason, count] : lost) text.key(reason).whole(count);
  text.close('}').key("modalities").open('[');
  for (const std::string& name : index.modalities) text.string(name);
  text.close(']').key("recording_version").whole(kVersion).key("sha256").string("");
  text.key("start").string(index.start).close('}');
  return runtime::sha256_hexadecimal(bytes_of(text.text()));
}

// SHA-256 of a chunk's content and of its place.
std::array<uint8_t, 32> digest_of(const std::string& start, size_t number,
                                  const std::map<std::string, TensorView>& tensors) {
  Sha256 hash;
  const JsonText place =
      JsonText().open('[').string(start).natural(number).close(']');
  hash.update(bytes_of(place.text()));
  for (const auto& [name, view] : tensors) {
    JsonText head;
    head.open('[').string(name).string(runtime::dtype_name(view.dtype)).open('[');
    for (size_t axis = 0; axis < view.rank; ++axis) head.whole(view.shape[axis]);
    head.close(']').close(']');
    hash.update(bytes_of(head.text()));
    hash.update({static_cast<const uint8_t*>(view.data), view.bytes()});
  }
  return hash.digest();
}

// "12.value" is sample 12 and `value`; false: of no such form.
bool split_name(const std::string& name, size_t* sample, std::string* rest) {
  const size_t point = name.find('.');
  if (point == std::string::npos || point == 0 || point > 7 || point + 1 == name.size()) return false;
  if (name[0] == '0' && point > 1) return false;
  const auto read = std::from_chars(name.data(), name.data() + point, *sample);
  if (read.ec != std::errc() || read.ptr != name.data() + point) return false;
  *rest = name.substr(point + 1);
  return true;
}

// Element `i` of 8 bytes, wherever it lies.
template <class Number>
Number element(const TensorView& view, size_t i) {
  Number number;
  std::memcpy(&number, static_cast<const uint8_t*>(view.data) + i * sizeof number, sizeof number);
  return number;
}

class Folder final : public Recording {
 public:
  explicit Folder(const std::string& path) : path_(path) {
    folder_ = FileDescriptor(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!folder_) throw refusal(path_, "the recording cannot be read: " + system_message(errno));
    const Mapping file = open_file(kIndex, kMaxIndexBytes);
    try {
      const JsonDocument document(file.bytes(), kMaxIndexBytes);
      index_ = read_index(document.root());
    } catch (const Misfit& misfit) {
      throw refusal(path_, std::string(kIndex) + ": " + misfit.text + "; record it again");
    }
    if (index_.sha256 != digest_of(index_)) {
      throw refusal(path_, std::string(kIndex) + " is altered: its digest differs; copy it anew");
    }
    bundle = index_.bundle;
    modalities = index_.modalities;
    check_modalities(modalities, path_ + ": " + kIndex);
    list();
    missing = words(index_.lost);
    if (index_.complete) {
      check_whole();
    } else {
      missing = chunks_ == 0 ? "the recorder was not closed: all samples are missing"
                             : "the recorder was not closed: what came after chunk " +
                                   std::to_string(chunks_ - 1) + " is missing";
    }
  }

  void read(const std::function<void(const Recorded&)>& take) const override {
    Order order(name);
    for (size_t number = 0; number < chunks_; ++number) {
      const std::string chunk = chunk_name(number);
      const Mapping file = open_file(chunk, kMaxChunkBytes);
      const size_t size = file.bytes().size;
      if (index_.complete && size != static_cast<size_t>(index_.chunk_bytes[number])) {
        throw wrong_size(number, size);
      }
      const std::string where = path_ + ": " + chunk;
      std::map<std::string, TensorView> tensors = unpack(file.bytes(), where);
      check_digest(&tensors, number);
      read_samples(&tensors, where, &order, take);
    }
    if (index_.complete && order.count() != index_.count) {
      throw refusal(path_, "expected " + std::to_string(index_.count) + " samples, got " +
                               std::to_string(order.count()) + "; record it again");
    }
  }

 private:
  // Takes the digest out of the tensors.
  void check_digest(std::map<std::string, TensorView>* tensors, size_t number) const {
    const auto found = tensors->find("sha256");
    bool is_right = found != tensors->end();
    if (is_right) {
      const TensorView stated = found->second;
      tensors->erase(found);
      const std::array<uint8_t, 32> digest = digest_of(index_.start, number, *tensors);
      is_right = stated.bytes() == digest.size() &&
                 std::memcmp(stated.data, digest.data(), digest.size()) == 0;
    }
    if (!is_right) {
      throw refusal(path_, chunk_name(number) +
                               " is altered: its digest differs; copy the recording anew");
    }
  }

  TensorView column(std::map<std::string, TensorView>* tensors, const char* name, DType dtype,
                    const std::string& where) const {
    const auto found = tensors->find(name);
    if (found == tensors->end() || found->second.dtype != dtype || found->second.rank != 1) {
      throw refusal(where, std::string("expected '") + name + "' of " +
                               runtime::dtype_name(dtype) + ", rank 1; record it again");
    }
    const TensorView view = found->second;
    tensors->erase(found);
    return view;
  }

  void read_samples(std::map<std::string, TensorView>* tensors, const std::string& where,
                    Order* order, const std::function<void(const Recorded&)>& take) const {
    const TensorView stamps = column(tensors, "t", DType::kFloat64, where);
    const TensorView arrivals = column(tensors, "arrival", DType::kFloat64, where);
    const TensorView kinds = column(tensors, "modality", DType::kInt64, where);
    const auto count = static_cast<size_t>(stamps.shape[0]);
    if (arrivals.shape[0] != stamps.shape[0] || kinds.shape[0] != stamps.shape[0]) {
      throw refusal(where, "'t', 'arrival' and 'modality' differ in length");
    }
    std::vector<std::vector<std::pair<std::string, TensorView>>> values(count);
    for (const auto& [key, view] : *tensors) {
      size_t sample = 0;
      std::string rest;
      if (!split_name(key, &sample, &rest) || sample >= count) {
        throw refusal(where, "unknown tensor " + runtime::show(key) + "; record it again");
      }
      values[sample].emplace_back(std::move(rest), view);
    }
    for (size_t number = 0; number < count; ++number) {
      const std::string place = where + ": sample " + std::to_string(number);
      const auto kind = element<int64_t>(kinds, number);
      if (kind < 0 || kind >= static_cast<int64_t>(modalities.size())) {
        throw refusal(place, "of modality " + std::to_string(kind) + ", which is none");
      }
      Recorded sample;
      sample.modality = static_cast<size_t>(kind);
      sample.t = element<double>(stamps, number);
      sample.arrival = element<double>(arrivals, number);
      sample.value = value_of(std::move(values[number]), place);
      order->check(sample);
      take(sample);
    }
  }

  // Counts the chunks, which have no gaps, and refuses any other file.
  void list() {
    FileDescriptor copy(::openat(folder_.get(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    DIR* entries = copy ? fdopendir(copy.get()) : nullptr;
    if (entries == nullptr) throw refusal(path_, "cannot be listed: " + system_message(errno));
    copy.release();
    std::vector<std::string> names;
    errno = 0;
    while (const dirent* entry = readdir(entries)) {
      names.emplace_back(entry->d_name);
      errno = 0;
    }
    const int error = errno;
    closedir(entries);
    if (error != 0) throw refusal(path_, "cannot be listed: " + system_message(error));
    std::sort(names.begin(), names.end());
    for (const std::string& name : names) {
      if (name == "." || name == ".." || name == kIndex || is_part(name)) continue;
      if (!is_chunk(name)) {
        throw refusal(path_, "unknown file " + runtime::show(name) + "; a recording holds " +
                                 kIndex + " and its chunks alone, remove it");
      }
      if (name != chunk_name(chunks_)) {
        throw refusal(path_, chunk_name(chunks_) + " is missing; copy it anew");
      }
      ++chunks_;
    }
  }

  void check_whole() const {
    if (chunks_ != index_.chunk_bytes.size()) {
      throw refusal(path_, "expected " + std::to_string(index_.chunk_bytes.size()) +
                               " chunks, got " + std::to_string(chunks_) +
                               "; the recording was whole once, copy it anew");
    }
    for (size_t number = 0; number < chunks_; ++number) {
      struct stat status;
      const std::string chunk = chunk_name(number);
      if (fstatat(folder_.get(), chunk.c_str(), &status, AT_SYMLINK_NOFOLLOW) != 0) {
        throw refusal(path_, chunk + " cannot be read: " + system_message(errno));
      }
      if (S_ISREG(status.st_mode) && int64_t{status.st_size} != index_.chunk_bytes[number]) {
        throw wrong_size(number, static_cast<uint64_t>(status.st_size));
      }
    }
  }

  runtime::Error wrong_size(size_t number, uint64_t size) const {
    return refusal(path_, chunk_name(number) + ": expected " +
                              std::to_string(index_.chunk_bytes[number]) + " bytes, got " +
                              std::to_string(size) + "; copy the recording anew");
  }

  // A plain file of the folder; follows no link and waits for no pipe.
  Mapping open_file(const std::string& name, size_t most) const {
    const FileDescriptor file(
        ::openat(folder_.get(), name.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
    if (!file) {
      throw refusal(path_, name + " cannot be read as a part of a recording: " +
                               system_message(errno) + ". A recording holds plain files, no links");
    }
    return map_file(file.get(), most, path_ + ": " + name);
  }

  std::string path_;
  FileDescriptor folder_;
  Index index_;
  size_t chunks_ = 0;
};

}  // namespace

std::unique_ptr<Recording> open_folder(const std::string& path) {
  return std::make_unique<Folder>(path);
}

}  // namespace mmedge::tools
