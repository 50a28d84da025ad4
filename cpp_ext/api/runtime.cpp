// The functions of mmedge/mmedge.h: handles around the runtime, and no exception across the border.
#include "mmedge/mmedge.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <exception>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "backends/onnxruntime/session.h"
#include "backends/openvino/session.h"
#include "bundle/bundle.h"
#include "clock.h"
#include "denoise_run.h"
#include "error.h"
#include "execution/verify.h"
#include "generate_run.h"
#include "handles.h"
#include "mmedge/kernels.h"
#include "own_backend.h"
#include "pipeline.h"

// Of ort/ops.cpp, which is linked in.
extern "C" mmedge::ort::Status* RegisterCustomOps(mmedge::ort::SessionOptions* options,
                                                  const mmedge::ort::ApiBase* base);

namespace {

using namespace mmedge::api;

// The caller's tensors into the handle's own list, which has room for one more than there are inputs.
bool take_arguments(mmedge_pipeline* pipeline, const mmedge_tensor* inputs, int32_t count,
                    mmedge_status* status) noexcept {
  if (count < 0 || (inputs == nullptr && count > 0)) {
    *status = mmedge::fail(MMEDGE_INVALID, "inputs is NULL or their count %d is negative", count);
    return false;
  }
  if (static_cast<size_t>(count) > pipeline->arguments.size()) {
    *status = mmedge::fail(MMEDGE_INPUT_ERROR, "%d inputs, and this bundle takes at most %zu", count,
                           pipeline->arguments.size());
    return false;
  }
  for (int32_t i = 0; i < count; ++i) {
    if (!to_tensor(inputs[i], &pipeline->arguments[static_cast<size_t>(i)], status)) return false;
  }
  return true;
}

mmedge_status give_outputs(mmedge_pipeline* handle, mmedge_tensor* outputs,
                           int32_t count) noexcept;

mmedge_status no_loop() noexcept {
  return mmedge::fail(MMEDGE_INPUT_ERROR,
                      "this bundle has no loop, so there are no steps; call mmedge_pipeline_run()");
}

std::unique_ptr<mmedge_pipeline> make_handle(std::shared_ptr<const rt::Network> network) {
  auto handle = std::make_unique<mmedge_pipeline>();
  handle->pipeline = std::make_unique<rt::Pipeline>(network);
  if (network->token_loop() != nullptr) {
    handle->generate = std::make_unique<rt::GenerateRun>(handle->pipeline.get());
  } else if (!network->loop_stages().empty()) {
    handle->denoise = std::make_unique<rt::DenoiseRun>(handle->pipeline.get());
  }
  handle->arguments.resize(network->inputs().specs().size());
  handle->variant = network->variant().id();
  handle->network = std::move(network);
  return handle;
}

size_t output_count_of(const rt::Network& network) noexcept {
  return network.loop_outputs().size() + network.outputs().size();
}

// What the loop gives comes first.
const rt::TensorSpec& output_spec(const rt::Network& network, size_t index) noexcept {
  const size_t of_loop = network.loop_outputs().size();
  return index < of_loop ? network.loop_outputs()[index] : network.outputs()[index - of_loop];
}

rt::TensorView output_view(mmedge_pipeline* handle, size_t index) noexcept {
  const size_t of_loop = handle->network->loop_outputs().size();
  if (index >= of_loop) return handle->pipeline->output(index - of_loop);
  if (handle->denoise) return handle->denoise->output(index);
  return index == 0 ? handle->generate->tokens() : handle->generate->lengths();
}

mmedge_status give_output(mmedge_pipeline* handle, mmedge_tensor* out) noexcept {
  const rt::Network& network = *handle->network;
  const size_t count = output_count_of(network);
  size_t index = 0;
  while (index < count && (out->name == nullptr || output_spec(network, index).name != out->name)) {
    ++index;
  }
  if (index == count) {
    return mmedge::fail(MMEDGE_INPUT_ERROR, "no output '%.200s' in this bundle",
                        out->name != nullptr ? out->name : "");
  }
  return give_tensor(output_view(handle, index), out);
}

mmedge_status give_outputs(mmedge_pipeline* handle, mmedge_tensor* outputs,
                           int32_t count) noexcept {
  mmedge_status status = MMEDGE_OK;
  for (int32_t i = 0; i < count; ++i) {
    const mmedge_status given = give_output(handle, &outputs[i]);
    if (given != MMEDGE_OK) status = given;
  }
  return status;
}

bool to_options(const mmedge_loop_options& from, rt::GenerateOptions* to,
                mmedge_status* status) noexcept {
  if (from.limit != -1) to->limit = from.limit;
  if (from.stop_count >= 0) to->stop = {from.stop, static_cast<size_t>(from.stop_count)};
  to->seed = from.seed;
  if (from.temperature != -1.0) to->temperature = from.temperature;
  if (from.top_k != -1) to->top_k = from.top_k;
  if (from.top_p != -1.0) to->top_p = from.top_p;
  to->forced = from.forced;
  to->forced_rows = from.forced_rows;
  to->forced_count = from.forced_count;
  if ((from.stop == nullptr && from.stop_count > 0) ||
      (from.forced != nullptr && (from.forced_rows < 0 || from.forced_count < 0))) {
    *status = mmedge::fail(MMEDGE_INVALID, "stop is NULL, or a size of forced is negative");
    return false;
  }
  if (from.deadline_ms == -1.0) return true;
  if (!std::isfinite(from.deadline_ms) || from.deadline_ms < 0) {
    *status = mmedge::fail(MMEDGE_INPUT_ERROR, "deadline_ms: expected milliseconds from 0, got %g",
                           from.deadline_ms);
    return false;
  }
  to->deadline = rt::now() + from.deadline_ms / 1000;
  return true;
}

mmedge_status begin_denoise(mmedge_pipeline* pipeline, int32_t input_count,
                            const mmedge_loop_options& from, const rt::GenerateOptions& checked,
                            mmedge_state* state) noexcept {
  if (checked.limit || checked.stop || checked.temperature || checked.top_k || checked.top_p ||
      from.forced != nullptr) {
    return mmedge::fail(MMEDGE_INPUT_ERROR,
                        "limit, stop, temperature, top_k, top_p, forced: a bundle with a loop "
                        "'denoise' takes seed, noise and deadline_ms; leave the others out");
  }
  rt::DenoiseOptions to;
  to.seed = from.seed;
  to.deadline = checked.deadline;
  if (from.noise != nullptr) {
    mmedge_status status = MMEDGE_OK;
    rt::NamedTensor noise;
    if (!to_tensor(*from.noise, &noise, &status)) return status;
    if (noise.view.data == nullptr || (noise.bytes != 0 && noise.bytes != noise.view.bytes())) {
      return mmedge::fail(MMEDGE_INPUT_ERROR, "noise has no data, or not as much as its shape says");
    }
    to.noise = noise.view;
  }
  const rt::Code code = pipeline->denoise->begin(
      pipeline->arguments.data(), static_cast<size_t>(input_count), to, from.cached != 0,
      state != nullptr ? state->state.get() : nullptr);
  if (code == rt::Code::kOk) return MMEDGE_OK;
  return mmedge::fail(to_status(code), "%s", pipeline->denoise->message());
}

mmedge_status step_denoise(mmedge_pipeline* pipeline, mmedge_loop_step_info* step) noexcept {
  bool taken = false;
  const rt::Code code = pipeline->denoise->step(&taken);
  step->taken = taken;
  if (code != rt::Code::kOk) {
    return mmedge::fail(to_status(code), "%s", pipeline->denoise->message());
  }
  const rt::DenoiseStep& progress = pipeline->denoise->progress();
  step->done = progress.finish() != rt::LoopFinish::kNone;
  if (!taken) return MMEDGE_OK;
  step->index = static_cast<int64_t>(progress.index()) - 1;
  step->latent = progress.latent();
  step->latent_elements = static_cast<int64_t>(progress.elements());
  const rt::TensorView latent = pipeline->denoise->latent();
  step->latent_rank = static_cast<int32_t>(latent.rank);
  for (size_t axis = 0; axis < latent.rank; ++axis) step->latent_shape[axis] = latent.shape[axis];
  return MMEDGE_OK;
}

}  // namespace

extern "C" {

mmedge_status mmedge_pipeline_load(mmedge_bundle* bundle, const mmedge_load_options* options,
                                   mmedge_pipeline** pipeline) {
  if (pipeline == nullptr) return missing("pipeline");
  *pipeline = nullptr;
  if (bundle == nullptr) return missing("bundle");
  const mmedge_load_options defaults = MMEDGE_LOAD_OPTIONS;
  const mmedge_load_options& from = options != nullptr ? *options : defaults;
  if (!has_size(&from)) return wrong_size("options", &from);
  return guard([&] {
    rt::LoadOptions to;
    to.wish = {text_or_empty(from.variant), text_or_empty(from.backend),
               text_or_empty(from.precision)};
    to.device = text_or_empty(from.device);
    to.plan = text_or_empty(from.plan);
    if (from.threads != 0) to.session.threads = from.threads;
    if (from.kernels >= 0) to.session.kernels = from.kernels != 0;
    if (from.spin >= 0) to.session.spin = from.spin != 0;
    to.cache = from.cache != 0;
    to.allow_unverified = from.allow_unverified != 0;
    to.allow_non_finite = from.allow_non_finite != 0;
    rt::Backends backends;
    rt::onnxruntime::Kernels kernels;
    kernels.register_operators = RegisterCustomOps;
    kernels.isa = mmedge_cpu_isa;
    kernels.calls = mmedge_segattn_cpu_calls;
    kernels.path = "libmmedge";
    backends.add(rt::onnxruntime::make_backend(text_or_empty(from.onnxruntime), kernels));
    backends.add(rt::openvino::make_backend(text_or_empty(from.openvino)));
    for (int32_t i = 0; i < from.backend_count; ++i) {
      backends.add(make_own_backend(from.backends != nullptr ? from.backends[i] : nullptr));
    }
    *pipeline = make_handle(rt::Network::load(bundle->bundle, backends, to)).release();
  });
}

mmedge_status mmedge_pipeline_clone(const mmedge_pipeline* pipeline, mmedge_pipeline** clone) {
  if (clone == nullptr) return missing("clone");
  *clone = nullptr;
  if (pipeline == nullptr) return missing("pipeline");
  return guard([&] { *clone = make_handle(pipeline->network).release(); });
}

void mmedge_pipeline_close(mmedge_pipeline* pipeline) { delete pipeline; }

mmedge_status mmedge_pipeline_choice(const mmedge_pipeline* pipeline, mmedge_choice* choice) {
  if (pipeline == nullptr || choice == nullptr) return missing("pipeline or choice");
  if (!has_size(choice)) return wrong_size("choice", choice);
  const rt::Network& network = *pipeline->network;
  choice->variant = pipeline->variant.c_str();
  choice->plan = network.plan().plan.c_str();
  choice->why_plan = network.plan().reason.c_str();
  choice->backend = network.engine().c_str();
  choice->threads = network.threads();
  choice->decisions = static_cast<int32_t>(network.decisions().size());
  return MMEDGE_OK;
}

mmedge_status mmedge_pipeline_decision(const mmedge_pipeline* pipeline, int32_t index,
                                       const char** variant, int32_t* accepted,
                                       const char** reason) {
  if (pipeline == nullptr) return missing("pipeline");
  const auto& decisions = pipeline->network->decisions();
  if (index < 0 || static_cast<size_t>(index) >= decisions.size()) {
    return no_index("decision", index, decisions.size());
  }
  const rt::Decision& decision = decisions[static_cast<size_t>(index)];
  if (variant != nullptr) *variant = decision.variant.c_str();
  if (accepted != nullptr) *accepted = decision.accepted;
  if (reason != nullptr) *reason = decision.reason.c_str();
  return MMEDGE_OK;
}

int32_t mmedge_pipeline_input_count(const mmedge_pipeline* pipeline) {
  if (pipeline == nullptr) return 0;
  return static_cast<int32_t>(pipeline->network->inputs().specs().size());
}

int32_t mmedge_pipeline_output_count(const mmedge_pipeline* pipeline) {
  return pipeline == nullptr ? 0 : static_cast<int32_t>(output_count_of(*pipeline->network));
}

mmedge_status mmedge_pipeline_input(const mmedge_pipeline* pipeline, int32_t index,
                                    mmedge_tensor_spec* spec) {
  if (pipeline == nullptr || spec == nullptr) return missing("pipeline or spec");
  if (!has_size(spec)) return wrong_size("spec", spec);
  const rt::Inputs& inputs = pipeline->network->inputs();
  if (index < 0 || static_cast<size_t>(index) >= inputs.specs().size()) {
    return no_index("input", index, inputs.specs().size());
  }
  const auto place = static_cast<size_t>(index);
  describe(inputs.specs()[place], spec);
  spec->modality = inputs.modality(place).name.c_str();
  spec->required = inputs.modality(place).required;
  return MMEDGE_OK;
}

mmedge_status mmedge_pipeline_output(const mmedge_pipeline* pipeline, int32_t index,
                                     mmedge_tensor_spec* spec) {
  if (pipeline == nullptr || spec == nullptr) return missing("pipeline or spec");
  if (!has_size(spec)) return wrong_size("spec", spec);
  const size_t count = output_count_of(*pipeline->network);
  if (index < 0 || static_cast<size_t>(index) >= count) return no_index("output", index, count);
  describe(output_spec(*pipeline->network, static_cast<size_t>(index)), spec);
  spec->modality = nullptr;
  spec->required = 0;
  return MMEDGE_OK;
}

mmedge_status mmedge_pipeline_warm_up(mmedge_pipeline* pipeline, const mmedge_tensor* inputs,
                                      int32_t count) {
  if (pipeline == nullptr) return missing("pipeline");
  mmedge_status status = MMEDGE_OK;
  if (!take_arguments(pipeline, inputs, count, &status)) return status;
  return guard([&] {
    rt::Pipeline::WarmUp loop;
    if (pipeline->generate) {
      loop = [&](const rt::NamedTensor* given, size_t number) {
        pipeline->generate->warm_up(given, number);
      };
    } else if (pipeline->denoise) {
      loop = [&](const rt::NamedTensor* given, size_t number) {
        pipeline->denoise->warm_up(given, number);
      };
    }
    pipeline->pipeline->warm_up(pipeline->arguments.data(), static_cast<size_t>(count), loop);
    if (pipeline->generate) pipeline->active.resize(pipeline->generate->pending_room());
  });
}

mmedge_status mmedge_pipeline_run(mmedge_pipeline* pipeline, const mmedge_tensor* inputs,
                                  int32_t input_count, mmedge_tensor* outputs,
                                  int32_t output_count) {
  return mmedge_pipeline_run_state(pipeline, inputs, input_count, outputs, output_count, nullptr);
}

void mmedge_pipeline_forget(mmedge_pipeline* pipeline) {
  if (pipeline == nullptr) return;
  pipeline->pipeline->forget();
  if (pipeline->generate) pipeline->generate->forget();
}

mmedge_status mmedge_state_create(const mmedge_pipeline* pipeline, mmedge_state** state) {
  if (state == nullptr) return missing("state");
  *state = nullptr;
  if (pipeline == nullptr) return missing("pipeline");
  return guard([&] {
    auto made = std::make_unique<rt::State>(pipeline->network);
    if (pipeline->generate) made->pending.resize(pipeline->generate->pending_room());
    *state = new mmedge_state{std::move(made)};
  });
}

mmedge_status mmedge_state_copy(const mmedge_state* state, mmedge_state** copy) {
  if (copy == nullptr) return missing("copy");
  *copy = nullptr;
  if (state == nullptr) return missing("state");
  return guard([&] {
    auto made = state->state->copy();
    *copy = new mmedge_state{std::move(made)};
  });
}

mmedge_status mmedge_state_reserve(mmedge_state* state, const mmedge_pipeline* pipeline) {
  if (state == nullptr || pipeline == nullptr) return missing("state or pipeline");
  if (!pipeline->generate) return MMEDGE_OK;
  return guard([&] {
    std::vector<int64_t>& pending = state->state->pending;
    pending.resize(std::max(pending.size(), pipeline->generate->pending_room()));
  });
}

void mmedge_state_reset(mmedge_state* state) {
  if (state != nullptr) state->state->reset();
}

int64_t mmedge_state_position(const mmedge_state* state) {
  return state == nullptr ? 0 : state->state->position;
}

void mmedge_state_close(mmedge_state* state) { delete state; }

mmedge_status mmedge_pipeline_run_state(mmedge_pipeline* pipeline, const mmedge_tensor* inputs,
                                        int32_t input_count, mmedge_tensor* outputs,
                                        int32_t output_count, mmedge_state* state) {
  if (pipeline == nullptr) return missing("pipeline");
  if (output_count < 0 || (outputs == nullptr && output_count > 0)) return missing("outputs");
  mmedge_status status = MMEDGE_OK;
  if (pipeline->generate || pipeline->denoise) {
    status = mmedge_loop_begin(pipeline, inputs, input_count, nullptr, state);
    mmedge_loop_step_info step = MMEDGE_LOOP_STEP_INFO;
    step.taken = 1;
    while (status == MMEDGE_OK && step.taken) status = mmedge_loop_step(pipeline, &step);
    if (status != MMEDGE_OK) return status;
    return mmedge_loop_result(pipeline, nullptr, 0, outputs, output_count);
  }
  if (!take_arguments(pipeline, inputs, input_count, &status)) return status;
  const rt::Code code =
      pipeline->pipeline->run(pipeline->arguments.data(), static_cast<size_t>(input_count), true,
                              state != nullptr ? state->state.get() : nullptr);
  if (code != rt::Code::kOk) {
    return mmedge::fail(to_status(code), "%s", pipeline->pipeline->message());
  }
  return give_outputs(pipeline, outputs, output_count);
}

mmedge_status mmedge_loop_reserve(mmedge_pipeline* pipeline, int64_t rows, int64_t tokens) {
  if (pipeline == nullptr) return missing("pipeline");
  if (!pipeline->generate && !pipeline->denoise) return no_loop();
  return guard([&] {
    if (pipeline->denoise) {
      int64_t elements = 0;
      if (__builtin_mul_overflow(rows, tokens, &elements)) elements = -1;
      return pipeline->denoise->reserve(elements);
    }
    pipeline->generate->reserve(rows, tokens);
    pipeline->active.resize(pipeline->generate->pending_room());
  });
}

mmedge_status mmedge_loop_begin(mmedge_pipeline* pipeline, const mmedge_tensor* inputs,
                                int32_t input_count, const mmedge_loop_options* options,
                                mmedge_state* state) {
  if (pipeline == nullptr) return missing("pipeline");
  if (!pipeline->generate && !pipeline->denoise) return no_loop();
  const mmedge_loop_options defaults = MMEDGE_LOOP_OPTIONS;
  const mmedge_loop_options& from = options != nullptr ? *options : defaults;
  if (!has_size(&from)) return wrong_size("options", &from);
  mmedge_status status = MMEDGE_OK;
  rt::GenerateOptions to;
  if (!to_options(from, &to, &status)) return status;
  if (!take_arguments(pipeline, inputs, input_count, &status)) return status;
  if (pipeline->denoise) return begin_denoise(pipeline, input_count, from, to, state);
  if (from.noise != nullptr) {
    return mmedge::fail(MMEDGE_INPUT_ERROR,
                        "option noise: a bundle with a loop 'generate' does not take it; leave it out");
  }
  const rt::Code code = pipeline->generate->begin(
      pipeline->arguments.data(), static_cast<size_t>(input_count), to, from.cached != 0,
      state != nullptr ? state->state.get() : nullptr);
  if (code == rt::Code::kOk) return MMEDGE_OK;
  return mmedge::fail(to_status(code), "%s", pipeline->generate->message());
}

mmedge_status mmedge_loop_step(mmedge_pipeline* pipeline, mmedge_loop_step_info* step) {
  if (pipeline == nullptr || step == nullptr) return missing("pipeline or step");
  if (!has_size(step)) return wrong_size("step", step);
  if (pipeline->denoise) return step_denoise(pipeline, step);
  if (!pipeline->generate) return no_loop();
  bool taken = false;
  const rt::Code code = pipeline->generate->step(&taken);
  step->taken = taken;
  if (code != rt::Code::kOk) {
    return mmedge::fail(to_status(code), "%s", pipeline->generate->message());
  }
  const rt::GenerateState& progress = pipeline->generate->progress();
  step->done = progress.finish() != rt::LoopFinish::kNone;
  if (!taken) return MMEDGE_OK;
  step->rows = static_cast<int32_t>(progress.batch());
  step->index = progress.index() - 1;
  step->tokens = progress.tokens();
  for (int64_t row = 0; row < progress.batch(); ++row) {
    pipeline->active[static_cast<size_t>(row)] = progress.is_active(row);
  }
  step->active = pipeline->active.data();
  const rt::TensorView scores = pipeline->generate->scores(&step->scores_stride);
  step->scores = scores.data;
  step->scores_dtype = to_dtype(scores.dtype);
  step->vocabulary = scores.shape[1];
  return MMEDGE_OK;
}

void mmedge_loop_cancel(mmedge_pipeline* pipeline) {
  if (pipeline == nullptr) return;
  if (pipeline->generate) pipeline->generate->cancel();
  if (pipeline->denoise) pipeline->denoise->cancel();
}

mmedge_status mmedge_loop_result(mmedge_pipeline* pipeline, int32_t* finish, int32_t finish_count,
                                 mmedge_tensor* outputs, int32_t output_count) {
  if (pipeline == nullptr) return missing("pipeline");
  if (output_count < 0 || (outputs == nullptr && output_count > 0)) return missing("outputs");
  if (!pipeline->generate && !pipeline->denoise) return no_loop();
  if (pipeline->generate ? !pipeline->generate->has_begun() : !pipeline->denoise->has_begun()) {
    return mmedge::fail(MMEDGE_INPUT_ERROR, "no loop was begun; call mmedge_loop_begin()");
  }
  if (pipeline->denoise) {
    const rt::Code code = pipeline->denoise->make_result();
    if (code != rt::Code::kOk) {
      return mmedge::fail(pipeline->denoise->is_late() ? MMEDGE_TIMEOUT : to_status(code), "%s",
                          pipeline->denoise->message());
    }
    if (finish != nullptr && finish_count > 0) {
      finish[0] = static_cast<int32_t>(pipeline->denoise->progress().finish());
    }
    return give_outputs(pipeline, outputs, output_count);
  }
  pipeline->generate->cancel();
  const rt::GenerateState& progress = pipeline->generate->progress();
  for (int32_t row = 0; row < finish_count && row < progress.batch() && finish != nullptr; ++row) {
    finish[row] = static_cast<int32_t>(progress.row_finish(row));
  }
  return give_outputs(pipeline, outputs, output_count);
}

mmedge_status mmedge_pipeline_verify(mmedge_pipeline* pipeline, int32_t* samples,
                                     int32_t* outputs) {
  if (pipeline == nullptr) return missing("pipeline");
  return guard([&] {
    if (pipeline->generate) pipeline->generate->give_up();
    if (pipeline->denoise) pipeline->denoise->give_up();
    pipeline->verification = rt::verify(*pipeline->pipeline);
    const rt::Verification& verification = pipeline->verification;
    if (samples != nullptr) *samples = static_cast<int32_t>(verification.samples);
    if (outputs != nullptr) *outputs = static_cast<int32_t>(verification.outputs.size());
    verification.check();
  });
}

mmedge_status mmedge_pipeline_verified_output(const mmedge_pipeline* pipeline, int32_t index,
                                              mmedge_verified_output* output) {
  if (pipeline == nullptr || output == nullptr) return missing("pipeline or output");
  if (!has_size(output)) return wrong_size("output", output);
  const auto& outputs = pipeline->verification.outputs;
  if (index < 0 || static_cast<size_t>(index) >= outputs.size()) {
    return no_index("verified output", index, outputs.size());
  }
  const rt::VerifiedOutput& from = outputs[static_cast<size_t>(index)];
  output->stage = from.stage.c_str();
  output->output = from.output.c_str();
  output->max_abs = from.worst.max_abs;
  output->limit_used = from.worst.limit_used;
  output->max_rel = from.worst.max_rel;
  output->scale = from.worst.scale;
  output->where = from.worst.where.c_str();
  return MMEDGE_OK;
}

}  // extern "C"
