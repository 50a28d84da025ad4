// Streams with threads of their own, on stages that compute nothing and take a time that is asked for.
//
// `thread_probe BUNDLE MODE ARGUMENTS`, with the bundle both.mmedge of the cases; prints JSON.
//   storm SECONDS STAGE_MS SEED RATE STEPS   threads push, one takes, others ask and withdraw; then
//                                            close; RATE of ticks, or 0; STEPS of a loop, or 0
//   slow STAGE_MS PUSHES               how long pushes take while stages run
//   inside                             stages push themselves: they could not, were a mutex held
//   settings NAME CPU PRIORITY         what threads are called, where they run, how urgent they are
//   clock                              a clock that gives nothing of use
//   full                               results that nobody takes, while one that was taken is read
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "bundle/bundle.h"
#include "clock.h"
#include "stream/threaded_stream.h"
#include "thread_stages.h"

using mmedge::runtime::CallError;
using mmedge::runtime::DType;
using mmedge::runtime::Manifest;
using nlohmann::json;
namespace rt = mmedge::runtime;

namespace {

std::atomic<bool> must_not_allocate{false};
std::atomic<long> allocations{0};

}  // namespace

__attribute__((noinline)) void* operator new(size_t size) {
  if (must_not_allocate.load(std::memory_order_relaxed)) ++allocations;
  if (void* memory = std::malloc(size ? size : 1)) return memory;
  throw std::bad_alloc();
}
__attribute__((noinline)) void* operator new(size_t size, const std::nothrow_t&) noexcept {
  return operator new(size);
}
__attribute__((noinline)) void operator delete(void* memory) noexcept { std::free(memory); }
__attribute__((noinline)) void operator delete(void* memory, size_t) noexcept {
  std::free(memory);
}

namespace {

constexpr st::Clock kMonotonic = {[](void*) { return rt::now(); }, nullptr, true};

st::StreamOptions options_of(const Manifest& manifest) {
  st::StreamOptions options;
  options.plan = "cut";
  options.trigger = "camera";
  for (const rt::Modality& modality : manifest.modalities) {
    options.sanity[modality.name].finite = false;  // numbers look like any floats
    options.sanity[modality.name].range_margin.reset();
  }
  return options;
}

// A stream, and which number each sample had.
class Rig {
 public:
  Rig(const Manifest& manifest, double stage_s, const st::StreamOptions& options,
      const st::ThreadSettings& settings = {}, st::Clock clock = kMonotonic, int steps = 0)
      : manifest(manifest), stages(stage_s) {
    for (auto& each : tags) each = std::vector<std::atomic<int32_t>>(1 << 16);
    stages.steps = steps;
    stream = std::make_unique<st::ThreadedStream>(manifest, &stages, options, clock, settings,
                                                  nullptr, nullptr);
    stream->begin();
  }

  // Pushes a number; the message is another thread's as soon as this returns.
  Code push(size_t modality, int32_t tag, std::optional<double> t = std::nullopt) {
    static constexpr DType kTypes[] = {DType::kUint8, DType::kFloat32, DType::kFloat32};
    int32_t data[4] = {tag, tag, tag, tag};
    const st::ThreadedStream::Call call(stream.get());
    const st::Lock gate(stream->gate(modality));
    TensorView& view = *stream->inputs(modality);
    view = TensorView();
    view.dtype = kTypes[modality];
    view.data = data;
    view.rank = 2;
    view.shape[0] = 1;
    view.shape[1] = modality == 1 ? 4 : 2;
    if (modality == kCamera) {
      view.rank = 4;
      view.shape[1] = view.shape[2] = 2;
      view.shape[3] = 3;
    }
    int64_t seq = -1;
    const Code code = stream->push(modality, t, &seq);
    if (code == Code::kOk) {
      tags[modality][static_cast<size_t>(seq) & 0xFFFF] = tag;
    } else {
      const std::lock_guard<std::mutex> held(message_mutex);  // threads of other modalities are refused, too
      std::snprintf(message, sizeof message, "%s", stream->message(modality));
    }
    return code;
  }

  // Whether a result was made of the samples that it names.
  bool agrees(const st::Result& result) const {
    if (!result.has_outputs) return !result.reason.empty();
    const int32_t* found = stages.output(result.slot);
    for (size_t m = 0; m < kModalities; ++m) {
      const auto& samples = result.modalities[m].samples;
      int32_t expected = -1;  // a stand-in
      if (!samples.empty()) {
        const auto& noted = tags[m][static_cast<size_t>(samples.back().seq) & 0xFFFF];
        // A result may be there before its push has returned.
        while ((expected = noted.load()) == 0) std::this_thread::yield();
      }
      if (found[m] != expected) return false;
    }
    return true;
  }

  json account() {
    const st::Lock lock(stream->mutex());
    const st::Health& health = stream->health();
    json rows = json::object();
    for (size_t m = 0; m < kModalities; ++m) {
      const st::ModalityHealth& state = health.modalities[m];
      json dropped = json::object();
      int64_t all = 0;
      for (size_t i = 1; i < st::kDropReasons; ++i) {
        const auto reason = static_cast<st::DropReason>(i);
        st::DropCounts counts = state.dropped;
        if (counts[reason] == 0) continue;
        dropped[st::drop_reason_name(reason)] = counts[reason];
        all += static_cast<int64_t>(counts[reason]);
      }
      rows[manifest.modalities[m].name] = {{"pushed", state.pushed}, {"used", state.used},
                                           {"pending", state.pending}, {"dropped", dropped},
                                           {"all_dropped", all}, {"encodes", state.encodes}};
    }
    return {{"modalities", rows},
            {"triggers", health.triggers},
            {"superseded", health.triggers_superseded},
            {"closed", health.triggers_closed},
            {"pending", health.triggers_pending},
            {"results", health.results},
            {"empty", health.empty},
            {"stale", health.stale},
            {"lost", health.results_dropped}};
  }

  const Manifest& manifest;
  Stages stages;
  std::vector<std::atomic<int32_t>> tags[kModalities];
  std::mutex message_mutex;
  char message[512] = "";
  std::unique_ptr<st::ThreadedStream> stream;  // the first to go: its threads use the others
};

// Threads that push, take, ask and withdraw, until the stream is stopped in their midst.
json storm(const Manifest& manifest, double seconds, double stage_s, unsigned seed, double rate,
           int steps) {
  st::StreamOptions options = options_of(manifest);
  if (rate > 0) {
    options.trigger.clear();
    options.trigger_hz = rate;
  }
  options.deadline_ms = 40;
  Rig rig(manifest, stage_s, options, {}, kMonotonic, steps);
  std::atomic<bool> go{false};
  std::atomic<long> pushes{0}, refused{0}, taken{0}, disagreeing{0}, ended{0};
  std::atomic<int32_t> tag{1};
  const auto wait_to_go = [&] {
    while (!go) std::this_thread::yield();
  };
  std::vector<std::thread> threads;
  // Two threads push to the camera.
  for (size_t k = 0; k < 4; ++k) {
    threads.emplace_back([&, k] {
      std::minstd_rand random(seed * 7 + static_cast<unsigned>(k));
      wait_to_go();
      for (;;) {
        const Code code = rig.push(k % kModalities, tag++);
        if (code != Code::kOk) break;
        ++pushes;
        sleep_s(1e-4 * static_cast<double>(random() % 40));
      }
      ++refused;
    });
  }
  threads.emplace_back([&] {
    CallError error;
    wait_to_go();
    for (;;) {
      bool is_there = false;
      if (rig.stream->wait_until(rt::now() + 0.05, &is_there, &error) != Code::kOk) break;
      const st::Result* result = nullptr;
      if (rig.stream->take(taken % 5 == 4, &result, &error) != Code::kOk) break;
      if (result == nullptr) continue;
      ++taken;
      if (!rig.agrees(*result)) ++disagreeing;
    }
    ++ended;
  });
  threads.emplace_back([&] {
    std::minstd_rand random(seed);
    CallError error;
    wait_to_go();
    while (rig.stream->check_open(&error) == Code::kOk) {
      switch (random() % 12) {
        case 0:
          rig.stream->forget(random() % kModalities, &error);
          break;
        case 1:
          rig.stream->reset(&error);
          break;
        default: {
          const st::Lock lock(rig.stream->mutex());
          const st::Health& health = rig.stream->health();
          for (const st::ModalityHealth& state : health.modalities) {
            st::DropCounts dropped = state.dropped;
            int64_t all = 0;
            for (size_t i = 1; i < st::kDropReasons; ++i) {
              all += static_cast<int64_t>(dropped[static_cast<st::DropReason>(i)]);
            }
            if (state.pushed != state.used + state.pending + all) fail("a sample is in no account");
          }
        }
      }
      rig.stream->next_time();
      sleep_s(0.002);
    }
    ++ended;
  });
  must_not_allocate = true;
  go = true;
  sleep_s(seconds);
  rig.stream->stop();
  while (refused < 4 || ended < 2) std::this_thread::yield();
  must_not_allocate = false;
  for (std::thread& thread : threads) thread.join();
  json row = rig.account();
  row["pushes"] = pushes.load();
  row["taken"] = taken.load();
  row["disagreeing"] = disagreeing.load();
  row["allocations"] = allocations.load();
  row["message"] = rig.message;
  return row;
}

json slow(const Manifest& manifest, double stage_s, int pushes) {
  Rig rig(manifest, stage_s, options_of(manifest));
  std::vector<double> times;
  CallError error;
  const double begun = rt::now();
  for (int i = 0; i < pushes; ++i) {
    const double begin = rt::now();
    if (rig.push(static_cast<size_t>(i) % kModalities, i + 1) != Code::kOk) fail(rig.message);
    times.push_back(rt::now() - begin);
    sleep_s(0.001);
  }
  const double took = rt::now() - begun;
  bool is_there = false;
  rig.stream->wait_until(rt::now() + 20 * stage_s + 20, &is_there, &error);
  std::sort(times.begin(), times.end());
  return {{"median", times[times.size() / 2]}, {"worst", times.back()}, {"took", took},
          {"runs", rig.stages.runs.load()}, {"is_there", is_there}};
}

json inside(const Manifest& manifest) {
  static std::atomic<bool> is_ending{false};  // a stream that is closed refuses a push, rightly
  Rig rig(manifest, 0, options_of(manifest));
  rig.stages.context = &rig;
  rig.stages.extra = [](void* context) {
    Rig& of = *static_cast<Rig*>(context);
    if (of.stages.runs > 20) return;
    for (size_t m = 0; m < kModalities; ++m) {
      const Code code = of.push(m, 1000 + static_cast<int32_t>(m));
      if (code != Code::kOk && !is_ending) fail(of.message);
    }
  };
  rig.push(kCamera, 1);
  CallError error;
  bool is_there = false;
  rig.stream->wait_until(rt::now() + 60, &is_there, &error);
  is_ending = true;
  return {{"is_there", is_there}, {"runs", rig.stages.runs.load()}};
}

json settings(const Manifest& manifest, const char* name, int cpu, int priority) {
  st::ThreadSettings asked;
  asked.name = name;
  if (cpu >= 0) asked.cpus = {cpu};
  asked.priority = priority;
  static std::mutex mutex;
  static std::set<std::string> seen;
  static bool fits = true;
  static int wanted_cpu, wanted_priority;
  wanted_cpu = cpu;
  wanted_priority = priority;
  try {
    Rig rig(manifest, 0, options_of(manifest), asked);
    rig.stages.extra = [](void*) {
      char text[17] = "";
      prctl(PR_GET_NAME, text);
      cpu_set_t cpus;
      sched_getaffinity(0, sizeof cpus, &cpus);
      sched_param param{};
      sched_getparam(0, &param);
      sigset_t blocked;
      pthread_sigmask(SIG_BLOCK, nullptr, &blocked);
      const std::lock_guard<std::mutex> held(mutex);
      seen.insert(text);
      if (wanted_cpu >= 0) {
        fits = fits && CPU_COUNT(&cpus) == 1 && CPU_ISSET(static_cast<size_t>(wanted_cpu), &cpus);
      }
      if (wanted_priority > 0) {
        fits = fits && sched_getscheduler(0) == SCHED_FIFO && param.sched_priority == wanted_priority;
      }
      fits = fits && sigismember(&blocked, SIGINT) && sigismember(&blocked, SIGTERM);
    };
    rig.push(1, 5);
    CallError error;
    bool is_there = false;
    for (int i = 0; i < 200; ++i) {
      rig.push(kCamera, 7 + i);
      rig.push(1, 300 + i);
      rig.stream->wait_until(rt::now() + 1, &is_there, &error);
      const std::lock_guard<std::mutex> held(mutex);
      if (seen.size() == 3) break;
    }
    char own[17] = "";
    prctl(PR_GET_NAME, own);
    return {{"names", seen}, {"fits", fits}, {"own", own}};
  } catch (const rt::Error& error) {
    return {{"refused", error.what()}, {"input", error.code() == Code::kInput}};
  }
}

json broken_clock(const Manifest& manifest) {
  static std::atomic<bool> is_broken{false};
  st::Clock clock = {[](void*) { return is_broken ? NAN : rt::now(); }, nullptr};
  Rig rig(manifest, 0, options_of(manifest), {}, clock);
  CallError error;
  bool is_there = false;
  rig.push(kCamera, 1);
  const Code first = rig.stream->wait_until(rt::now() + 30, &is_there, &error);
  is_broken = true;
  const Code glitch = rig.push(kCamera, 2);
  is_broken = false;
  const Code after = rig.push(kCamera, 3);
  is_broken = true;
  Code code = Code::kOk;
  const double begin = rt::now();
  while (code == Code::kOk && rt::now() < begin + 30) {
    code = rig.push(kCamera, 4);
    sleep_s(0.05);
  }
  const st::Result* result = nullptr;
  const Code take = rig.stream->take(false, &result, &error);
  return {{"good", first == Code::kOk && is_there && glitch == Code::kOk && after == Code::kOk},
          {"fails", code == Code::kBackend && take == Code::kBackend},
          {"after_s", rt::now() - begin},
          {"message", rig.message},
          {"other", error.text}};
}

json full(const Manifest& manifest) {
  st::StreamOptions options = options_of(manifest);
  options.keep = 2;
  Rig rig(manifest, 0, options);
  CallError error;
  const auto push_until = [&](int64_t results) {
    for (int32_t tag = 1; rig.account()["results"].get<int64_t>() < results; ++tag) {
      rig.push(kCamera, tag);
      sleep_s(1e-4);
    }
  };
  push_until(1);
  const st::Result* result = nullptr;
  rig.stream->take(false, &result, &error);
  if (result == nullptr) fail("no result");
  const st::Result copy = *result;
  push_until(50);  // places and slots are used again and again
  const bool stays = rig.agrees(*result) && copy.t == result->t &&
                     copy.modalities[0].samples[0].seq == result->modalities[0].samples[0].seq;
  return {{"stays", stays}, {"account", rig.account()}};
}

}  // namespace

int main(int count, char** arguments) {
  if (count < 3) fail("usage: thread_probe BUNDLE MODE ...");
  const std::shared_ptr<rt::Bundle> bundle = rt::Bundle::open(arguments[1]);
  const Manifest& manifest = bundle->manifest();
  const std::string mode = arguments[2];
  const auto number = [&](int i) { return i < count ? std::atof(arguments[i]) : 0.0; };
  json row;
  if (mode == "storm") {
    row = storm(manifest, number(3), number(4) / 1000, static_cast<unsigned>(number(5)), number(6),
                static_cast<int>(number(7)));
  } else if (mode == "slow") {
    row = slow(manifest, number(3) / 1000, static_cast<int>(number(4)));
  } else if (mode == "inside") {
    row = inside(manifest);
  } else if (mode == "settings") {
    row = settings(manifest, arguments[3], static_cast<int>(number(4)),
                   static_cast<int>(number(5)));
  } else if (mode == "clock") {
    row = broken_clock(manifest);
  } else if (mode == "full") {
    row = full(manifest);
  } else {
    fail("no such mode");
  }
  std::printf("%s\n", row.dump().c_str());
  return 0;
}
