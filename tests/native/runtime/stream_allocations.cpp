// Counts what libmmedge allocates, frees and locks in streams, through its C API and on every thread.
//
// `stream_allocations BUNDLE LIBRARY THREADS RUNS`, with the bundle both.mmedge of the cases and THREADS
// 0 (on the caller's thread), 1 (with threads of its own) or 2 (which also deliver results).
#include <atomic>
#include <cstdio>
#include <vector>

#include "allocation_counter.h"
#include "clock.h"
#include "mmedge/mmedge.h"
#include "mmedge/stream.h"

namespace {

int fail(const char* what) { return std::printf("%s: %s\n", what, mmedge_last_error()), 2; }

std::atomic<bool> must_count{false};
std::atomic<long> delivered{0}, counted_threads{0};

// Every thread of a stream reads its clock: what it does from then on is counted.
double read_clock(void*) {
  if (must_count && !counting) {
    counting = true;
    ++counted_threads;
  }
  return mmedge::runtime::now();
}

bool look_at(mmedge_stream* stream, const mmedge_result* result) {
  if (!result->has_outputs) return result->reason[0] != '\0';
  mmedge_tensor output{};
  output.name = "out";
  mmedge_result_modality modality = MMEDGE_RESULT_MODALITY;
  uint64_t dropped = 0;
  mmedge_stream_health health = MMEDGE_STREAM_HEALTH;
  return mmedge_stream_output(stream, &output) == MMEDGE_OK && output.bytes > 0 &&
         mmedge_stream_result_modality(stream, 1, &modality) == MMEDGE_OK &&
         mmedge_stream_dropped(stream, "voice", nullptr, &dropped) == MMEDGE_OK &&
         mmedge_stream_counters(stream, &health) == MMEDGE_OK;
}

void on_result(void* good, mmedge_stream* stream, const mmedge_result* result) {
  if (!look_at(stream, result)) *static_cast<std::atomic<bool>*>(good) = false;
  ++delivered;
}

}  // namespace

int main(int, char** arguments) {
  const int mode = std::atoi(arguments[3]), runs = std::atoi(arguments[4]);
  mmedge_bundle* bundle = nullptr;
  if (mmedge_bundle_open(arguments[1], &bundle) != MMEDGE_OK) return fail("open");
  mmedge_load_options load = MMEDGE_LOAD_OPTIONS;
  load.onnxruntime = arguments[2];
  load.plan = "cut";
  load.threads = 1;
  mmedge_pipeline* pipeline = nullptr;
  if (mmedge_pipeline_load(bundle, &load, &pipeline) != MMEDGE_OK) return fail("load");
  std::atomic<bool> good{true};
  mmedge_stream_threads threads = MMEDGE_STREAM_THREADS;
  if (mode == 2) {
    threads.on_result = on_result;
    threads.context = &good;
  }
  mmedge_stream_options options = MMEDGE_STREAM_OPTIONS;
  options.trigger = "camera";
  options.clock = read_clock;
  if (mode > 0) options.threads = &threads;
  mmedge_stream* stream = nullptr;
  if (mmedge_stream_open(pipeline, &options, &stream) != MMEDGE_OK) return fail("stream");
  if (!counters_work()) return std::puts("the counters see nothing"), 2;

  uint8_t image[12] = {};
  float voice[10] = {}, state[2] = {};
  mmedge_tensor camera{}, microphone{}, arm{};
  camera = {"image", image, sizeof image, MMEDGE_U8, 4, {1, 2, 2, 3}};
  microphone = {"pcm", voice, 0, MMEDGE_F32, 2, {1, 4}};
  arm = {"state", state, sizeof state, MMEDGE_F32, 2, {1, 2}};
  long results = 0, refused = 0;
  must_count = true;
  for (int i = 0; i < runs; ++i) {
    image[0] = static_cast<uint8_t>(i);
    state[0] = voice[0] = static_cast<float>(i % 50) / 50;
    microphone.shape[1] = 2 + i % 9;  // stand-ins and encodings of several sizes
    microphone.bytes = static_cast<size_t>(microphone.shape[1]) * sizeof(float);
    if (i % 3 == 0) good = mmedge_stream_push(stream, "voice", &microphone, 1, nullptr, nullptr) == 0 && good;
    good = mmedge_stream_push(stream, "state", &arm, 1, nullptr, nullptr) == 0 && good;
    if (i % 7 == 0) good = mmedge_stream_forget(stream, "voice") == 0 && good;
    good = mmedge_stream_push(stream, "camera", &camera, 1, nullptr, nullptr) == 0 && good;
    refused += mmedge_stream_push(stream, "camera", &arm, 1, nullptr, nullptr) != 0;
    good = mmedge_stream_poll(stream) == 0 && good;
    if (mode == 1) good = mmedge_stream_wait(stream, 20) == 0 && good;
    if (mode == 2) {
      while (delivered < i + 1) {
      }
      continue;
    }
    mmedge_result result = MMEDGE_RESULT;
    while (mmedge_stream_take(stream, 0, &result) == 0 && result.available) {
      ++results;
      good = look_at(stream, &result) && good;
    }
  }
  must_count = counting = false;
  const long seen[] = {allocations, frees, locks, engine_allocations};
  mmedge_stream_close(stream);
  std::printf("%d %ld %ld %ld %ld %ld %ld %ld\n", static_cast<int>(good.load()), seen[0], seen[1],
              seen[2], seen[3], results + delivered, refused, counted_threads.load());
  mmedge_pipeline_close(pipeline);
  mmedge_bundle_close(bundle);
  return 0;
}
