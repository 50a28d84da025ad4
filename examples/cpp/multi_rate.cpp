// Sensors of a robot, each with a thread and a rate of its own, while one of them fails and returns.
//
//   multi_rate robot.mmedge camera=30 lidar=10 state=100 --fails lidar --seconds 6
//
// The first sensor triggers: each of its samples makes a result of the newest of everything. In the
// middle third of the time the failing sensor says nothing. Values are made up, of the sizes that the
// bundle declares; where one is dynamic, it is 4 (or `--size DIMENSION=N`). Prints ages, deadlines, what
// was absent and why, and where each sample went. `--onnxruntime PATH` says where its library is.
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "mmedge/mmedge.hpp"

namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kBytes[] = {4, 2, 2, 1, 1, 8, 2, 4, 8, 1, 2, 4, 8};  // by mmedge_dtype

double now() {  // the clock of a stream that is given none
  return std::chrono::duration<double>(Clock::now().time_since_epoch()).count();
}

int fail(const mmedge::Failure& failure) {
  std::fprintf(stderr, "%s\n", failure.message.c_str());
  return 1;
}

struct Sensor {
  std::string name;
  double rate = 0;
  std::vector<mmedge_tensor> inputs;
  std::vector<std::vector<uint8_t>> memory;
  std::atomic<int64_t> pushed{0};

  Sensor(std::string of, double hz) : name(std::move(of)), rate(hz) {}

  // Another value each time: what stands still is dropped as frozen.
  void measure(uint32_t number) {
    for (size_t i = 0; i < inputs.size(); ++i) {
      const bool is_float = inputs[i].dtype == MMEDGE_F32;
      for (size_t at = 0; at < memory[i].size(); at += is_float ? 4 : 1) {
        number = number * 1664525u + 1013904223u;
        const float value = static_cast<float>(number >> 8) / 16777216.0f;
        if (is_float) {
          std::memcpy(memory[i].data() + at, &value, 4);
        } else {
          memory[i][at] = inputs[i].dtype == MMEDGE_U8 ? static_cast<uint8_t>(number >> 24) : 0;
        }
      }
    }
  }
};

struct Options {
  std::vector<std::unique_ptr<Sensor>> sensors;
  std::map<std::string, int64_t> sizes;
  std::string fails, onnxruntime;
  double seconds = 6, deadline_ms = 50;
};

bool read_options(int count, char** arguments, Options* options) {
  for (int i = 2; i < count; ++i) {
    const std::string word = arguments[i];
    const size_t equals = word.find('=');
    if (word.rfind("--", 0) != 0) {
      if (equals == std::string::npos) return false;
      const double rate = std::atof(word.c_str() + equals + 1);
      if (!(rate > 0)) return false;
      options->sensors.push_back(std::make_unique<Sensor>(word.substr(0, equals), rate));
      continue;
    }
    if (++i == count) return false;
    const std::string value = arguments[i];
    if (word == "--fails") options->fails = value;
    else if (word == "--onnxruntime") options->onnxruntime = value;
    else if (word == "--seconds") options->seconds = std::atof(value.c_str());
    else if (word == "--deadline-ms") options->deadline_ms = std::atof(value.c_str());
    else if (word == "--size" && value.find('=') != std::string::npos)
      options->sizes[value.substr(0, value.find('='))] = std::atoll(value.c_str() + value.find('=') + 1);
    else return false;
  }
  return !options->sensors.empty() && options->seconds > 0;
}

// Memory for what each sensor pushes. What no sensor brings is absent.
void make_inputs(const mmedge::Pipeline& pipeline, Options* options) {
  for (int i = 0; i < mmedge_pipeline_input_count(pipeline.handle()); ++i) {
    mmedge_tensor_spec spec = MMEDGE_TENSOR_SPEC;
    mmedge_pipeline_input(pipeline.handle(), i, &spec);
    for (const auto& sensor : options->sensors) {
      if (sensor->name != spec.modality) continue;
      mmedge_tensor tensor{};
      tensor.name = spec.name;
      tensor.dtype = spec.dtype;
      tensor.rank = spec.rank;
      tensor.bytes = kBytes[spec.dtype];
      for (int axis = 0; axis < spec.rank; ++axis) {
        int64_t size = spec.shape[axis];
        if (size < 0) {
          const auto given = options->sizes.find(spec.dimension[axis]);
          size = given != options->sizes.end() ? given->second : axis == 0 ? 1 : 4;
        }
        tensor.shape[axis] = size;
        tensor.bytes *= static_cast<size_t>(size);
      }
      sensor->memory.emplace_back(tensor.bytes);
      tensor.data = sensor->memory.back().data();
      sensor->inputs.push_back(tensor);
    }
  }
}

// A sensor's thread. It never waits for a stage.
void run_sensor(mmedge::Stream* stream, Sensor* sensor, double start, double seconds,
                double silent_from, double silent_to, std::atomic<bool>* is_well) {
  for (uint32_t k = 0;; ++k) {
    const double t = static_cast<double>(k) / sensor->rate;
    if (t >= seconds) return;
    std::this_thread::sleep_until(Clock::time_point(
        std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(start + t))));
    if (t >= silent_from && t < silent_to) continue;
    sensor->measure(k + 1);
    const mmedge_status status =
        mmedge_stream_push(stream->handle(), sensor->name.c_str(), sensor->inputs.data(),
                           static_cast<int32_t>(sensor->inputs.size()), nullptr, nullptr);
    if (status != MMEDGE_OK) {
      std::fprintf(stderr, "%s: %s\n", sensor->name.c_str(), mmedge_last_error());
      *is_well = false;
      return;
    }
    ++sensor->pushed;
  }
}

}  // namespace

int main(int count, char** arguments) {
  Options options;
  if (count < 3 || !read_options(count, arguments, &options)) {
    return std::puts("usage: multi_rate BUNDLE SENSOR=HZ ... [--fails SENSOR] [--seconds S] "
                     "[--deadline-ms MS] [--size DIMENSION=N] [--onnxruntime PATH]"), 2;
  }
  auto bundle = mmedge::Bundle::open(arguments[1]);
  if (!bundle) return fail(bundle.error());
  mmedge_load_options load = mmedge::load_options();
  load.threads = 1;  // stages run on the stream's threads
  load.plan = bundle->manifest().find("\"cut\"") != std::string::npos ? "cut" : nullptr;
  if (!options.onnxruntime.empty()) load.onnxruntime = options.onnxruntime.c_str();
  auto pipeline = mmedge::Pipeline::load(*bundle, load);
  if (!pipeline) return fail(pipeline.error());
  make_inputs(*pipeline, &options);

  // The first sensor triggers. The others count while they are not older than three of their periods.
  std::vector<mmedge_stream_modality> modalities;
  for (size_t i = 1; i < options.sensors.size(); ++i) {
    modalities.push_back(mmedge::stream_modality(options.sensors[i]->name.c_str(), MMEDGE_HOLD));
    modalities.back().max_age_ms = 3000 / options.sensors[i]->rate;
  }
  std::vector<mmedge_size> largest;
  for (const auto& [name, size] : options.sizes) largest.push_back({name.c_str(), size});
  mmedge_stream_threads threads = mmedge::stream_threads();
  threads.name = "robot";
  mmedge_stream_options how = mmedge::stream_options();
  how.trigger = options.sensors[0]->name.c_str();
  how.deadline_ms = options.deadline_ms;
  how.modalities = modalities.data();
  how.modality_count = static_cast<int32_t>(modalities.size());
  how.largest = largest.data();
  how.largest_count = static_cast<int32_t>(largest.size());
  how.threads = &threads;
  auto stream = mmedge::Stream::open(*pipeline, how);
  if (!stream) return fail(stream.error());

  const double start = now(), third = options.seconds / 3;
  std::atomic<bool> is_well{true};
  std::vector<std::thread> sensors;
  for (const auto& sensor : options.sensors) {
    const double from = sensor->name == options.fails ? third : options.seconds;
    sensors.emplace_back(run_sensor, &*stream, sensor.get(), start, options.seconds, from, 2 * third,
                         &is_well);
  }

  // This thread reads results, and prints a line for each sixth of the time.
  std::map<std::string, double> ages;
  std::map<std::string, std::string> absent;
  int64_t results = 0, met = 0, with_outputs = 0, all = 0;
  double line = options.seconds / 6;
  const auto print_line = [&] {
    std::printf("until %5.2f s: %4lld results, %4lld in time; oldest:", line,
                static_cast<long long>(results), static_cast<long long>(met));
    for (const auto& [name, age] : ages) std::printf(" %s %.0f ms", name.c_str(), age * 1e3);
    std::printf("\n");
    ages.clear();
    results = met = 0;
    line += options.seconds / 6;
  };
  while (is_well) {
    auto result = stream->wait(0.2);
    const double passed = now() - start;
    while (passed > line && line < options.seconds * 1.01) print_line();
    if (!result && result.code() != MMEDGE_TIMEOUT) {
      fail(result.error());
      is_well = false;
      break;
    }
    if (!result || !result->available) {
      if (passed > options.seconds) break;
      continue;
    }
    ++results;
    ++all;
    met += result->met == 1;
    with_outputs += result->has_outputs;
    for (int32_t i = 0;; ++i) {
      const auto modality = stream->modality(i);
      if (!modality) break;
      if (!std::isnan(modality->age)) {
        double& oldest = ages[modality->modality];
        oldest = std::fmax(oldest, modality->age);
      }
      // The rest of a reason has numbers that change.
      const std::string why = modality->absent;
      const std::string kind = why.substr(0, why.find(':'));
      std::string& before = absent[modality->modality];
      if (kind != before && all > 1) {
        std::printf("%8.3f s: %s is %s\n", result->t - start, modality->modality,
                    why.empty() ? "used" : ("absent: " + why).c_str());
      }
      before = kind;
    }
  }
  if (!is_well) stream->stop();  // pushes fail from now on
  for (std::thread& sensor : sensors) sensor.join();
  stream->stop();  // what is pending is dropped as closed

  for (const auto& sensor : options.sensors) {
    const auto dropped = stream->dropped(sensor->name.c_str());
    if (!dropped) return fail(dropped.error());
    std::printf("%s: %lld pushed, %llu dropped\n", sensor->name.c_str(),
                static_cast<long long>(sensor->pushed), static_cast<unsigned long long>(*dropped));
  }
  const mmedge_stream_health health = stream->counters();
  std::printf("%lld triggers, %lld results, %lld with outputs, %lld later than %.0f ms\n",
              static_cast<long long>(health.triggers), static_cast<long long>(health.results),
              static_cast<long long>(with_outputs),
              static_cast<long long>(health.deadline_misses), options.deadline_ms);
  return is_well ? 0 : 1;
}
