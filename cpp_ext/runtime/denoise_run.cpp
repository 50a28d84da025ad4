// Joins the loop `denoise` with the stages that it runs.
#include "denoise_run.h"

#include <algorithm>
#include <set>

#include "clock.h"
#include "error.h"
#include "execution/repeat.h"
#include "schema/constraints.h"

namespace mmedge::runtime {
namespace {

constexpr int64_t kMaxElements = int64_t{1} << 31;

}  // namespace

DenoiseRun::DenoiseRun(Pipeline* pipeline)
    : LoopRun(pipeline), loop_(std::get<DenoiseLoop>(pipeline->network()->manifest().loop)) {
  const Network& network = *pipeline_.network();
  const Manifest& manifest = network.manifest();
  const LoopStage& stage = step_.stage();
  latent_ = static_cast<size_t>(stage.session->input_index(loop_.latent));
  time_ = static_cast<size_t>(stage.session->input_index(loop_.time));
  prediction_ = static_cast<size_t>(stage.session->output_index(loop_.prediction));
  latent_spec_ = stage.session->inputs()[latent_];
  time_spec_ = stage.session->inputs()[time_];
  latent_places_ = dimension_places(manifest, latent_spec_);
  time_places_ = dimension_places(manifest, time_spec_);
  for (const auto& [name, dimension] : manifest.dimensions) dimensions_.push_back(dimension);
  sizes_.resize(dimensions_.size());
  first_sizes_.resize(dimensions_.size());
  if (loop_.decoder) {
    decoder_.emplace(network.loop_stages()[1]);
    decoder_latent_ =
        static_cast<size_t>(network.loop_stages()[1].session->input_index(loop_.latent));
  }
  if (!loop_.guidance) return;
  unconditional_.emplace(stage);
  samples_ = network.bundle().samples();
  std::set<int> shared;
  for (size_t i = 0; i < stage.inputs.size(); ++i) {
    const std::string& name = stage.session->inputs()[i].name;
    const auto& replaced = loop_.unconditional;
    if (std::find(replaced.begin(), replaced.end(), name) != replaced.end()) continue;
    shared.insert(stage.inputs[i].dimensions.begin(), stage.inputs[i].dimensions.end());
  }
  for (const std::string& name : loop_.unconditional) {
    Replacement each;
    each.input = static_cast<size_t>(stage.session->input_index(name));
    each.stored = samples_->unconditional.at(name);
    each.places = stage.inputs[each.input].dimensions;
    for (const int place : each.places) each.shared.push_back(place >= 0 && shared.count(place));
    replacements_.push_back(std::move(each));
  }
}

void DenoiseRun::reserve(int64_t elements) {
  give_up();
  has_begun_ = false;
  if (elements < 0 || elements > kMaxElements) {
    throw Error(Code::kInput, "a loop was to set memory aside for a latent of " +
                                  std::to_string(elements) + " elements");
  }
  if (progress_ && elements <= capacity_) return;
  capacity_ = std::max<int64_t>(elements, 1);
  progress_.emplace(loop_, static_cast<size_t>(capacity_));
}

void DenoiseRun::reserve_for_call() {
  pipeline_.find_loop_sizes(step_.stage(), -1, &first_sizes_);
  pipeline_.find_all_sizes(&sizes_);
  const TensorView latent = shape_of(latent_spec_, latent_places_);
  reserve(std::max(latent.elements(), capacity_));
  for (size_t axis = 0; axis < latent_places_.size(); ++axis) {
    if (latent_places_[axis] >= 0) {
      sizes_[static_cast<size_t>(latent_places_[axis])] = latent.shape[axis];
    }
  }
  const size_t bytes = std::max<size_t>(shape_of(time_spec_, time_places_).bytes(), 1);
  if (time_memory_.size() < bytes) time_memory_.resize(bytes);
  for (Replacement& each : replacements_) {
    const size_t needed = std::max<size_t>(shape_of(each).bytes(), 1);
    if (each.memory.size() < needed) each.memory.resize(needed);
  }
  step_.reserve(first_sizes_.data());
  if (unconditional_) unconditional_->reserve(first_sizes_.data());
}

void DenoiseRun::warm_up(const NamedTensor* tensors, size_t count) {
  reserve_for_call();
  for (int i = 0; i < kWarmLoopRuns; ++i) {
    bool taken = false;
    Code code = begin(tensors, count, {}, false, nullptr);
    for (int step = 0; step < kWarmLoopRuns && code == Code::kOk; ++step) code = this->step(&taken);
    if (code != Code::kOk) throw Error(code, message());
    cancel();
    make_result();  // a schedule may have no estimate yet, which is no fault here
  }
  has_begun_ = false;
}

TensorView DenoiseRun::shape_of(const TensorSpec& spec,
                                const std::vector<int>& places) const noexcept {
  TensorView view;
  view.dtype = spec.dtype;
  view.rank = spec.shape.size();
  for (size_t axis = 0; axis < view.rank; ++axis) {
    const int place = places[axis];
    if (place < 0) {
      view.shape[axis] = spec.shape[axis].size;
      continue;
    }
    const int64_t known = sizes_[static_cast<size_t>(place)];
    view.shape[axis] = known == kUnknownSize ? dimensions_[static_cast<size_t>(place)].opt : known;
  }
  return view;
}

// Of a dimension that the stage's other inputs have, too, a stored size of 1 is repeated.
TensorView DenoiseRun::shape_of(const Replacement& replacement) const noexcept {
  TensorView view = replacement.stored;
  for (size_t axis = 0; axis < view.rank; ++axis) {
    if (!replacement.shared[axis]) continue;
    const int64_t known = sizes_[static_cast<size_t>(replacement.places[axis])];
    if (known != kUnknownSize) view.shape[axis] = known;
  }
  return view;
}

Code DenoiseRun::take_noise(const TensorView& noise) noexcept {
  if (noise.dtype != DType::kFloat32 || noise.rank != latent_spec_.shape.size()) {
    return error_.set(Code::kInput, "noise: expected float32 of rank %zu, got %s of rank %zu",
                      latent_spec_.shape.size(), dtype_name(noise.dtype), noise.rank);
  }
  const TensorView expected = shape_of(latent_spec_, latent_places_);
  for (size_t axis = 0; axis < noise.rank; ++axis) {
    const int place = latent_places_[axis];
    const int64_t length = noise.shape[axis];
    if (place < 0 || sizes_[static_cast<size_t>(place)] != kUnknownSize) {
      if (length == expected.shape[axis]) continue;
      return error_.set(Code::kInput, "noise: expected size %lld along axis %zu in this call, got %lld",
                        static_cast<long long>(expected.shape[axis]), axis,
                        static_cast<long long>(length));
    }
    if (!allows(dimensions_[static_cast<size_t>(place)], length)) {
      return error_.set(Code::kInput, "noise: dimension '%s' does not take %lld",
                        latent_spec_.shape[axis].dimension.c_str(), static_cast<long long>(length));
    }
  }
  std::copy_n(noise.shape, noise.rank, latent_view_.shape);
  return Code::kOk;
}

Code DenoiseRun::fit_unconditional() noexcept {
  for (Replacement& each : replacements_) {
    TensorView view = shape_of(each);
    for (size_t axis = 0; axis < view.rank; ++axis) {
      const int64_t stored = each.stored.shape[axis];
      if (stored == 1 || stored == view.shape[axis]) continue;
      return error_.set(Code::kInput,
                        "the unconditional run has '%s' of size %lld along axis %zu, which does not "
                        "fit this call: expected %lld; call with those sizes",
                        step_.stage().session->inputs()[each.input].name.c_str(),
                        static_cast<long long>(stored), axis,
                        static_cast<long long>(view.shape[axis]));
    }
    if (view.bytes() > each.memory.size()) {
      return error_.set(Code::kNotWarm, "the unconditional run needs more memory than was set aside; "
                                        "warm up with the largest sizes of your calls");
    }
    view.data = each.memory.data();
    repeat(each.stored, view);
    RunSlot& slot = unconditional_->slot();
    if (const Code code = slot.set_input(each.input, view); code != Code::kOk) {
      return error_.set(code, "%s", slot.message());
    }
  }
  return Code::kOk;
}

Code DenoiseRun::begin(const NamedTensor* tensors, size_t count, const DenoiseOptions& options,
                       bool cached, State* state) noexcept {
  return begin_call(state, [&]() noexcept {
    const Code code = compute(tensors, count, cached, state);
    return code == Code::kOk ? begin_latent(options) : code;
  });
}

Code DenoiseRun::begin_latent(const DenoiseOptions& options) noexcept {
  pipeline_.find_loop_sizes(step_.stage(), -1, &first_sizes_);
  pipeline_.find_all_sizes(&sizes_);
  latent_view_ = shape_of(latent_spec_, latent_places_);
  if (options.noise && take_noise(*options.noise) != Code::kOk) return error_.code;
  for (size_t axis = 0; axis < latent_places_.size(); ++axis) {
    if (latent_places_[axis] >= 0) {
      sizes_[static_cast<size_t>(latent_places_[axis])] = latent_view_.shape[axis];
    }
  }
  time_view_ = shape_of(time_spec_, time_places_);
  const int64_t elements = latent_view_.elements();
  if (!progress_ || elements > capacity_ || time_view_.bytes() > time_memory_.size()) {
    return error_.set(Code::kNotWarm,
                      "the latent of this call has %lld elements, and memory was set aside for %lld; "
                      "warm up with the largest sizes of your calls, or call mmedge_loop_reserve()",
                      static_cast<long long>(elements), static_cast<long long>(capacity_));
  }
  time_view_.data = time_memory_.data();
  Code code = step_.begin(pipeline_, first_sizes_.data(), nullptr, &error_);
  if (code == Code::kOk && unconditional_) {
    code = unconditional_->begin(pipeline_, first_sizes_.data(), nullptr, &error_);
    if (code == Code::kOk) code = fit_unconditional();
  }
  if (code != Code::kOk) return code;
  progress_->begin(static_cast<size_t>(elements), options.seed,
                   options.noise ? static_cast<const float*>(options.noise->data) : nullptr,
                   options.deadline);
  result_ = nullptr;
  return Code::kOk;
}

Code DenoiseRun::predict(LoopSlot* loop_slot, const float** prediction) noexcept {
  RunSlot& slot = loop_slot->slot();
  TensorView latent = latent_view_;
  latent.data = const_cast<float*>(progress_->scaled());  // inputs are not written to
  Code code = slot.set_input(latent_, latent);
  if (code == Code::kOk) code = slot.set_input(time_, time_view_);
  if (code != Code::kOk) return error_.set(code, "%s", slot.message());
  if (code = loop_slot->run(&error_); code != Code::kOk) return code;
  const TensorView& made = slot.output(prediction_);
  if (made.dtype != DType::kFloat32 || !same_shape(made, latent)) {
    return error_.set(Code::kBackend,
                      "stage '%s' gives '%s' of %lld elements for a latent of %lld, or of another "
                      "shape",
                      loop_.stage.c_str(), loop_.prediction.c_str(),
                      static_cast<long long>(made.elements()),
                      static_cast<long long>(latent.elements()));
  }
  *prediction = static_cast<const float*>(made.data);
  return Code::kOk;
}

Code DenoiseRun::step(bool* taken) noexcept {
  *taken = false;
  if (const Code code = check_begun(); code != Code::kOk || !is_open_) return code;
  if (progress_->prepare(now())) {
    progress_->fill_time(time_view_);
    const float* prediction = nullptr;
    if (const Code code = predict(&step_, &prediction); code != Code::kOk) return fail(code);
    if (unconditional_) {
      progress_->keep_conditional(prediction);
      const Code code = predict(&*unconditional_, &prediction);
      if (code != Code::kOk) return fail(code);
    }
    progress_->finish_step(prediction);
    *taken = true;
  }
  return progress_->finish() == LoopFinish::kNone ? Code::kOk : leave();
}

// That of the loop itself is of one call.
Code DenoiseRun::leave_states(State* state) noexcept {
  ++state->position;
  return Code::kOk;
}

Code DenoiseRun::make_result() noexcept {
  cancel();
  if (const Code code = progress_->result(&result_, &error_); code != Code::kOk) return code;
  if (!decoder_) return Code::kOk;
  Code code = decoder_->begin(pipeline_, first_sizes_.data(), nullptr, &error_);
  if (code != Code::kOk) return code;
  TensorView latent = latent_view_;
  latent.data = const_cast<float*>(result_);
  code = decoder_->slot().set_input(decoder_latent_, latent);
  if (code != Code::kOk) return error_.set(code, "%s", decoder_->slot().message());
  return decoder_->run(&error_);
}

TensorView DenoiseRun::output(size_t index) noexcept {
  if (decoder_) return decoder_->slot().output(index);
  TensorView view = latent_view_;
  view.data = const_cast<float*>(result_);
  return view;
}

TensorView DenoiseRun::latent() const noexcept {
  TensorView view = latent_view_;
  view.data = const_cast<float*>(progress_->latent());
  return view;
}

}  // namespace mmedge::runtime
