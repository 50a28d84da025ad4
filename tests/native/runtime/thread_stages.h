// Stages that compute nothing, take a time, and see to it that what they read stays while they run.
#ifndef MMEDGE_TESTS_NATIVE_RUNTIME_THREAD_STAGES_H_
#define MMEDGE_TESTS_NATIVE_RUNTIME_THREAD_STAGES_H_

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>

#include "stream/stage_runner.h"

namespace {

using mmedge::runtime::Code;
using mmedge::runtime::TensorView;
namespace st = mmedge::runtime::stream;

constexpr size_t kModalities = 3, kCamera = 0;
constexpr size_t kMostSlots = 256;

[[noreturn]] void fail(const char* what) {
  std::fprintf(stderr, "%s\n", what);
  std::_Exit(4);
}

void sleep_s(double seconds) {
  std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
}

// The number that all of a value's elements say; it fails where they differ.
int32_t tag_of(const TensorView& view) {
  const size_t bytes = view.bytes();
  int32_t tag, other;
  std::memcpy(&tag, view.data, 4);
  for (size_t at = 0; at + 4 <= bytes; at += 4) {
    std::memcpy(&other, static_cast<const uint8_t*>(view.data) + at, 4);
    if (other != tag) fail("a value was overwritten while a stage read it");
  }
  return tag;
}

// What each stage reads stays while it runs; it hands on the number in its input.
class Stages : public st::StageRunner {
 public:
  explicit Stages(double seconds) : seconds_(seconds) {
    for (auto& slots : features_) slots.resize(kMostSlots);
    outputs_.resize(kMostSlots);
  }

  void reserve(size_t, size_t slots, const size_t*) override {
    if (slots > kMostSlots) fail("more slots than there are here");
  }
  void reserve_results(size_t slots) override {
    if (slots > kMostSlots) fail("more slots than there are here");
  }
  Code encode(size_t modality, const TensorView* inputs, bool, size_t slot,
              double*) noexcept override {
    if (busy_[modality].exchange(true)) fail("two threads in one encoder");
    const int32_t tag = tag_of(inputs[0]);
    work();
    if (tag_of(inputs[0]) != tag) fail("an encoder's input changed");
    features_[modality][slot] = tag;
    busy_[modality] = false;
    return Code::kOk;
  }
  Code stand_in(size_t modality, const int64_t*, size_t slot, double*) noexcept override {
    features_[modality][slot] = -1;
    return Code::kOk;
  }
  Code fuse(const st::FusionPart* parts, const uint8_t*, size_t result,
            double*) noexcept override {
    std::memcpy(parts_, parts, sizeof parts_);
    read(taken_);
    work();
    check_parts();
    std::memcpy(outputs_[result].tags, taken_, sizeof taken_);
    step_ = 0;
    return Code::kOk;
  }
  void keep_states(size_t) noexcept override {}
  void keep_fusion_states(const uint8_t*) noexcept override {}
  // A loop of so many steps follows each fusion; what the fusion took stays until its end.
  bool has_loop() const noexcept override { return steps > 0; }
  Code step(bool* more, double*) noexcept override {
    work();
    check_parts();
    *more = ++step_ < steps;
    return Code::kOk;
  }
  Code end(mmedge::runtime::LoopFinish, size_t, bool* has_outputs, double*) noexcept override {
    check_parts();
    *has_outputs = true;
    return Code::kOk;
  }
  const char* message(int) const noexcept override { return ""; }

  const int32_t* output(int slot) const { return outputs_[static_cast<size_t>(slot)].tags; }

  int steps = 0;
  // Called in each stage.
  void (*extra)(void*) = nullptr;
  void* context = nullptr;
  std::atomic<int> runs{0};

 private:
  struct Output {
    int32_t tags[kModalities];
  };

  void work() noexcept {
    ++runs;
    if (extra != nullptr) extra(context);
    if (seconds_ > 0) sleep_s(seconds_);
  }
  void read(int32_t* tags) const {
    for (size_t m = 0; m < kModalities; ++m) {
      tags[m] = parts_[m].slot < 0 ? tag_of(parts_[m].inputs[0])
                                   : features_[m][static_cast<size_t>(parts_[m].slot)];
    }
  }
  void check_parts() const {
    int32_t now[kModalities];
    read(now);
    if (std::memcmp(now, taken_, sizeof now) != 0) fail("a fusion's input changed");
  }

  double seconds_;
  st::FusionPart parts_[kModalities];
  int32_t taken_[kModalities] = {};
  int step_ = 0;
  std::vector<int32_t> features_[kModalities];
  std::vector<Output> outputs_;
  std::atomic<bool> busy_[kModalities] = {};
};

}  // namespace

#endif  // MMEDGE_TESTS_NATIVE_RUNTIME_THREAD_STAGES_H_
