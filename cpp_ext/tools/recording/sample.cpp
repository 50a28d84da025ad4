// Rules of both forms.
#include "recording/sample.h"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <system_error>

#include "bundle/identity.h"
#include "bundle/safetensors.h"
#include "recording/json_text.h"
#include "schema/names.h"
#include "schema/read.h"
#include "schema/utf8.h"

namespace mmedge::tools {

using runtime::Bytes;
using runtime::Code;
using runtime::Error;
using runtime::JsonValue;
using runtime::Place;
using runtime::TensorView;

namespace {

constexpr double kMaxSeconds = 1e11;
constexpr int64_t kMaxHole = int64_t{64} << 20;
constexpr int64_t kMaxCount = int64_t{1} << 53;

bool starts_with(const std::string& text, const char* prefix) { return text.rfind(prefix, 0) == 0; }

std::string seconds(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%g s", value);
  return text;
}

bool is_reason(const std::string& text) {
  return !text.empty() && text.size() <= 64 &&
         std::all_of(text.begin(), text.end(), [](char c) { return (c >= 'a' && c <= 'z') || c == '_'; });
}

}  // namespace

Error refusal(const std::string& where, const std::string& fault) {
  return {Code::kInput, where + ": " + fault};
}

runtime::Mapping map_file(int fd, size_t most, const std::string& where) {
  struct stat status;
  if (fstat(fd, &status) != 0) {
    throw refusal(where, "cannot be read: " + std::generic_category().message(errno));
  }
  if (!S_ISREG(status.st_mode)) {
    throw refusal(where, "not a plain file; a recording holds plain files, no links");
  }
  const auto size = static_cast<uint64_t>(status.st_size);
  if (size > most) {
    throw refusal(where, "expected at most " + std::to_string(most) + " bytes, got " +
                             std::to_string(size));
  }
  const int64_t disk_bytes = int64_t{status.st_blocks} * 512;
  if (int64_t{status.st_size} - disk_bytes > kMaxHole && runtime::has_hole(fd, status)) {
    throw refusal(where, std::to_string(size) + " bytes, of which the disk holds " +
                             std::to_string(disk_bytes) +
                             "; a sparse file is no part of a recording, copy it anew");
  }
  runtime::Mapping mapping(fd, static_cast<size_t>(size));
  if (!mapping.valid()) {
    throw refusal(where, "cannot be read: " + std::generic_category().message(errno));
  }
  return mapping;
}

std::map<std::string, TensorView> unpack(Bytes data, const std::string& where) {
  try {
    return runtime::read_tensors(data, where);
  } catch (const Error& error) {
    // The advice is for a bundle.
    const std::string text = error.what();
    throw Error(Code::kInput, text.substr(0, text.rfind(';')) + "; copy the recording anew");
  }
}

Value value_of(std::vector<std::pair<std::string, TensorView>> tensors, const std::string& where) {
  Value value;
  std::string names;
  bool has_inputs = !tensors.empty();
  for (const auto& [name, view] : tensors) {
    names += (names.empty() ? "" : ", ") + runtime::show(name);
    has_inputs =
        has_inputs && starts_with(name, "in.") && runtime::is_tensor_name(name.substr(3));
  }
  const bool is_one = tensors.size() == 1;
  if (is_one && tensors[0].first == "text") {
    const TensorView& view = tensors[0].second;
    if (view.dtype == runtime::DType::kUint8 && view.rank == 1) {
      const std::string_view text(static_cast<const char*>(view.data), view.bytes());
      const size_t length = runtime::utf8_length(text);
      if (length < text.size()) {
        throw refusal(where, "text that is not UTF-8 at byte " + std::to_string(length));
      }
      value.is_text = true;
      value.tensors.emplace_back("", view);
      return value;
    }
  }
  if (is_one && tensors[0].first == "value") {
    value.tensors.emplace_back("", tensors[0].second);
    return value;
  }
  if (!has_inputs) {
    throw refusal(where,
                  "expected tensors 'value', 'text' (uint8 of rank 1) or 'in.<input>', got " +
                      (names.empty() ? "none" : names.substr(0, 200)) + "; record it again");
  }
  for (auto& [name, view] : tensors) value.tensors.emplace_back(name.substr(3), view);
  return value;
}

void check_modalities(const std::vector<std::string>& modalities, const std::string& where) {
  std::vector<std::string> sorted = modalities;
  std::sort(sorted.begin(), sorted.end());
  const bool are_different = std::adjacent_find(sorted.begin(), sorted.end()) == sorted.end();
  const bool are_names = std::all_of(sorted.begin(), sorted.end(), [](const std::string& name) {
    return runtime::is_name(name);
  });
  if (are_different && are_names && !modalities.empty()) return;
  std::string shown;
  for (const std::string& name : modalities) {
    if (shown.size() < 200) shown += (shown.empty() ? "" : ", ") + runtime::show(name);
  }
  throw refusal(where, "expected different names of modalities, got " +
                           (shown.empty() ? "none" : shown));
}

Losses read_losses(JsonValue value, const Place& where) {
  Losses losses;
  const size_t count = runtime::read_table(value, where);
  JsonValue key = count > 0 ? value.first() : JsonValue();
  for (size_t i = 0; i < count; ++i) {
    const std::string reason = key.string();
    if (!is_reason(reason)) {
      throw runtime::Misfit(where.text(), "text of the form [a-z_]{1,64}", runtime::show(key));
    }
    const JsonValue number = key.next();
    losses.emplace_back(reason,
                        runtime::read_integer(number, Place(where, key, "[%]"), 0, kMaxCount));
    if (i + 1 < count) key = number.next();
  }
  return losses;
}

std::string words(const Losses& losses) {
  std::string text;
  for (const auto& [reason, count] : losses) {
    text += (text.empty() ? "" : ", ") + std::to_string(count) + " samples not recorded (" +
            reason + ")";
  }
  return text;
}

void Order::check(const Recorded& sample) {
  for (const auto& [what, time] :
       {std::make_pair("stamp", sample.t), std::make_pair("arrival", sample.arrival)}) {
    if (!std::isfinite(time)) {
      throw refusal(where(), std::string("a ") + what + " is finite seconds, got " +
                                 (std::isnan(time) ? "nan" : time < 0 ? "-inf" : "inf"));
    }
  }
  if (sample.arrival < last_) {
    throw refusal(where(), "arrival " + JsonText().number(sample.arrival).text() +
                               " s comes after " + JsonText().number(last_).text() +
                               " s; a recording is ordered by arrival");
  }
  for (const auto& [what, time] :
       {std::make_pair("stamp", sample.t), std::make_pair("arrival", sample.arrival)}) {
    if (std::abs(time) > kMaxSeconds) {
      throw refusal(where(), std::string("a ") + what + " of " + seconds(time) +
                                 " is beyond any clock (" + seconds(kMaxSeconds) +
                                 "); if it is in nanoseconds divide it by 1e9, if in milliseconds "
                                 "by 1e3");
    }
  }
  last_ = sample.arrival;
  ++count_;
}

}  // namespace mmedge::tools
