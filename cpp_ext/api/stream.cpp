// The functions of mmedge/stream.h.
#include "mmedge/stream.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "clock.h"
#include "handles.h"
#include "stream/network_runner.h"
#include "stream/stream.h"

namespace st = mmedge::runtime::stream;

struct mmedge_stream {
  std::shared_ptr<const rt::Network> network;
  std::unique_ptr<st::NetworkRunner> runner;
  std::unique_ptr<st::Stream> stream;
  std::vector<rt::TensorView> inputs;  // of a push, as many as a modality has at most
  const st::Result* result = nullptr;  // that was taken last
  // Texts of it, which end with a 0.
  std::vector<std::string> texts;
};

namespace {

using namespace mmedge::api;

std::optional<double> given(double value) {
  if (value < 0) return std::nullopt;
  return value;
}

const std::vector<rt::Modality>& modalities(const mmedge_stream* stream) {
  return stream->network->manifest().modalities;
}

size_t find_modality(const mmedge_stream* stream, const char* name) noexcept {
  const auto& all = modalities(stream);
  size_t place = 0;
  while (place < all.size() && (name == nullptr || all[place].name != name)) ++place;
  return place;
}

mmedge_status no_modality(const char* name) noexcept {
  return mmedge::fail(MMEDGE_INPUT_ERROR, "no modality '%.200s' in this bundle",
                      name != nullptr ? name : "");
}

mmedge_status report(const mmedge_stream* stream, rt::Code code) noexcept {
  if (code == rt::Code::kOk) return MMEDGE_OK;
  return mmedge::fail(to_status(code), "%s", stream->stream->message());
}

void read_modality(const mmedge_stream_modality& from, st::StreamOptions* to) {
  if (!has_size(&from)) {
    throw rt::Error(rt::Code::kInput, "a modality's options have another size; make them with "
                                      "MMEDGE_STREAM_MODALITY of this version");
  }
  const std::string name = from.modality != nullptr ? from.modality : "";
  if (from.policy < MMEDGE_LATEST || from.policy > MMEDGE_WINDOW) {
    throw rt::Error(rt::Code::kInput, "modality '" + name + "': no policy " +
                                          std::to_string(from.policy));
  }
  st::Policy& policy = to->align[name];
  policy.kind = static_cast<st::Policy::Kind>(from.policy);
  policy.max_age_ms = given(from.max_age_ms);
  policy.wait_ms = from.wait_ms;
  policy.tolerance_ms = from.tolerance_ms;
  policy.rate_hz = given(from.rate_hz);
  policy.max_gap_ms = given(from.max_gap_ms);
  policy.length = from.length;
  policy.hop = from.hop;
  st::Sanity& sanity = to->sanity[name];
  sanity.finite = from.finite != 0;
  sanity.is_frozen_auto = from.frozen_after < 0;
  if (from.frozen_after > 0) sanity.frozen_after = from.frozen_after;
  sanity.range_margin = given(from.range_margin);
}

double read_monotonic(void*) { return rt::now(); }

// A text of the stream, kept with a final 0 in memory that was set aside.
const char* keep(mmedge_stream* stream, size_t place, std::string_view text) noexcept {
  std::string& kept = stream->texts[place];
  kept.assign(text.data(), text.size() < kept.capacity() ? text.size() : kept.capacity());
  return kept.c_str();
}

}  // namespace

extern "C" {

mmedge_status mmedge_stream_open(mmedge_pipeline* pipeline, const mmedge_stream_options* options,
                                 mmedge_stream** stream) {
  if (stream == nullptr) return missing("stream");
  *stream = nullptr;
  if (pipeline == nullptr || options == nullptr) return missing("pipeline or options");
  if (!has_size(options)) return wrong_size("options", options);
  return guard([&] {
    auto handle = std::make_unique<mmedge_stream>();
    handle->network = pipeline->network;
    const rt::Manifest& manifest = handle->network->manifest();
    if (!handle->network->loop_stages().empty() || !manifest.states.empty()) {
      throw rt::Error(rt::Code::kInput, "streams of this API run neither loops nor stages with state; "
                                        "push to a stream of the runtime in Python");
    }
    st::StreamOptions to;
    to.plan = handle->network->plan().plan;
    if (options->trigger != nullptr) to.trigger = options->trigger;
    if (options->trigger_hz != 0) to.trigger_hz = options->trigger_hz;
    if (options->deadline_ms != 0) to.deadline_ms = options->deadline_ms;
    for (int32_t i = 0; i < options->modality_count; ++i) {
      read_modality(options->modalities[i], &to);
    }
    to.depth = options->depth;
    to.keep = options->keep;
    to.future = options->future_s;
    to.recover_after = options->recover_after;
    for (int32_t i = 0; i < options->largest_count; ++i) {
      const mmedge_size& largest = options->largest[i];
      to.largest[largest.dimension != nullptr ? largest.dimension : ""] = largest.size;
    }
    const st::Clock clock =
        options->clock != nullptr ? st::Clock{options->clock, options->clock_context}
                                  : st::Clock{read_monotonic, nullptr};
    handle->runner = std::make_unique<st::NetworkRunner>(handle->network, to.largest);
    handle->stream = std::make_unique<st::Stream>(manifest, handle->runner.get(), to, clock);
    size_t most = 0;
    for (const rt::Modality& modality : manifest.modalities) {
      most = std::max(most, modality.inputs.size());
    }
    handle->inputs.resize(most);
    // A reason, and for each modality why it is absent and a note.
    handle->texts.resize(1 + 2 * manifest.modalities.size());
    for (std::string& text : handle->texts) text.reserve(st::Text::kCapacity);
    *stream = handle.release();
  });
}

void mmedge_stream_close(mmedge_stream* stream) {
  if (stream != nullptr) stream->stream->close();
  delete stream;
}

mmedge_status mmedge_stream_push(mmedge_stream* stream, const char* modality,
                                 const mmedge_tensor* inputs, int32_t count, const double* stamp,
                                 int64_t* sequence) {
  if (stream == nullptr) return missing("stream");
  stream->result = nullptr;
  const size_t place = find_modality(stream, modality);
  if (place == modalities(stream).size()) return no_modality(modality);
  const std::vector<std::string>& names = modalities(stream)[place].inputs;
  if (count < 0 || static_cast<size_t>(count) != names.size() || inputs == nullptr) {
    return mmedge::fail(MMEDGE_INPUT_ERROR, "modality '%s' has %zu inputs, got %d", modality,
                        names.size(), count);
  }
  for (size_t i = 0; i < names.size(); ++i) {
    const mmedge_tensor* found = nullptr;
    for (int32_t j = 0; j < count; ++j) {
      if (inputs[j].name != nullptr && names[i] == inputs[j].name) found = &inputs[j];
    }
    if (found == nullptr) {
      return mmedge::fail(MMEDGE_INPUT_ERROR, "modality '%s': input '%s' is missing", modality,
                          names[i].c_str());
    }
    rt::NamedTensor tensor;
    mmedge_status status = MMEDGE_OK;
    if (!to_tensor(*found, &tensor, &status)) return status;
    if (tensor.bytes != 0 && tensor.bytes != tensor.view.bytes()) {
      return mmedge::fail(MMEDGE_INPUT_ERROR, "input '%s' has %zu bytes, and its shape needs %zu",
                          names[i].c_str(), tensor.bytes, tensor.view.bytes());
    }
    stream->inputs[i] = tensor.view;
  }
  std::optional<double> t;
  if (stamp != nullptr) t = *stamp;
  return report(stream, stream->stream->push(place, stream->inputs.data(), t, sequence));
}

mmedge_status mmedge_stream_forget(mmedge_stream* stream, const char* modality) {
  if (stream == nullptr) return missing("stream");
  stream->result = nullptr;
  const size_t place = find_modality(stream, modality);
  if (place == modalities(stream).size()) return no_modality(modality);
  return report(stream, stream->stream->forget(place));
}

mmedge_status mmedge_stream_reset(mmedge_stream* stream) {
  if (stream == nullptr) return missing("stream");
  stream->result = nullptr;
  return report(stream, stream->stream->reset());
}

mmedge_status mmedge_stream_poll(mmedge_stream* stream) {
  if (stream == nullptr) return missing("stream");
  stream->result = nullptr;
  return report(stream, stream->stream->advance_to(0));
}

double mmedge_stream_next_time(const mmedge_stream* stream) {
  return stream == nullptr ? std::numeric_limits<double>::infinity()
                           : stream->stream->next_time();
}

mmedge_status mmedge_stream_take(mmedge_stream* stream, int32_t latest, mmedge_result* result) {
  if (stream == nullptr || result == nullptr) return missing("stream or result");
  if (!has_size(result)) return wrong_size("result", result);
  const mmedge_result nothing = MMEDGE_RESULT;
  *result = nothing;
  const st::Result* taken = stream->result = stream->stream->take(latest != 0);
  if (taken == nullptr) return MMEDGE_OK;
  result->available = 1;
  result->has_outputs = taken->has_outputs;
  result->fresh = taken->fresh;
  result->met = taken->met ? (*taken->met ? 1 : 0) : -1;
  result->t = taken->t;
  result->made = taken->made;
  result->latency = taken->latency;
  result->lateness = taken->lateness;
  result->outputs_t = taken->outputs_t.value_or(std::numeric_limits<double>::quiet_NaN());
  if (taken->trigger >= 0) {
    result->trigger = modalities(stream)[static_cast<size_t>(taken->trigger)].name.c_str();
  }
  result->reason = keep(stream, 0, taken->reason.view());
  return MMEDGE_OK;
}

mmedge_status mmedge_stream_output(mmedge_stream* stream, mmedge_tensor* output) {
  if (stream == nullptr || output == nullptr) return missing("stream or output");
  if (stream->result == nullptr || !stream->result->has_outputs) {
    return mmedge::fail(MMEDGE_INPUT_ERROR, "there is no result with outputs; take one first");
  }
  const auto& specs = stream->network->outputs();
  size_t index = 0;
  while (index < specs.size() && (output->name == nullptr || specs[index].name != output->name)) {
    ++index;
  }
  if (index == specs.size()) {
    return mmedge::fail(MMEDGE_INPUT_ERROR, "no output '%.200s' in this bundle",
                        output->name != nullptr ? output->name : "");
  }
  return give_tensor(
      stream->runner->output(static_cast<size_t>(stream->result->slot), index), output);
}

mmedge_status mmedge_stream_result_modality(mmedge_stream* stream, int32_t index,
                                            mmedge_result_modality* modality) {
  if (stream == nullptr || modality == nullptr) return missing("stream or modality");
  if (!has_size(modality)) return wrong_size("modality", modality);
  if (stream->result == nullptr || index < 0 ||
      static_cast<size_t>(index) >= stream->result->modalities.size()) {
    return mmedge::fail(MMEDGE_INVALID, "no modality %d of a result that was taken", index);
  }
  const auto place = static_cast<size_t>(index);
  const st::ModalityResult& from = stream->result->modalities[place];
  const double none = std::numeric_limits<double>::quiet_NaN();
  modality->modality = modalities(stream)[place].name.c_str();
  modality->age = from.age.value_or(none);
  modality->samples = static_cast<int32_t>(from.samples.size());
  modality->sequence = from.samples.empty() ? -1 : from.samples.back().seq;
  modality->stamp = from.samples.empty() ? none : from.samples.back().t;
  modality->absent = keep(stream, 1 + 2 * place, from.absent.view());
  modality->note = keep(stream, 2 + 2 * place, from.note.view());
  return MMEDGE_OK;
}

mmedge_status mmedge_stream_dropped(mmedge_stream* stream, const char* modality,
                                    const char* reason, uint64_t* count) {
  if (stream == nullptr || count == nullptr) return missing("stream or count");
  const size_t place = find_modality(stream, modality);
  if (place == modalities(stream).size()) return no_modality(modality);
  st::DropCounts dropped = stream->stream->health().modalities[place].dropped;
  uint64_t total = 0;
  bool known = reason == nullptr;
  for (size_t i = 1; i < st::kDropReasons; ++i) {
    const auto each = static_cast<st::DropReason>(i);
    if (reason != nullptr && std::strcmp(reason, st::drop_reason_name(each)) != 0) continue;
    total += dropped[each];
    known = true;
  }
  if (!known) return mmedge::fail(MMEDGE_INVALID, "no reason '%.100s' to drop a sample", reason);
  *count = total;
  return MMEDGE_OK;
}

mmedge_status mmedge_stream_counters(mmedge_stream* stream, mmedge_stream_health* health) {
  if (stream == nullptr || health == nullptr) return missing("stream or health");
  if (!has_size(health)) return wrong_size("health", health);
  const st::Health& from = stream->stream->health();
  health->triggers = from.triggers;
  health->results = from.results;
  health->stale = from.stale;
  health->empty = from.empty;
  health->deadline_misses = from.deadline_misses;
  health->results_dropped = from.results_dropped;
  health->latency_p95 = from.latency_p95.value_or(std::numeric_limits<double>::quiet_NaN());
  return MMEDGE_OK;
}

}  // extern "C"
