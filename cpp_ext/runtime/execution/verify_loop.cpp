// A loop is compared twice: its scores on golden tokens, and the tokens that it chooses by itself.
#include "execution/verify_loop.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <set>

#include "denoise_run.h"
#include "error.h"
#include "execution/convert.h"
#include "generate_run.h"

namespace mmedge::runtime {
namespace {

using Row = std::vector<int64_t>;

void check(Code code, const char* message) {
  if (code != Code::kOk) throw Error(code, message);
}

std::vector<NamedTensor> named(const TensorMap& tensors) {
  std::vector<NamedTensor> list;
  for (const auto& [name, view] : tensors) list.push_back({name.c_str(), view, 0});
  return list;
}

// Rows of a [batch, ...] tensor, `stride` elements apart, one after another.
Tensor gather(const TensorView& from, int64_t stride, int64_t offset, int64_t words,
              const std::vector<uint8_t>& running) {
  Tensor rows;
  rows.dtype = from.dtype;
  const size_t item = item_size(from.dtype);
  int64_t count = 0;
  for (size_t row = 0; row < running.size(); ++row) {
    if (!running[row]) continue;
    const auto* begin = static_cast<const uint8_t*>(from.data) +
                        static_cast<size_t>(static_cast<int64_t>(row) * stride + offset) * item;
    rows.data.insert(rows.data.end(), begin, begin + static_cast<size_t>(words) * item);
    ++count;
  }
  rows.shape = {count, words};
  return rows;
}

double largest(const double* values, size_t count) {
  double most = -std::numeric_limits<double>::infinity();
  for (size_t i = 0; i < count; ++i) {
    if (std::isnan(values[i])) return values[i];
    most = std::max(most, values[i]);
  }
  return most;
}

// The first choice in which two runs differ; none where they are the same.
std::optional<TokenChoice> first_other(const Row& got, const Row& golden, size_t row,
                                       const std::vector<int64_t>& stop,
                                       const std::vector<std::vector<double>>& scores,
                                       size_t words) {
  const size_t least = std::min(got.size(), golden.size());
  const auto at = std::mismatch(got.begin(), got.begin() + static_cast<std::ptrdiff_t>(least),
                                golden.begin());
  const auto index = static_cast<size_t>(at.first - got.begin());
  if ((index == got.size() && index == golden.size()) || index >= scores.size()) {
    return std::nullopt;
  }
  const double* here = scores[index].data() + row * words;
  TokenChoice choice;
  choice.step = index;
  choice.row = row;
  if (index < got.size()) choice.got = got[index];
  double best = 0;
  if (index < golden.size()) {
    choice.golden = golden[index];
    best = here[golden[index]];
  } else {  // of a row that should have ended, any stop token is right
    std::vector<double> of_stops;
    for (const int64_t token : stop) of_stops.push_back(here[token]);
    best = largest(of_stops.data(), of_stops.size());
  }
  choice.gap = largest(here, words) - best;
  for (size_t i = 0; i < words; ++i) {
    if (std::isfinite(here[i])) choice.scale = std::max(choice.scale, std::fabs(here[i]));
  }
  return choice;
}

}  // namespace

double TokenChoice::limit_used(const Tolerance& tolerance) const {
  const double allowed = 2.0 * (tolerance.atol + tolerance.rtol * scale);
  if (allowed != 0) return gap / allowed;
  return gap != 0 ? std::numeric_limits<double>::infinity() : 0.0;
}

std::string TokenChoice::text() const {
  const auto word = [](const std::optional<int64_t>& token) {
    return token ? std::to_string(*token) : std::string("the end");
  };
  return "choice " + std::to_string(step) + " of row " + std::to_string(row) + ": " + word(got) +
         " for " + word(golden);
}

Difference worst_choice(const std::vector<TokenChoice>& choices, const Tolerance& tolerance) {
  Difference worst;
  const TokenChoice* most = nullptr;
  for (const TokenChoice& choice : choices) {
    if (most == nullptr || choice.limit_used(tolerance) > most->limit_used(tolerance)) {
      most = &choice;
    }
  }
  if (most == nullptr) return worst;
  worst.max_abs = most->gap;
  worst.max_rel =
      most->scale != 0 ? most->gap / most->scale : std::numeric_limits<double>::infinity();
  worst.limit_used = most->limit_used(tolerance);
  worst.scale = most->scale;
  worst.where = most->text();
  return worst;
}

void replay_generate(Pipeline* pipeline, const Sample& sample, const CompareTensors& compare,
                     std::vector<TokenChoice>* choices) {
  const GenerateLoop& loop = pipeline->network()->token_loop()->loop;
  const TensorView& tokens = sample.loop.at("tokens");
  const TensorView& golden = sample.loop.at("logits");
  const int64_t batch = tokens.shape[0], count = tokens.shape[1];
  const auto* golden_tokens = static_cast<const int64_t*>(tokens.data);
  const std::vector<NamedTensor> inputs = named(sample.inputs);
  pipeline->reserve(inputs.data(), inputs.size());
  check(pipeline->compute(inputs.data(), inputs.size(), false, nullptr), pipeline->message());
  GenerateRun run(pipeline);
  run.reserve_for_call();

  GenerateOptions options;
  options.limit = std::min(count + 1, loop.limit);
  options.temperature = 0.0;
  GenerateOptions forced = options;
  forced.forced = golden_tokens;
  forced.forced_rows = batch;
  forced.forced_count = count;
  check(run.begin(inputs.data(), inputs.size(), forced, false, nullptr), run.message());
  std::vector<uint8_t> running(static_cast<size_t>(batch), 1);
  std::vector<std::vector<double>> all;
  size_t words = 0;
  for (bool taken = true;;) {
    check(run.step(&taken), run.message());
    if (!taken) break;
    int64_t stride = 0;
    const TensorView scores = run.scores(&stride);
    const int64_t index = run.progress().index() - 1, width = scores.shape[1];
    words = static_cast<size_t>(width);
    const bool any = std::any_of(running.begin(), running.end(), [](uint8_t row) { return row; });
    if (index < golden.shape[1] && any) {
      Tensor got = gather(scores, stride, 0, width, running);
      const int64_t own = golden.shape[2];
      Tensor expected = gather(golden, golden.shape[1] * own, index * own, own, running);
      compare(loop.logits, got.view(), expected.view());
    }
    Tensor each = gather(scores, stride, 0, width, std::vector<uint8_t>(running.size(), 1));
    all.emplace_back(running.size() * words);
    to_float64(scores.dtype, each.data.data(), all.back().size(), all.back().data());
    for (int64_t row = 0; row < batch; ++row) {
      running[static_cast<size_t>(row)] &= run.progress().is_active(row);
    }
  }

  check(run.begin(inputs.data(), inputs.size(), options, false, nullptr), run.message());
  for (bool taken = true; taken;) check(run.step(&taken), run.message());
  const TensorView chosen = run.tokens();
  const std::set<int64_t> stops(loop.stop.begin(), loop.stop.end());
  for (int64_t row = 0; row < batch; ++row) {
    const int64_t* begin = golden_tokens + row * count;
    const int64_t* end = std::find_if(begin, begin + count,
                                      [&](int64_t token) { return stops.count(token) > 0; });
    const auto* first = static_cast<const int64_t*>(chosen.data) + row * chosen.shape[1];
    const std::optional<TokenChoice> choice =
        first_other(Row(first, first + run.progress().length(row)), Row(begin, end),
                    static_cast<size_t>(row), loop.stop, all, words);
    if (choice) choices->push_back(*choice);
  }
}

void replay_denoise(Pipeline* pipeline, const Sample& sample, const CompareTensors& compare) {
  const auto& loop = std::get<DenoiseLoop>(pipeline->network()->manifest().loop);
  const TensorView& latents = sample.loop.at("latents");
  const size_t last = loop.schedule.size() - 1;
  const std::vector<NamedTensor> inputs = named(sample.inputs);
  pipeline->reserve(inputs.data(), inputs.size());
  check(pipeline->compute(inputs.data(), inputs.size(), false, nullptr), pipeline->message());
  DenoiseRun run(pipeline);
  DenoiseOptions options;
  options.noise = sample.loop.at("noise");
  run.reserve(options.noise->elements());
  run.reserve_for_call();
  check(run.begin(inputs.data(), inputs.size(), options, false, nullptr), run.message());
  for (bool taken = true;;) {
    check(run.step(&taken), run.message());
    if (!taken) break;
    const size_t index = run.progress().index() - 1;
    // Of a short schedule some of the three are the same step, and the last says what it was.
    size_t place = 0;
    if (index == last) {
      place = 2;
    } else if (index == last / 2) {
      place = 1;
    } else if (index != 0) {
      continue;
    }
    TensorView golden = latents;
    golden.rank = latents.rank - 1;
    std::copy(latents.shape + 1, latents.shape + latents.rank, golden.shape);
    golden.data = static_cast<uint8_t*>(latents.data) + place * golden.bytes();
    compare(loop.latent, run.latent(), golden);
  }
}

}  // namespace mmedge::runtime
