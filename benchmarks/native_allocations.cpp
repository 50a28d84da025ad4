// Counts what libmmedge and ONNX Runtime allocate, free and lock, for native_allocations.py.
//
// `native_allocations BUNDLE ONNXRUNTIME CALLS SECONDS TRIGGER DEADLINE_MS NAME:DTYPE:SIZES:HZ...`:
// makes calls of the bundle with and without what is optional, and runs a stream for so long on the
// real clock, each sensor at its rate. Contents change. Prints three lines of counts: of the calls,
// of the stream, and how many calls, samples and results there were.
#include <link.h>
#include <math.h>
#include <time.h>

#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include <mmedge/mmedge.h>
#include <mmedge/stream.h>

#include "allocation_counter.h"

namespace {

constexpr size_t kBytes[] = {4, 2, 2, 1, 1, 8, 2, 4, 8, 1, 2, 4, 8};  // by mmedge_dtype

[[noreturn]] void fail(const char* what) {
  counting = false;
  std::fprintf(stderr, "%s: %s\n", what, mmedge_last_error());
  std::exit(1);
}

void check(mmedge_status status, const char* what) {
  if (status != MMEDGE_OK) fail(what);
}

double now() {
  timespec time{};
  clock_gettime(CLOCK_MONOTONIC, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

void sleep_until(double moment) {
  const double seconds = floor(moment);
  const timespec until{static_cast<time_t>(seconds), static_cast<long>(1e9 * (moment - seconds))};
  clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, nullptr);
}

// Where the code of libmmedge lies.
int find_library(dl_phdr_info* info, size_t, void*) {
  if (std::strstr(info->dlpi_name, "libmmedge.so") == nullptr) return 0;
  for (int i = 0; i < info->dlpi_phnum; ++i) {
    const auto& part = info->dlpi_phdr[i];
    if (part.p_type != PT_LOAD || (part.p_flags & PF_X) == 0) continue;
    kernels_begin = reinterpret_cast<const char*>(info->dlpi_addr + part.p_vaddr);
    kernels_end = kernels_begin + part.p_memsz;
  }
  return 1;
}

struct Sensor {
  std::string input, modality;
  bool required = false;
  double hz = 0, next = 0;
  std::vector<char> data;
  mmedge_tensor tensor{};
  int turn = 0;

  // Other bytes in a few places: text stays within its vocabulary, sound and pictures are finite.
  void change() {
    ++turn;
    if (data.empty()) return;
    const size_t bytes = kBytes[tensor.dtype];
    const int places = static_cast<int>(data.size() / bytes);
    char* at = data.data() + static_cast<size_t>(turn % places) * bytes;
    // Another one than in the pass before: a sensor that stands still is taken for a broken one.
    const int number = turn + turn / places;
    if (tensor.dtype == MMEDGE_F32) {
      const float value = static_cast<float>(number % 200 - 100) / 200;
      std::memcpy(at, &value, sizeof value);
    } else {
      at[0] = static_cast<char>(number % 16);
    }
  }
};

Sensor read_sensor(const std::string& word) {
  Sensor sensor;
  const size_t dtype = word.find(':'), sizes = word.find(':', dtype + 1);
  const size_t rate = word.find(':', sizes + 1);
  sensor.input = word.substr(0, dtype);
  sensor.tensor.dtype = std::atoi(word.c_str() + dtype + 1);
  size_t elements = 1;
  const std::string shape = word.substr(sizes + 1, rate - sizes - 1);
  for (const char* at = shape.c_str(); *at != '\0';) {
    char* end = nullptr;
    const int64_t size = std::strtoll(at, &end, 10);
    sensor.tensor.shape[sensor.tensor.rank++] = size;
    elements *= static_cast<size_t>(size);
    at = *end == 'x' ? end + 1 : end;
  }
  sensor.hz = std::atof(word.c_str() + rate + 1);
  sensor.data.assign(elements * kBytes[sensor.tensor.dtype], 0);
  return sensor;
}

void print_counts() {
  std::printf("%ld %ld %ld %ld %ld\n", allocations.exchange(0), frees.exchange(0), locks.exchange(0),
              engine_allocations.exchange(0), engine_locks.exchange(0));
  std::fflush(stdout);
}

}  // namespace

int main(int count, char** words) {
  if (count < 8) return 2;
  dl_iterate_phdr(find_library, nullptr);  // before it takes any memory
  const long calls = std::atol(words[3]);
  const double seconds = std::atof(words[4]);
  mmedge_bundle* bundle = nullptr;
  check(mmedge_bundle_open(words[1], &bundle), "open");
  mmedge_load_options options = MMEDGE_LOAD_OPTIONS;
  options.onnxruntime = words[2];
  options.threads = 1;
  options.plan = "cut";
  mmedge_pipeline* pipeline = nullptr;
  check(mmedge_pipeline_load(bundle, &options, &pipeline), "load");
  std::vector<Sensor> sensors;
  for (int i = 7; i < count; ++i) sensors.push_back(read_sensor(words[i]));
  for (Sensor& sensor : sensors) {
    sensor.tensor.name = sensor.input.c_str();
    sensor.tensor.data = sensor.data.data();
    sensor.tensor.bytes = sensor.data.size();
    for (int32_t i = 0; i < mmedge_pipeline_input_count(pipeline); ++i) {
      mmedge_tensor_spec spec = MMEDGE_TENSOR_SPEC;
      mmedge_pipeline_input(pipeline, i, &spec);
      if (sensor.input != spec.name) continue;
      sensor.modality = spec.modality;
      sensor.required = spec.required != 0;
    }
  }
  std::vector<mmedge_tensor> all, required, outputs;
  for (const Sensor& sensor : sensors) {
    all.push_back(sensor.tensor);
    if (sensor.required) required.push_back(sensor.tensor);
  }
  for (int32_t i = 0; i < mmedge_pipeline_output_count(pipeline); ++i) {
    mmedge_tensor_spec spec = MMEDGE_TENSOR_SPEC;
    mmedge_pipeline_output(pipeline, i, &spec);
    mmedge_tensor tensor{};
    tensor.name = spec.name;
    outputs.push_back(tensor);
  }
  if (!counters_work()) fail("the counters see nothing");
  for (const auto& given : {all, required}) {
    const auto number = static_cast<int32_t>(given.size());
    check(mmedge_pipeline_warm_up(pipeline, given.data(), number), "warm up");
  }
  // That the hooks see the library is shown by a handle that is made and closed.
  counting = true;
  mmedge_pipeline* other = nullptr;
  check(mmedge_pipeline_clone(pipeline, &other), "clone");
  mmedge_pipeline_close(other);
  counting = false;
  if (allocations.exchange(0) == 0 || frees.exchange(0) == 0) fail("libmmedge is not seen");
  locks = engine_allocations = engine_locks = 0;

  counting = true;
  for (long i = 0; i < calls; ++i) {
    sensors[static_cast<size_t>(i) % sensors.size()].change();
    const auto& given = i % 4 == 3 ? required : all;
    for (mmedge_tensor& output : outputs) output.data = nullptr;
    check(mmedge_pipeline_run(pipeline, given.data(), static_cast<int32_t>(given.size()),
                              outputs.data(), static_cast<int32_t>(outputs.size())),
          "run");
  }
  counting = false;
  print_counts();

  mmedge_stream_options how = MMEDGE_STREAM_OPTIONS;
  how.trigger = words[5];
  how.deadline_ms = std::atof(words[6]);
  std::vector<mmedge_size> largest;
  for (const Sensor& sensor : sensors) {
    for (int32_t i = 0; i < mmedge_pipeline_input_count(pipeline); ++i) {
      mmedge_tensor_spec spec = MMEDGE_TENSOR_SPEC;
      mmedge_pipeline_input(pipeline, i, &spec);
      if (sensor.input != spec.name) continue;
      for (int32_t axis = 0; axis < spec.rank; ++axis) {
        if (spec.dimension[axis] == nullptr) continue;
        bool known = false;
        for (const mmedge_size& each : largest) {
          known = known || std::strcmp(each.dimension, spec.dimension[axis]) == 0;
        }
        if (!known) largest.push_back({spec.dimension[axis], sensor.tensor.shape[axis]});
      }
    }
  }
  how.largest = largest.data();
  how.largest_count = static_cast<int32_t>(largest.size());
  mmedge_stream* stream = nullptr;
  check(mmedge_stream_open(pipeline, &how, &stream), "stream");
  long samples = 0, results = 0;
  const double begin = now();
  for (Sensor& sensor : sensors) sensor.next = begin;
  counting = true;
  while (now() - begin < seconds) {
    double next = begin + seconds;
    for (Sensor& sensor : sensors) {
      const double time = now();
      if (time >= sensor.next) {
        sensor.change();
        check(mmedge_stream_push(stream, sensor.modality.c_str(), &sensor.tensor, 1, &time, nullptr),
              "push");
        ++samples;
        sensor.next += 1 / sensor.hz;
        // One that fell behind goes on from here.
        if (sensor.next < time) sensor.next = time + 1 / sensor.hz;
      }
      next = sensor.next < next ? sensor.next : next;
    }
    check(mmedge_stream_poll(stream), "poll");
    mmedge_result result = MMEDGE_RESULT;
    while (mmedge_stream_take(stream, 0, &result) == MMEDGE_OK && result.available) {
      if (!result.has_outputs) continue;
      ++results;
      for (mmedge_tensor& output : outputs) {
        output.data = nullptr;
        check(mmedge_stream_output(stream, &output), "output");
      }
    }
    const double due = mmedge_stream_next_time(stream);
    sleep_until(due < next ? due : next);
  }
  counting = false;
  print_counts();
  // A sample of the trigger each makes a result; on a full machine some are superseded.
  if (results < samples / (2 * static_cast<long>(sensors.size()))) fail("too few results");
  std::printf("%ld %ld %ld\n", calls, samples, results);
  mmedge_stream_close(stream);
  mmedge_pipeline_close(pipeline);
  mmedge_bundle_close(bundle);
  return 0;
}
