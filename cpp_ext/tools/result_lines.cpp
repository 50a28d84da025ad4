// Asks a stream for results, drops and counters, and writes them.
#include "result_lines.h"

#include <cmath>
#include <cstdio>
#include <cstring>
#include <utility>

#include "bundle/sha256.h"
#include "error.h"
#include "execution/float16.h"
#include "stream/drop_reason.h"

namespace mmedge::tools {
namespace {

// Elements of an output that is written in full.
constexpr size_t kFewElements = 64;

// Why a loop ended, by an mmedge_finish.
constexpr const char* kFinish[] = {"", "stop", "limit", "schedule", "deadline", "cancel"};

struct Element {
  int32_t dtype;
  const char* name;
  size_t bytes;
};

constexpr Element kElements[] = {
    {MMEDGE_BOOL, "bool", 1},    {MMEDGE_F16, "float16", 2}, {MMEDGE_F32, "float32", 4},
    {MMEDGE_F64, "float64", 8},  {MMEDGE_I8, "int8", 1},     {MMEDGE_I16, "int16", 2},
    {MMEDGE_I32, "int32", 4},    {MMEDGE_I64, "int64", 8},   {MMEDGE_U8, "uint8", 1},
    {MMEDGE_U16, "uint16", 2},   {MMEDGE_U32, "uint32", 4},  {MMEDGE_U64, "uint64", 8},
};

template <class Number>
Number read(const uint8_t* at) {
  Number number;
  std::memcpy(&number, at, sizeof number);
  return number;
}

void add_element(int32_t dtype, const uint8_t* at, JsonText* line) {
  switch (dtype) {
    case MMEDGE_BOOL: line->boolean(*at != 0); break;
    case MMEDGE_F16: line->number(runtime::half_to_float(read<uint16_t>(at))); break;
    case MMEDGE_F32: line->number(static_cast<double>(read<float>(at))); break;
    case MMEDGE_F64: line->number(read<double>(at)); break;
    case MMEDGE_I8: line->whole(read<int8_t>(at)); break;
    case MMEDGE_I16: line->whole(read<int16_t>(at)); break;
    case MMEDGE_I32: line->whole(read<int32_t>(at)); break;
    case MMEDGE_I64: line->whole(read<int64_t>(at)); break;
    case MMEDGE_U8: line->natural(read<uint8_t>(at)); break;
    case MMEDGE_U16: line->natural(read<uint16_t>(at)); break;
    case MMEDGE_U32: line->natural(read<uint32_t>(at)); break;
    default: line->natural(read<uint64_t>(at)); break;
  }
}

void add_optional(const std::optional<double>& number, JsonText* line) {
  if (number) {
    line->number(*number);
  } else {
    line->null();
  }
}

}  // namespace

void check(mmedge_status status) {
  if (status != MMEDGE_OK) throw runtime::Error(runtime::Code::kBackend, mmedge_last_error());
}

ResultLines::ResultLines(mmedge_stream* stream, std::vector<std::string> modalities,
                         std::vector<std::string> outputs)
    : stream_(stream),
      modalities_(std::move(modalities)),
      outputs_(std::move(outputs)),
      told_(modalities_.size()),
      told_in_all_(modalities_.size()) {}

void ResultLines::write(const JsonText& line) {
  const std::string& text = line.text();
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() ||
      std::fputc('\n', stdout) == EOF) {
    throw runtime::Error(runtime::Code::kInput, "the results cannot be written");
  }
}

void ResultLines::write_first(const Played& played) {
  JsonText line;
  line.open('{').key("replay").whole(1).key("bundle").string(played.bundle);
  line.key("digest").string(played.digest).key("variant").string(played.variant);
  line.key("plan").string(played.plan).key("recording").string(played.recording);
  line.key("origin");
  add_optional(played.origin, &line);
  line.key("missing").string(played.missing).key("trigger");
  if (played.trigger.empty()) {
    line.number(played.trigger_hz);
  } else {
    line.string(played.trigger);
  }
  line.key("deadline_ms");
  add_optional(played.deadline_ms, &line);
  write(line.close('}'));
}

void ResultLines::write_results() {
  for (;;) {
    mmedge_result result = MMEDGE_RESULT;
    check(mmedge_stream_take(stream_, 0, &result));
    if (!result.available) return;
    JsonText line;
    add_result(result, &line);
    write(line);
  }
}

void ResultLines::add_result(const mmedge_result& result, JsonText* line) {
  line->open('{').key("t").number(result.t).key("made").number(result.made);
  line->key("latency").number(result.latency).key("trigger");
  if (result.trigger == nullptr) {
    line->null();
  } else {
    line->string(result.trigger);
  }
  line->key("fresh").boolean(result.fresh != 0).key("met");
  if (result.met < 0) {
    line->null();
  } else {
    line->boolean(result.met != 0);
  }
  line->key("outputs_t").number(result.outputs_t).key("reason").string(result.reason);
  line->key("modalities").open('{');
  for (size_t i = 0; i < modalities_.size(); ++i) add_modality(static_cast<int32_t>(i), line);
  line->close('}');
  add_stages(line);
  line->key("outputs");
  if (result.has_outputs) {
    line->open('{');
    for (const std::string& name : outputs_) add_output(name, line);
    line->close('}');
    add_finish(line);
  } else {
    line->null();
  }
  // Last: the result is valid until the stream is asked for anything else.
  line->key("dropped");
  add_new_drops(line);
  line->close('}');
}

void ResultLines::add_modality(int32_t index, JsonText* line) {
  mmedge_result_modality modality = MMEDGE_RESULT_MODALITY;
  check(mmedge_stream_result_modality(stream_, index, &modality));
  line->key(modality.modality).open('{').key("age").number(modality.age);
  line->key("samples").whole(modality.samples);
  if (modality.samples > 0) {
    line->key("sequence").whole(modality.sequence).key("stamp").number(modality.stamp);
  }
  if (*modality.absent != '\0') line->key("absent").string(modality.absent);
  if (*modality.note != '\0') line->key("note").string(modality.note);
  line->close('}');
}

void ResultLines::add_finish(JsonText* line) {
  int32_t rows = 0;
  check(mmedge_stream_finish(stream_, nullptr, 0, &rows));
  if (rows == 0) return;
  std::vector<int32_t> finish(static_cast<size_t>(rows));
  check(mmedge_stream_finish(stream_, finish.data(), rows, &rows));
  line->key("finish").open('[');
  for (const int32_t why : finish) line->string(kFinish[why]);
  line->close(']');
}

void ResultLines::add_stages(JsonText* line) {
  std::map<std::string, std::string> notes;
  const char *stage = nullptr, *note = nullptr;
  mmedge_status status = MMEDGE_OK;
  for (int32_t i = 0; status == MMEDGE_OK; ++i) {
    status = mmedge_stream_result_stage(stream_, i, &stage, &note);
    if (status == MMEDGE_OK && *note != '\0') notes.emplace(stage, note);
  }
  if (status != MMEDGE_INVALID) check(status);  // that there is no such stage
  if (notes.empty()) return;
  line->key("notes").open('{');
  for (const auto& [name, text] : notes) line->key(name).string(text);
  line->close('}');
}

void ResultLines::add_output(const std::string& name, JsonText* line) {
  mmedge_tensor tensor{};
  tensor.name = name.c_str();
  check(mmedge_stream_output(stream_, &tensor));
  const Element* element = kElements;
  while (element->dtype != tensor.dtype) ++element;
  const auto* data = static_cast<const uint8_t*>(tensor.data);
  line->key(name).open('{').key("dtype").string(element->name).key("shape").open('[');
  for (int32_t axis = 0; axis < tensor.rank; ++axis) line->whole(tensor.shape[axis]);
  line->close(']').key("sha256").string(runtime::sha256_hexadecimal({data, tensor.bytes}));
  const size_t count = tensor.bytes / element->bytes;
  if (count <= kFewElements) {
    line->key("values").open('[');
    for (size_t i = 0; i < count; ++i) add_element(tensor.dtype, data + i * element->bytes, line);
    line->close(']');
  }
  line->close('}');
}

ResultLines::Drops ResultLines::drops(const std::string& modality) const {
  Drops counts;
  for (size_t i = 1; i < runtime::stream::kDropReasons; ++i) {
    const char* reason =
        runtime::stream::drop_reason_name(static_cast<runtime::stream::DropReason>(i));
    uint64_t count = 0;
    check(mmedge_stream_dropped(stream_, modality.c_str(), reason, &count));
    if (count > 0) counts.emplace(reason, count);
  }
  return counts;
}

void ResultLines::add_new_drops(JsonText* line) {
  line->open('{');
  for (size_t i = 0; i < modalities_.size(); ++i) {
    uint64_t in_all = 0;
    check(mmedge_stream_dropped(stream_, modalities_[i].c_str(), nullptr, &in_all));
    if (in_all == told_in_all_[i]) continue;
    told_in_all_[i] = in_all;
    const Drops now = drops(modalities_[i]);
    line->key(modalities_[i]).open('{');
    for (const auto& [reason, count] : now) {
      const auto before = told_[i].find(reason);
      const uint64_t old = before == told_[i].end() ? 0 : before->second;
      if (count != old) line->key(reason).natural(count - old);
    }
    line->close('}');
    told_[i] = now;
  }
  line->close('}');
}

void ResultLines::write_last(const std::vector<int64_t>& pushed) {
  mmedge_stream_health counters = MMEDGE_STREAM_HEALTH;
  check(mmedge_stream_counters(stream_, &counters));
  JsonText line;
  line.open('{').key("end").open('{').key("triggers").whole(counters.triggers);
  line.key("results").whole(counters.results).key("stale").whole(counters.stale);
  line.key("empty").whole(counters.empty).key("deadline_misses").whole(counters.deadline_misses);
  line.key("results_dropped").whole(counters.results_dropped);
  line.key("latency_p95").number(counters.latency_p95).key("pushed").open('{');
  for (size_t i = 0; i < modalities_.size(); ++i) line.key(modalities_[i]).whole(pushed[i]);
  line.close('}').key("dropped").open('{');
  for (const std::string& modality : modalities_) {
    const Drops counts = drops(modality);
    if (counts.empty()) continue;
    line.key(modality).open('{');
    for (const auto& [reason, count] : counts) line.key(reason).natural(count);
    line.close('}');
  }
  write(line.close('}').close('}').close('}'));
  if (std::fflush(stdout) != 0) {
    throw runtime::Error(runtime::Code::kInput, "the results cannot be written");
  }
}

}  // namespace mmedge::tools
