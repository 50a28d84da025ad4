// Calls the functions of OpenVINO's slots at random, on memory that sanitizers watch.
//
// `openvino_probe BUNDLE LIBRARY SEED COUNT`: the bundle's one stage takes x, gain and h, and gives
// y = gain * (x + h) and h_new = h / 2 + x. Each output, and each tensor that was kept, is held against
// what it should be. Prints how many runs there were, and how many calls were refused.
#include <cstdio>
#include <cstdlib>
#include <random>
#include <thread>
#include <vector>

#include "backends/openvino/session.h"
#include "bundle/bundle.h"

using namespace mmedge::runtime;

namespace {

struct Kept {
  Value value;
  std::vector<float> expected;
};

[[noreturn]] void fail(const char* what, const char* message) {
  std::printf("%s: %s\n", what, message);
  std::fflush(stdout);
  std::_Exit(1);  // the other thread goes on
}

std::vector<float> floats(const TensorView& view) {
  const auto* data = static_cast<const float*>(view.data);
  return {data, data + view.elements()};
}

TensorView tensor(std::vector<float>* data, int64_t rows) {
  TensorView view;
  view.rank = 2;
  view.shape[0] = rows;
  view.shape[1] = 4;
  data->resize(static_cast<size_t>(rows) * 4);
  view.data = data->data();
  return view;
}

// One thread's calls.
class Caller {
 public:
  Caller(Session& session, unsigned seed) : session_(session), random_(seed) {
    slot_ = session.make_slot();
    for (const char* name : {"x", "gain", "h"}) inputs_.push_back(index(session.input_index(name)));
    for (const char* name : {"y", "h_new"}) outputs_.push_back(index(session.output_index(name)));
    expected_.resize(2);
  }

  void call(int count) {
    for (int i = 0; i < count; ++i) step();
  }

  long runs = 0, refusals = 0;

 private:
  static size_t index(int place) { return static_cast<size_t>(place); }
  unsigned draw(unsigned below) { return static_cast<unsigned>(random_()) % below; }
  size_t input(unsigned which) const { return inputs_[which]; }
  size_t output(unsigned which) const { return outputs_[which]; }

  void count(Code code) { refusals += code != Code::kOk; }

  void set(unsigned which, int64_t rows) {
    std::vector<float>& memory = memory_[which];
    const TensorView view = tensor(&memory, rows);
    for (float& each : memory) each = static_cast<float>(draw(9)) - 4;
    if (slot_->set_input(input(which), view) != Code::kOk) fail("set_input", slot_->message());
  }

  void check_kept() {
    for (const Kept& each : kept_) {
      if (floats(each.value.view()) != each.expected) fail("a kept tensor", "was written to");
    }
  }

  void run() {
    // What all inputs hold now, as far as they are set and of one size.
    const TensorView* views[3];
    bool fits = true;
    for (unsigned i = 0; i < 3; ++i) {
      views[i] = &slot_->input(input(i));
      fits = fits && views[i]->data != nullptr && views[i]->shape[0] == views[0]->shape[0];
    }
    std::vector<float> x, gain, h;
    if (fits) {
      x = floats(*views[0]);
      gain = floats(*views[1]);
      h = floats(*views[2]);
    }
    const Code code = slot_->run();
    ++runs;
    if (!fits) {
      // Sizes that do not go together may be repeated along an axis of one; all else is refused.
      count(code);
      for (auto& each : expected_) each.clear();
      known_ = false;
      return;
    }
    if (code != Code::kOk) fail("run", slot_->message());
    known_ = true;
    for (auto& each : expected_) each.assign(x.size(), 0);
    for (size_t i = 0; i < x.size(); ++i) {
      expected_[0][i] = gain[i] * (x[i] + h[i]);
      expected_[1][i] = h[i] * 0.5f + x[i];
    }
    for (unsigned i = 0; i < 2; ++i) {
      if (floats(slot_->output(output(i))) != expected_[i]) fail("an output", "is another");
    }
    check_kept();
  }

  void step() {
    const unsigned which = draw(3), out = draw(2);
    switch (draw(12)) {
      case 0: case 1: set(which, 1 + draw(3)); break;
      case 2: {
        const int64_t rows = 1 + draw(3);
        for (unsigned i = 0; i < 3; ++i) set(i, rows);
        break;
      }
      case 3: case 4: case 5: run(); break;
      case 6: case 7: {
        const TensorView before = slot_->output(output(1));
        const std::vector<float> values = before.data ? floats(before) : std::vector<float>();
        const Code code = slot_->feed_back(output(1), input(2));
        count(code);
        if (code == Code::kOk && floats(slot_->input(input(2))) != values) {
          fail("feed_back", "another tensor");
        }
        break;
      }
      case 8: {
        Value value = slot_->take_output(output(out));
        if (value && known_) kept_.push_back({std::move(value), expected_[out]});
        break;
      }
      case 9: {
        if (slot_->input(input(2)).data == nullptr) break;
        std::vector<float> values = floats(slot_->input(input(2)));
        Value value = slot_->take_input(input(2));
        if (value) kept_.push_back({std::move(value), std::move(values)});
        break;
      }
      case 10: {
        if (kept_.empty()) break;
        const size_t place = draw(static_cast<unsigned>(kept_.size()));
        if (draw(2) != 0) {
          std::swap(kept_[place], kept_.back());
          // It may still be an input: a slot reads what is set, so that another one comes first.
          set(0, 1), set(1, 1), set(2, 1);
          kept_.pop_back();
        } else if (slot_->set_input(input(which), kept_[place].value) != Code::kOk) {
          fail("set_input of a value", slot_->message());
        }
        break;
      }
      default: {
        TensorView wrong = tensor(&spare_, 2);
        if (draw(2) != 0) wrong.dtype = DType::kInt64; else wrong.rank = 1;
        count(slot_->set_input(input(which), wrong));
        count(slot_->set_output(output(out), wrong));
        if (draw(4) != 0) break;
        const TensorView memory = tensor(&own_[out], 1 + draw(2));
        slot_->set_output(output(out), memory);
        set(0, memory.shape[0]), set(1, memory.shape[0]), set(2, memory.shape[0]);
        run();
        if (slot_->output(output(out)).data != memory.data) fail("set_output", "another place");
        slot_->reset_output(output(out));
      }
    }
  }

  Session& session_;
  std::mt19937 random_;
  std::unique_ptr<RunSlot> slot_;
  std::vector<size_t> inputs_, outputs_;
  std::vector<float> memory_[3], own_[2], spare_;
  std::vector<std::vector<float>> expected_;
  bool known_ = false;
  std::vector<Kept> kept_;  // ends before the slot
};

}  // namespace

int main(int, char** arguments) {
  const auto bundle = Bundle::open(arguments[1]);
  const Manifest& manifest = bundle->manifest();
  const Backend backend = openvino::make_backend(arguments[2]);
  StageSource source;
  source.stage = &manifest.stages.front();
  for (const Variant& variant : manifest.variants) source.variant = &variant;
  source.inputs = source.stage->inputs;
  source.graph = bundle->archive().read(source.stage->graph);
  source.golden_shapes = [] {
    return std::vector<openvino::InputShapes>(2, openvino::InputShapes(3, {1, 4}));
  };
  SessionOptions options;
  options.threads = 1;
  const auto session = backend.open_stage(backend.context.get(), source, options);
  const auto seed = static_cast<unsigned>(std::atoi(arguments[3]));
  const int count = std::atoi(arguments[4]);
  std::vector<std::unique_ptr<Caller>> callers;
  for (unsigned i = 0; i < 2; ++i) callers.push_back(std::make_unique<Caller>(*session, seed + i));
  std::vector<std::thread> threads;
  for (auto& caller : callers) threads.emplace_back([&caller, count] { caller->call(count); });
  for (std::thread& thread : threads) thread.join();
  std::printf("%ld %ld\n", callers[0]->runs + callers[1]->runs,
              callers[0]->refusals + callers[1]->refusals);
  return 0;
}
