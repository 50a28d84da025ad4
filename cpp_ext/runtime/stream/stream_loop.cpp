// The loop of a bundle in a stream.
#include "stream/stream_loop.h"

#include <algorithm>

#include "error.h"

namespace mmedge::runtime::stream {
namespace {

// Whether anything but the loop's last stage says how large a dimension is.
bool is_made(const Network& network, const std::string& dimension) {
  const auto has = [&dimension](const std::vector<TensorSpec>& specs) {
    return std::any_of(specs.begin(), specs.end(), [&](const TensorSpec& spec) {
      return std::any_of(spec.shape.begin(), spec.shape.end(),
                         [&](const Axis& axis) { return axis.dimension == dimension; });
    });
  };
  return has(network.inputs().specs()) ||
         std::any_of(network.stages().begin(), network.stages().end(),
                     [&](const PlanStage& stage) { return has(stage.session->outputs()); });
}

}  // namespace

StreamLoop::StreamLoop(std::shared_ptr<const Network> network, const LoopOptions& options,
                       const LargestSizes& sizes)
    : network_(*network), options_(options), sizes_(sizes), call_(std::move(network)) {
  const Manifest& manifest = network_.manifest();
  if (const TokenLoop* loop = network_.token_loop()) {
    if (options_.noise) {
      throw Error(Code::kInput, "loop_options: noise: a bundle with a loop 'generate' does not take "
                                "it; leave it out");
    }
    generate_options_.limit = options_.limit;
    if (options_.stop) generate_options_.stop = {options_.stop->data(), options_.stop->size()};
    generate_options_.temperature = options_.temperature;
    generate_options_.top_k = options_.top_k;
    generate_options_.top_p = options_.top_p;
    generate_options_.seed = options_.seed;
    if (!options_.forced.empty()) {
      generate_options_.forced = options_.forced.data();
      generate_options_.forced_rows = options_.forced_rows;
      generate_options_.forced_count = options_.forced_count;
    }
    if (check_generate_options(generate_options_, loop->loop, loop->most_token, &error_) !=
        Code::kOk) {
      throw Error(Code::kInput, std::string("loop_options: ") + error_.text);
    }
    generate_.emplace(&call_);
    return;
  }
  if (options_.limit || options_.stop || options_.temperature || options_.top_k ||
      options_.top_p || !options_.forced.empty()) {
    throw Error(Code::kInput, "loop_options: a bundle with a loop 'denoise' takes seed and noise; "
                              "leave the others out");
  }
  const auto& loop = std::get<DenoiseLoop>(manifest.loop);
  denoise_options_.seed = options_.seed;
  if (options_.noise) {
    noise_ = *options_.noise;
    denoise_options_.noise = noise_.view();
  }
  denoise_.emplace(&call_);
  // A dimension of the latent alone has the size of the noise, or the usual one.
  const Session& step = *network_.loop_stages().front().session;
  const TensorSpec& latent = step.inputs()[static_cast<size_t>(step.input_index(loop.latent))];
  for (size_t axis = 0; axis < latent.shape.size(); ++axis) {
    const std::string& dimension = latent.shape[axis].dimension;
    if (dimension.empty() || is_made(network_, dimension)) continue;
    const bool has_noise = options_.noise && noise_.shape.size() == latent.shape.size();
    sizes_.state(dimension, has_noise ? noise_.shape[axis] : manifest.dimensions.at(dimension).opt);
  }
}

void StreamLoop::reserve() {
  if (generate_) {
    generate_->reserve_for_call();
  } else {
    denoise_->reserve_for_call();
  }
}

LoopOutputs StreamLoop::make_outputs() const {
  LoopOutputs outputs;
  outputs.tensors.resize(network_.loop_outputs().size());
  if (denoise_) {
    outputs.finish.resize(1);
    for (size_t i = 0; i < outputs.tensors.size(); ++i) {
      outputs.tensors[i].memory.resize(sizes_.bytes(network_.loop_outputs()[i], "output"));
    }
    return outputs;
  }
  // Of `reserve()`: rows of so many tokens.
  const GenerateRun& run = *generate_;
  outputs.finish.resize(static_cast<size_t>(run.most_rows()));
  const int64_t limit = options_.limit.value_or(network_.token_loop()->loop.limit);
  outputs.tensors[0].memory.resize(outputs.finish.size() * static_cast<size_t>(limit) * 8);
  outputs.tensors[1].memory.resize(outputs.finish.size() * 8);
  return outputs;
}

Code StreamLoop::begin() noexcept {
  if (generate_) {
    const Code code = generate_->begin(nullptr, 0, generate_options_, false, nullptr);
    return code == Code::kOk ? code : error_.set(code, "%s", generate_->message());
  }
  const Code code = denoise_->begin(nullptr, 0, denoise_options_, false, nullptr);
  return code == Code::kOk ? code : error_.set(code, "%s", denoise_->message());
}

Code StreamLoop::step(bool* more) noexcept {
  *more = false;
  bool taken = false;
  if (generate_) {
    const Code code = generate_->step(&taken);
    if (code != Code::kOk) return error_.set(code, "%s", generate_->message());
    *more = generate_->progress().finish() == LoopFinish::kNone;
    return code;
  }
  const Code code = denoise_->step(&taken);
  if (code != Code::kOk) return error_.set(code, "%s", denoise_->message());
  *more = denoise_->progress().finish() == LoopFinish::kNone;
  return code;
}

Code StreamLoop::keep(const TensorView& view, KeptTensor* to) noexcept {
  if (to->copy(view)) return Code::kOk;
  return error_.set(Code::kBackend, "what the loop gives is larger than what was set aside for it");
}

Code StreamLoop::end(LoopFinish why, LoopOutputs* outputs, bool* has_outputs) noexcept {
  *has_outputs = true;
  return generate_ ? end_generate(why, outputs) : end_denoise(why, outputs, has_outputs);
}

Code StreamLoop::end_generate(LoopFinish why, LoopOutputs* outputs) noexcept {
  generate_->cancel();
  const GenerateState& progress = generate_->progress();
  outputs->rows = static_cast<size_t>(progress.batch());
  for (size_t row = 0; row < outputs->rows; ++row) {
    const LoopFinish finish = progress.row_finish(static_cast<int64_t>(row));
    outputs->finish[row] = finish == LoopFinish::kCancel ? why : finish;
  }
  const Code code = keep(generate_->tokens(), &outputs->tensors[0]);
  return code == Code::kOk ? keep(generate_->lengths(), &outputs->tensors[1]) : code;
}

Code StreamLoop::end_denoise(LoopFinish why, LoopOutputs* outputs, bool* has_outputs) noexcept {
  denoise_->cancel();
  const float* latent = nullptr;
  if (denoise_->progress().result(&latent, &error_) != Code::kOk) {
    *has_outputs = false;
    return Code::kOk;
  }
  Code code = denoise_->make_result();
  if (code != Code::kOk) return error_.set(code, "%s", denoise_->message());
  const LoopFinish finish = denoise_->progress().finish();
  outputs->rows = 1;
  outputs->finish[0] = finish == LoopFinish::kCancel ? why : finish;
  for (size_t i = 0; i < outputs->tensors.size() && code == Code::kOk; ++i) {
    code = keep(denoise_->output(i), &outputs->tensors[i]);
  }
  return code;
}

}  // namespace mmedge::runtime::stream
