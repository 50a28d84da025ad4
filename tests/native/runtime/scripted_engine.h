// ONNX Runtime as a test wants it: stages fail on some values, take time of a clock, and may take memory
// where a stream may not. For the one source file of a probe.
#ifndef MMEDGE_TESTS_NATIVE_RUNTIME_SCRIPTED_ENGINE_H_
#define MMEDGE_TESTS_NATIVE_RUNTIME_SCRIPTED_ENGINE_H_

#include <atomic>
#include <cmath>
#include <cstdio>
#include <map>
#include <memory>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "allocation_guard.h"
#include "backends/onnxruntime/session.h"

// Its memory is given back by the guard's `delete`, too.
__attribute__((noinline)) void* operator new(size_t size, const std::nothrow_t&) noexcept {
  return operator new(size);
}

namespace mmedge::runtime {

// A clock of the caller's: it moves when a stage runs, and between events.
struct OwnClock {
  std::atomic<double> time{0};  // threads of a stream look at it while it stands still
  double offset = 0;  // it is set to another time, and again at these times by so much
  std::vector<std::pair<double, double>> sets;
  double wrong = 0;   // of the next reading

  static double read(void* context) {
    auto* clock = static_cast<OwnClock*>(context);
    const double wrong = clock->wrong;
    clock->wrong = 0;
    return clock->time + clock->ahead() + wrong;
  }
  double ahead() const {
    double total = offset;
    for (const auto& [at, by] : sets) {
      if (at <= time) total += by;
    }
    return total;
  }
  static double read_real(void* context) { return static_cast<OwnClock*>(context)->time; }
};

// What stages do beside computing: they fail on some values, and take time of a caller's clock.
struct Script {
  std::map<std::string, std::string> failing;  // by stage, the input that says whether it fails
  int64_t every = 0;
  std::map<std::string, double> costs;
  OwnClock* clock = nullptr;
  bool has_threads = false;  // stages run on several threads
};
inline Script script;

inline int64_t first_element(const TensorView& view) {
  if (view.elements() == 0) return 0;
  if (view.dtype == DType::kInt64) return *static_cast<const int64_t*>(view.data);
  if (view.dtype != DType::kFloat32) return 0;
  const float value = *static_cast<const float*>(view.data);
  return std::isfinite(value) ? static_cast<int64_t>(value) : 0;
}

// An engine takes memory in its calls.
class EngineCall {
 public:
  EngineCall() { std::swap(guards_, guards); }
  ~EngineCall() { std::swap(guards_, guards); }

 private:
  int guards_ = 0;
};

// What engines made: they take memory, too, when they are given it back.
inline std::map<void*, Value> made;

inline void give_back(const void*, void* tensor) noexcept {
  const EngineCall call;
  made.erase(tensor);
}

inline Value watch(Value value) {
  if (!value || script.has_threads) return value;
  Value watched(value.engine(), value.tensor(), give_back, value.view());
  made[value.tensor()] = std::move(value);
  return watched;
}

class ScriptedSlot final : public RunSlot {
 public:
  ScriptedSlot(std::unique_ptr<RunSlot> slot, const Session& session, const std::string& stage)
      : slot_(std::move(slot)), session_(session), stage_(stage) {}

  Code set_input(size_t index, const TensorView& tensor) noexcept override {
    const EngineCall call;
    return told(slot_->set_input(index, tensor));
  }
  Code set_input(size_t index, const Value& value) noexcept override {
    const EngineCall call;
    return told(slot_->set_input(index, value));
  }
  Code feed_back(size_t output, size_t input) noexcept override {
    const EngineCall call;
    return told(slot_->feed_back(output, input));
  }
  Code set_output(size_t index, const TensorView& memory) noexcept override {
    const EngineCall call;
    return told(slot_->set_output(index, memory));
  }
  void reset_output(size_t index) noexcept override { slot_->reset_output(index); }
  Code run() noexcept override {
    const EngineCall call;
    if (script.clock != nullptr) script.clock->time = script.clock->time + script.costs[stage_];
    const auto failing = script.failing.find(stage_);
    if (script.every != 0 && failing != script.failing.end()) {
      const int place = session_.input_index(failing->second);
      const int64_t number = first_element(slot_->input(static_cast<size_t>(place)));
      if (number != 0 && number % script.every == 0) {
        std::snprintf(message_, sizeof message_, "%s failed on %lld", stage_.c_str(),
                      static_cast<long long>(number));
        return Code::kBackend;
      }
    }
    return told(slot_->run());
  }
  const TensorView& output(size_t index) const noexcept override { return slot_->output(index); }
  Value take_output(size_t index) noexcept override {
    const EngineCall call;
    return watch(slot_->take_output(index));
  }
  const TensorView& input(size_t index) const noexcept override { return slot_->input(index); }
  Value take_input(size_t index) noexcept override {
    const EngineCall call;
    return watch(slot_->take_input(index));
  }
  const char* message() const noexcept override { return message_; }

 private:
  Code told(Code code) noexcept {
    if (code != Code::kOk) std::snprintf(message_, sizeof message_, "%s", slot_->message());
    return code;
  }

  std::unique_ptr<RunSlot> slot_;
  const Session& session_;
  const std::string stage_;
  char message_[512] = "";
};

class ScriptedSession final : public Session {
 public:
  ScriptedSession(std::unique_ptr<Session> session, const std::string& stage)
      : session_(std::move(session)), stage_(stage) {
    inputs_ = session_->inputs();
    outputs_ = session_->outputs();
  }
  std::unique_ptr<RunSlot> make_slot() override {
    return std::make_unique<ScriptedSlot>(session_->make_slot(), *this, stage_);
  }

 private:
  std::unique_ptr<Session> session_;
  const std::string stage_;
};

inline Backend make_scripted_engine(const char* library) {
  static decltype(Backend::open_stage) open_stage;
  Backend engine = onnxruntime::make_backend(library, {});
  open_stage = engine.open_stage;
  engine.open_stage = [](void* context, const StageSource& source, const SessionOptions& options) {
    std::unique_ptr<Session> session = open_stage(context, source, options);
    session = std::make_unique<ScriptedSession>(std::move(session), source.stage->name);
    return session;
  };
  return engine;
}

}  // namespace mmedge::runtime

#endif  // MMEDGE_TESTS_NATIVE_RUNTIME_SCRIPTED_ENGINE_H_
