// The functions of mmedge/stream.h.
#include "mmedge/stream.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "clock.h"
#include "handles.h"
#include "stream/network_runner.h"
#include "stream/stream.h"
#include "stream/threaded_stream.h"
#include "stream_options.h"

namespace st = mmedge::runtime::stream;

struct mmedge_stream {
  std::shared_ptr<const rt::Network> network;
  std::unique_ptr<st::NetworkRunner> runner;
  // One of the two: on the caller's thread, or with threads of its own.
  std::unique_ptr<st::Stream> stream;
  std::unique_ptr<st::ThreadedStream> threads;
  std::vector<rt::TensorView> inputs;  // of a push, as many as a modality has at most
  void (*on_result)(void*, mmedge_stream*, const mmedge_result*) = nullptr;
  void* context = nullptr;
  const st::Result* result = nullptr;  // that was taken last
  // Texts of it, which end with a 0.
  std::vector<std::string> texts;
};

namespace {

using namespace mmedge::api;

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

mmedge_status report(rt::Code code, const char* message) noexcept {
  if (code == rt::Code::kOk) return MMEDGE_OK;
  return mmedge::fail(to_status(code), "%s", message);
}

mmedge_status report(const mmedge_stream* stream, rt::Code code) noexcept {
  return report(code, stream->stream->message());
}

mmedge_status closed() noexcept {
  return mmedge::fail(MMEDGE_BACKEND_ERROR, "the stream is closed; make a new one");
}

const st::FusionStates& states_of(const mmedge_stream* stream) noexcept {
  return stream->threads != nullptr ? stream->threads->states() : stream->stream->states();
}

// Outputs of the result that was taken; -1: it has none.
int taken_slot(const mmedge_stream* stream) noexcept {
  return stream->result != nullptr && stream->result->has_outputs ? stream->result->slot : -1;
}

mmedge_status no_outputs() noexcept {
  return mmedge::fail(MMEDGE_INPUT_ERROR, "there is no result with outputs; take one first");
}

size_t find_output(const std::vector<rt::TensorSpec>& specs, const char* name) noexcept {
  size_t index = 0;
  while (index < specs.size() && (name == nullptr || specs[index].name != name)) ++index;
  return index;
}

st::Mutex* mutex_of(mmedge_stream* stream) noexcept {
  return stream->threads != nullptr ? stream->threads->mutex() : nullptr;
}

// Held with mutex_of().
const st::Health& health_of(mmedge_stream* stream) noexcept {
  return stream->threads != nullptr ? stream->threads->health() : stream->stream->health();
}

double read_monotonic(void*) { return rt::now(); }

// A text of the stream, kept with a final 0 in memory that was set aside.
const char* keep(mmedge_stream* stream, size_t place, std::string_view text) noexcept {
  std::string& kept = stream->texts[place];
  kept.assign(text.data(), text.size() < kept.capacity() ? text.size() : kept.capacity());
  return kept.c_str();
}

mmedge_status results_are_delivered() noexcept {
  return mmedge::fail(MMEDGE_INVALID, "results of this stream go to on_result, and nowhere else");
}

// The next result, whoever asks.
mmedge_status take(mmedge_stream* stream, bool latest, mmedge_result* result) noexcept {
  const mmedge_result nothing = MMEDGE_RESULT;
  *result = nothing;
  stream->result = nullptr;
  const st::ThreadedStream::Call call(stream->threads.get());
  const st::Result* taken = nullptr;
  if (stream->threads != nullptr) {
    rt::CallError error;
    const rt::Code code = stream->threads->take(latest, &taken, &error);
    if (code != rt::Code::kOk) return report(code, error.text);
  } else if (stream->stream->is_closed()) {
    return closed();
  } else {
    taken = stream->stream->take(latest);
  }
  stream->result = taken;
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

// On the thread that delivers.
void hand_over(void* context) {
  auto* stream = static_cast<mmedge_stream*>(context);
  mmedge_result result;
  if (take(stream, false, &result) != MMEDGE_OK || !result.available) return;
  stream->on_result(stream->context, stream, &result);
  stream->result = nullptr;
}

// What a stream waits for.
mmedge_status no_result(mmedge_stream* stream, double timeout) noexcept {
  const st::Lock lock(mutex_of(stream));
  const st::Health& health = health_of(stream);
  st::Text text("no result within ");
  text.add_number(timeout).add(" s: triggers fired ").add_whole(health.triggers).add(" times, ");
  text.add_whole(health.triggers_pending).add(" under way");
  for (size_t i = 0; i < health.modalities.size(); ++i) {
    const st::ModalityHealth& state = health.modalities[i];
    text.add(i == 0 ? "; " : ", ").add(std::string_view(modalities(stream)[i].name));
    text.add(state.present ? " present" : " absent").add(" (").add(state.reason);
    text.add(state.present ? "" : "; ").add_whole(state.pushed).add(" pushed)");
  }
  text.add(". Push what triggers, or wait longer");
  const std::string_view view = text.view();
  return mmedge::fail(MMEDGE_TIMEOUT, "%.*s", static_cast<int>(view.size()), view.data());
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
    const st::StreamOptions to = read_stream_options(*options, handle->network->plan().plan);
    if (options->loop_options != nullptr && handle->network->loop_stages().empty()) {
      throw rt::Error(rt::Code::kInput, "loop_options: this bundle has no loop; leave them out");
    }
    const st::Clock clock =
        options->clock != nullptr ? st::Clock{options->clock, options->clock_context}
                                  : st::Clock{read_monotonic, nullptr, true};
    handle->runner = std::make_unique<st::NetworkRunner>(handle->network, to.largest,
                                                         read_loop_options(options->loop_options));
    if (options->threads == nullptr) {
      handle->stream = std::make_unique<st::Stream>(manifest, handle->runner.get(), to, clock);
    } else {
      const st::ThreadSettings settings = read_threads(*options->threads);
      handle->on_result = options->threads->on_result;
      handle->context = options->threads->context;
      handle->threads = std::make_unique<st::ThreadedStream>(
          manifest, handle->runner.get(), to, clock, settings,
          handle->on_result != nullptr ? hand_over : nullptr, handle.get());
    }
    size_t most = 0;
    for (const rt::Modality& modality : manifest.modalities) {
      most = std::max(most, modality.inputs.size());
    }
    handle->inputs.resize(most);
    // A reason, for each modality why it is absent and a note, and notes of fusion stages.
    handle->texts.resize(1 + 2 * manifest.modalities.size() + states_of(handle.get()).size());
    for (std::string& text : handle->texts) text.reserve(st::Text::kCapacity);
    if (handle->threads != nullptr) handle->threads->begin();
    *stream = handle.release();
  });
}

void mmedge_stream_close(mmedge_stream* stream) {
  if (stream == nullptr) return;
  if (stream->threads != nullptr && stream->threads->is_own_thread()) {
    stream->threads->fail("mmedge_stream_close was called in on_result, where mmedge_stream_stop may");
    return;
  }
  stream->threads.reset();  // its threads use the rest
  delete stream;
}

void mmedge_stream_stop(mmedge_stream* stream) {
  if (stream == nullptr) return;
  if (stream->threads != nullptr) return stream->threads->stop();
  stream->stream->close();
}

mmedge_status mmedge_stream_push(mmedge_stream* stream, const char* modality,
                                 const mmedge_tensor* inputs, int32_t count, const double* stamp,
                                 int64_t* sequence) {
  if (stream == nullptr) return missing("stream");
  st::ThreadedStream* threads = stream->threads.get();
  const st::ThreadedStream::Call call(threads);
  if (threads == nullptr) stream->result = nullptr;
  const size_t place = find_modality(stream, modality);
  if (place == modalities(stream).size()) return no_modality(modality);
  const st::Lock gate(threads != nullptr ? threads->gate(place) : nullptr);
  rt::TensorView* views = threads != nullptr ? threads->inputs(place) : stream->inputs.data();
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
    views[i] = tensor.view;
  }
  std::optional<double> t;
  if (stamp != nullptr) t = *stamp;
  if (threads != nullptr) {
    return report(threads->push(place, t, sequence), threads->message(place));
  }
  return report(stream, stream->stream->push(place, views, t, sequence));
}

mmedge_status mmedge_stream_forget(mmedge_stream* stream, const char* modality) {
  if (stream == nullptr) return missing("stream");
  const size_t place = find_modality(stream, modality);
  if (place == modalities(stream).size()) return no_modality(modality);
  if (stream->threads != nullptr) {
    const st::ThreadedStream::Call call(stream->threads.get());
    rt::CallError error;
    return report(stream->threads->forget(place, &error), error.text);
  }
  stream->result = nullptr;
  return report(stream, stream->stream->forget(place));
}

mmedge_status mmedge_stream_reset(mmedge_stream* stream) {
  if (stream == nullptr) return missing("stream");
  if (stream->threads != nullptr) {
    const st::ThreadedStream::Call call(stream->threads.get());
    rt::CallError error;
    return report(stream->threads->reset(&error), error.text);
  }
  stream->result = nullptr;
  return report(stream, stream->stream->reset());
}

mmedge_status mmedge_stream_poll(mmedge_stream* stream) {
  if (stream == nullptr) return missing("stream");
  if (stream->threads != nullptr) {
    const st::ThreadedStream::Call call(stream->threads.get());
    rt::CallError error;
    return report(stream->threads->check_open(&error), error.text);
  }
  stream->result = nullptr;
  if (stream->stream->is_closed()) return closed();
  return report(stream, stream->stream->advance_to(0));
}

double mmedge_stream_next_time(const mmedge_stream* stream) {
  if (stream == nullptr) return std::numeric_limits<double>::infinity();
  if (stream->threads == nullptr) return stream->stream->next_time();
  const st::ThreadedStream::Call call(stream->threads.get());
  return stream->threads->next_time();
}

mmedge_status mmedge_stream_wait(mmedge_stream* stream, double timeout_s) {
  if (stream == nullptr) return missing("stream");
  if (stream->threads == nullptr) {
    return mmedge::fail(MMEDGE_INVALID, "the stream runs on the caller's thread: poll it, or open it "
                                        "with `threads`");
  }
  if (stream->on_result != nullptr) return results_are_delivered();
  if (std::isnan(timeout_s)) return mmedge::fail(MMEDGE_INVALID, "timeout_s is not a number");
  const st::ThreadedStream::Call call(stream->threads.get());
  rt::CallError error;
  bool is_there = false;
  const double until = timeout_s < 0 ? std::numeric_limits<double>::infinity()
                                     : rt::now() + timeout_s;
  const rt::Code code = stream->threads->wait_until(until, &is_there, &error);
  if (code != rt::Code::kOk) return report(code, error.text);
  return is_there ? MMEDGE_OK : no_result(stream, timeout_s);
}

mmedge_status mmedge_stream_take(mmedge_stream* stream, int32_t latest, mmedge_result* result) {
  if (stream == nullptr || result == nullptr) return missing("stream or result");
  if (!has_size(result)) return wrong_size("result", result);
  if (stream->on_result != nullptr) return results_are_delivered();
  return take(stream, latest != 0, result);
}

mmedge_status mmedge_stream_output(mmedge_stream* stream, mmedge_tensor* output) {
  if (stream == nullptr || output == nullptr) return missing("stream or output");
  if (taken_slot(stream) < 0) return no_outputs();
  const auto slot = static_cast<size_t>(taken_slot(stream));
  const rt::Network& network = *stream->network;
  const size_t index = find_output(network.outputs(), output->name);
  if (index < network.outputs().size()) {
    return give_tensor(stream->runner->output(slot, index), output);
  }
  const size_t of_loop = find_output(network.loop_outputs(), output->name);
  if (of_loop < network.loop_outputs().size()) {
    return give_tensor(stream->runner->loop_outputs(slot).tensors[of_loop].view, output);
  }
  return mmedge::fail(MMEDGE_INPUT_ERROR, "no output '%.200s' in this bundle",
                      output->name != nullptr ? output->name : "");
}

mmedge_status mmedge_stream_finish(mmedge_stream* stream, int32_t* finish, int32_t count,
                                   int32_t* rows) {
  if (stream == nullptr || rows == nullptr) return missing("stream or rows");
  *rows = 0;
  if (taken_slot(stream) < 0) return no_outputs();
  if (!stream->runner->has_loop()) return MMEDGE_OK;
  const st::LoopOutputs& loop =
      stream->runner->loop_outputs(static_cast<size_t>(taken_slot(stream)));
  *rows = static_cast<int32_t>(loop.rows);
  for (int32_t row = 0; row < *rows && row < count && finish != nullptr; ++row) {
    finish[row] = static_cast<int32_t>(loop.finish[static_cast<size_t>(row)]);
  }
  return MMEDGE_OK;
}

mmedge_status mmedge_stream_result_stage(mmedge_stream* stream, int32_t index, const char** stage,
                                         const char** note) {
  if (stream == nullptr || stage == nullptr || note == nullptr) {
    return missing("stream, stage or note");
  }
  const auto& stages = states_of(stream).stages();
  if (stream->result == nullptr || index < 0 || static_cast<size_t>(index) >= stages.size()) {
    return mmedge::fail(MMEDGE_INVALID, "no fusion stage %d with state of a result that was taken",
                        index);
  }
  const auto place = static_cast<size_t>(index);
  *stage = stages[place].name.c_str();
  *note = keep(stream, 1 + 2 * modalities(stream).size() + place,
               stream->result->stage_notes[place].view());
  return MMEDGE_OK;
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
  const st::ThreadedStream::Call call(stream->threads.get());
  const st::Lock lock(mutex_of(stream));
  st::DropCounts dropped = health_of(stream).modalities[place].dropped;
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
  const st::ThreadedStream::Call call(stream->threads.get());
  const st::Lock lock(mutex_of(stream));
  const st::Health& from = health_of(stream);
  health->triggers = from.triggers;
  health->results = from.results;
  health->stale = from.stale;
  health->empty = from.empty;
  health->deadline_misses = from.deadline_misses;
  health->results_dropped = from.results_dropped;
  health->clock_jumps = from.clock_jumps;
  health->clock_glitches = from.clock_glitches;
  health->state_resets = from.state_resets;
  health->latency_p95 = from.latency_p95.value_or(std::numeric_limits<double>::quiet_NaN());
  return MMEDGE_OK;
}

}  // extern "C"
