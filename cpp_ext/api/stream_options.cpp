// Options of a stream, from the structures of mmedge/stream.h to those of the runtime.
#include "stream_options.h"

#include "handles.h"

namespace mmedge::api {
namespace {

namespace st = mmedge::runtime::stream;

[[noreturn]] void refuse(const std::string& message) {
  throw rt::Error(rt::Code::kInput, message);
}

template <class Struct>
void check_size(const Struct& from, const char* what, const char* macro) {
  if (has_size(&from)) return;
  refuse(std::string(what) + " has another size; make it with " + macro + " of this version");
}

std::optional<double> given(double value) {
  if (value < 0) return std::nullopt;
  return value;
}

// A list and its length.
void check_list(const void* list, int64_t count, const char* what) {
  if (count < 0 || (count > 0 && list == nullptr)) {
    refuse(std::string(what) + ": " + std::to_string(count) + " of them, and where they are is " +
           (list == nullptr ? "NULL" : "given"));
  }
}

void read_modality(const mmedge_stream_modality& from, st::StreamOptions* to) {
  check_size(from, "a modality's options", "MMEDGE_STREAM_MODALITY");
  const std::string name = from.modality != nullptr ? from.modality : "";
  if (from.policy < MMEDGE_LATEST || from.policy > MMEDGE_WINDOW) {
    refuse("modality '" + name + "': no policy " + std::to_string(from.policy));
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

rt::Tensor read_noise(const mmedge_tensor& from) {
  rt::NamedTensor given;
  mmedge_status status = MMEDGE_OK;
  if (!to_tensor(from, &given, &status)) refuse(mmedge_last_error());
  const rt::TensorView& view = given.view;
  if (view.data == nullptr || (given.bytes != 0 && given.bytes != view.bytes())) {
    refuse("noise has no data, or not as much as its shape says");
  }
  const auto* data = static_cast<const uint8_t*>(view.data);
  rt::Tensor noise;
  noise.dtype = view.dtype;
  noise.shape.assign(view.shape, view.shape + view.rank);
  noise.data.assign(data, data + view.bytes());
  return noise;
}

}  // namespace

st::StreamOptions read_stream_options(const mmedge_stream_options& from, const std::string& plan) {
  st::StreamOptions to;
  to.plan = plan;
  if (from.trigger != nullptr) to.trigger = from.trigger;
  if (from.trigger_hz != 0) to.trigger_hz = from.trigger_hz;
  if (from.deadline_ms != 0) to.deadline_ms = from.deadline_ms;
  check_list(from.modalities, from.modality_count, "modalities");
  for (int32_t i = 0; i < from.modality_count; ++i) read_modality(from.modalities[i], &to);
  to.depth = from.depth;
  to.keep = from.keep;
  to.future = from.future_s;
  to.recover_after = from.recover_after;
  check_list(from.largest, from.largest_count, "largest");
  for (int32_t i = 0; i < from.largest_count; ++i) {
    const mmedge_size& largest = from.largest[i];
    to.largest[largest.dimension != nullptr ? largest.dimension : ""] = largest.size;
  }
  check_list(from.resets, from.reset_count, "resets");
  for (int32_t i = 0; i < from.reset_count; ++i) {
    const mmedge_reset& reset = from.resets[i];
    if (reset.name == nullptr) {
      to.reset_all_after = reset.after_s;
    } else {
      to.reset_after[reset.name] = reset.after_s;
    }
  }
  to.cancels = from.cancel != 0;
  return to;
}

st::LoopOptions read_loop_options(const mmedge_loop_options* options) {
  st::LoopOptions to;
  if (options == nullptr) return to;
  const mmedge_loop_options& from = *options;
  check_size(from, "loop_options", "MMEDGE_LOOP_OPTIONS");
  if (from.deadline_ms != -1.0) {
    refuse("loop_options.deadline_ms: the stream has a deadline itself; give its deadline_ms");
  }
  if (from.limit != -1) to.limit = from.limit;
  if (from.stop_count >= 0) {
    check_list(from.stop, from.stop_count, "loop_options.stop");
    to.stop.emplace(from.stop, from.stop + from.stop_count);
  }
  to.seed = from.seed;
  if (from.temperature != -1.0) to.temperature = from.temperature;
  if (from.top_k != -1) to.top_k = from.top_k;
  if (from.top_p != -1.0) to.top_p = from.top_p;
  if (from.forced != nullptr) {
    int64_t count = -1;
    if (from.forced_rows < 0 || from.forced_count < 0 ||
        __builtin_mul_overflow(from.forced_rows, from.forced_count, &count) ||
        count > (int64_t{1} << 32)) {
      refuse("loop_options.forced: its sizes make no sense");
    }
    to.forced.assign(from.forced, from.forced + count);
    to.forced_rows = from.forced_rows;
    to.forced_count = from.forced_count;
  }
  if (from.noise != nullptr) to.noise = read_noise(*from.noise);
  return to;
}

st::ThreadSettings read_threads(const mmedge_stream_threads& from) {
  check_size(from, "threads", "MMEDGE_STREAM_THREADS");
  check_list(from.cpus, from.cpu_count, "threads.cpus");
  st::ThreadSettings to;
  if (from.name != nullptr) to.name = from.name;
  to.cpus.assign(from.cpus, from.cpus + from.cpu_count);
  to.priority = from.priority;
  return to;
}

}  // namespace mmedge::api
