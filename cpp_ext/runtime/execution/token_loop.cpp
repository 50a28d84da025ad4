// The loop `generate` of a bundle: what does not change from call to call.
#include "execution/token_loop.h"

#include <algorithm>
#include <utility>

#include "error.h"
#include "execution/sampling.h"

namespace mmedge::runtime {
namespace {

// Most scores that a run gives for first tokens: 64 MiB in float32. More are taken in several runs.
constexpr int64_t kMaxScores = int64_t{1} << 24;

const TensorSpec* find(const std::vector<TensorSpec>& specs, const std::string& name) {
  const auto spec = std::find_if(specs.begin(), specs.end(),
                                 [&](const TensorSpec& other) { return other.name == name; });
  return spec == specs.end() ? nullptr : &*spec;
}

const TensorSpec& get(const std::vector<TensorSpec>& specs, const std::string& name) {
  const TensorSpec* spec = find(specs, name);
  if (spec == nullptr) throw Error(Code::kBundle, "the loop's stage has no tensor '" + name + "'");
  return *spec;
}

std::optional<int64_t> most_of(const Manifest& manifest, const Axis& axis) {
  if (!axis.is_dynamic()) return axis.size;
  return manifest.dimensions.at(axis.dimension).max;
}

}  // namespace

TokenLoop::TokenLoop(const Manifest& manifest, const std::string& source) {
  const auto* generate = std::get_if<GenerateLoop>(&manifest.loop);
  const Stage* stage = generate == nullptr ? nullptr : manifest.stage(generate->stage);
  if (stage == nullptr) throw Error(Code::kInput, "this bundle has no loop 'generate'");
  loop = *generate;
  token = get(stage->inputs, loop.token);
  if (loop.position) position = get(stage->inputs, *loop.position);
  suppress = make_suppress_list(loop.suppress);
  std::vector<int64_t> all = loop.suppress;
  all.insert(all.end(), loop.suppress_first.begin(), loop.suppress_first.end());
  suppress_first = make_suppress_list(std::move(all));
  size_t states = 0;
  for (const StateSpec& state : manifest.states) {
    if (state.stage != stage->name) continue;
    ++states;
    if (!state.axis) continue;
    const auto axis = static_cast<size_t>(*state.axis);
    growing.push_back({state.input, axis,
                       most_of(manifest, get(stage->inputs, state.input).shape.at(axis)),
                       most_of(manifest, get(stage->outputs, state.output).shape.at(axis))});
  }
  can_cut = growing.size() == states;
  const Axis& rows = token.shape.at(0);
  default_batch = rows.is_dynamic() ? manifest.dimensions.at(rows.dimension).opt : rows.size;
  const std::vector<Axis>& logits = get(stage->outputs, loop.logits).shape;
  words = logits.back().size;
  most_token = words ? words - 1 : int64_t{1} << 31;
  if (logits.size() == 3) scores_each_ = words;
  if (token.shape.size() == 1) {
    most_new_ = 1;
  } else {
    const Axis& axis = token.shape[1];
    int64_t least = most_new_ = axis.size;
    if (axis.is_dynamic()) {
      const Dimension& limits = manifest.dimensions.at(axis.dimension);
      least = std::max(limits.min, limits.multiple);
      most_new_ = limits.max.value_or(0);
    }
    if (least > 1) {
      throw Error(Code::kBundle, source + ": stage '" + stage->name + "' takes " + token.text() +
                                     ", at least " + std::to_string(least) +
                                     " tokens at a time; expected 1 or more, since a loop has one; "
                                     "export it again");
    }
  }
  for (const std::string& output : manifest.outputs) {
    const bool is_result =
        output == "tokens" || output == "lengths" || output == "finish" || output == "text";
    if (!is_result || find(stage->inputs, output) != nullptr) continue;
    throw Error(Code::kBundle, source + ": output '" + output +
                                   "' has the name of what a loop gives (tokens, lengths, finish, "
                                   "text); export the bundle again with another name");
  }
}

int64_t TokenLoop::most_new(int64_t batch) const noexcept {
  if (!scores_each_ || !batch) return most_new_;
  const int64_t bound = std::max<int64_t>(1, kMaxScores / (batch * scores_each_));
  return most_new_ ? std::min(most_new_, bound) : bound;
}

}  // namespace mmedge::runtime
