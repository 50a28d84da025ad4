// Pushes, polls, and fetches.
#include "player.h"

#include <algorithm>
#include <limits>
#include <utility>

namespace mmedge::tools {

namespace rt = mmedge::runtime;

namespace {

int32_t dtype_of(rt::DType dtype) {
  constexpr int32_t kNumbers[] = {MMEDGE_BOOL, MMEDGE_F16, MMEDGE_F32, MMEDGE_F64,
                                  MMEDGE_I8,   MMEDGE_I16, MMEDGE_I32, MMEDGE_I64,
                                  MMEDGE_U8,   MMEDGE_U16, MMEDGE_U32, MMEDGE_U64};
  return kNumbers[static_cast<size_t>(dtype)];
}

}  // namespace

Player::Player(mmedge_pipeline* pipeline, const rt::Manifest& manifest, const Trigger& trigger,
               const std::map<std::string, int64_t>& largest)
    : manifest_(manifest), is_timer_(trigger.name.empty()), pushed_(manifest.modalities.size()) {
  std::vector<mmedge_size> sizes;
  for (const auto& [name, size] : largest) sizes.push_back({name.c_str(), size});
  mmedge_stream_options how = MMEDGE_STREAM_OPTIONS;
  how.trigger = is_timer_ ? nullptr : trigger.name.c_str();
  how.trigger_hz = trigger.hz;
  how.deadline_ms = trigger.deadline_ms;
  how.largest = sizes.data();
  how.largest_count = static_cast<int32_t>(sizes.size());
  how.clock = [](void* self) { return static_cast<const Player*>(self)->now_; };
  how.clock_context = this;
  mmedge_stream* stream = nullptr;
  check(mmedge_stream_open(pipeline, &how, &stream));
  stream_.reset(stream);
  std::vector<std::string> modalities, outputs;
  for (const rt::Modality& modality : manifest.modalities) modalities.push_back(modality.name);
  for (int32_t i = 0; i < mmedge_pipeline_output_count(pipeline); ++i) {
    mmedge_tensor_spec spec = MMEDGE_TENSOR_SPEC;
    check(mmedge_pipeline_output(pipeline, i, &spec));
    outputs.emplace_back(spec.name);
  }
  lines_ = std::make_unique<ResultLines>(stream, std::move(modalities), std::move(outputs));
}

void Player::push(size_t place, const Value& value, double due, double stamp) {
  advance_to(due);
  const rt::Modality& modality = manifest_.modalities[place];
  std::vector<mmedge_tensor> inputs;
  for (const auto& [name, view] : value.tensors) {
    mmedge_tensor tensor{};
    // The array of a modality of one input has no name; of several it is refused for their count.
    tensor.name = name.empty() ? modality.inputs[0].c_str() : name.c_str();
    tensor.data = view.data;
    tensor.bytes = view.bytes();
    tensor.dtype = dtype_of(view.dtype);
    tensor.rank = static_cast<int32_t>(view.rank);
    std::copy(view.shape, view.shape + view.rank, tensor.shape);
    inputs.push_back(tensor);
  }
  check(mmedge_stream_push(stream_.get(), modality.name.c_str(), inputs.data(),
                                  static_cast<int32_t>(inputs.size()), &stamp, nullptr));
  ++pushed_[place];
  settle();
}

void Player::finish() {
  if (!is_timer_) {
    while (step(std::numeric_limits<double>::max())) {
    }
  }
  lines_->write_last(pushed_);
}

void Player::settle() {
  // A poll takes as many steps of a loop as came due before it.
  while (mmedge_stream_next_time(stream_.get()) <= now_) check(mmedge_stream_poll(stream_.get()));
  lines_->write_results();
}

void Player::creep_to(double time) {
  // A stream takes a clock of its caller's that is ahead by more than a second for one that was set.
  constexpr double kStep = 0.5;
  while (time - now_ > kStep) {
    now_ += kStep;
    check(mmedge_stream_poll(stream_.get()));
  }
  now_ = std::max(now_, time);
}

void Player::advance_to(double time) {
  while (step(time)) {
  }
  creep_to(time);
}

bool Player::step(double limit) {
  const double next = mmedge_stream_next_time(stream_.get());
  if (!(next <= limit)) return false;
  creep_to(next);
  settle();
  return true;
}

}  // namespace mmedge::tools
