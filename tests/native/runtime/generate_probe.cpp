// Runs of the loop `generate` on scores that are there already; prints what each run takes, chooses
// and leaves. The time is the number of runs of the stage so far.
#include <cmath>
#include <deque>
#include <optional>
#include <utility>

#include "allocation_guard.h"
#include "case_reader.h"
#include "error.h"
#include "execution/generate_state.h"

using namespace mmedge::runtime;

namespace {

std::vector<TensorSpec> read_specs(CaseReader* cases) {
  std::vector<TensorSpec> specs(static_cast<size_t>(cases->whole()));
  for (TensorSpec& spec : specs) {
    spec.name = cases->word();
    parse_dtype(cases->word(), &spec.dtype);
    spec.shape.resize(static_cast<size_t>(cases->whole()));
    for (Axis& axis : spec.shape) {
      const std::string word = cases->word();
      if (word[0] >= '0' && word[0] <= '9') {
        axis.size = std::strtoll(word.c_str(), nullptr, 10);
      } else {
        axis.dimension = word;
      }
    }
  }
  return specs;
}

Manifest read_manifest(CaseReader* cases) {
  Manifest manifest;
  for (int64_t count = cases->whole(); count > 0; --count) {
    const std::string name = cases->word();
    Dimension& limits = manifest.dimensions[name];
    limits.min = cases->whole(), limits.opt = cases->whole();
    if (const int64_t max = cases->whole(); max >= 0) limits.max = max;
    limits.multiple = cases->whole();
  }
  Stage stage;
  stage.name = "step";
  stage.inputs = read_specs(cases);
  stage.outputs = read_specs(cases);
  manifest.stages = {stage};
  for (int64_t count = cases->whole(); count > 0; --count) {
    StateSpec state;
    state.stage = "step";
    state.input = cases->word(), state.output = cases->word();
    if (const int64_t axis = cases->whole(); axis >= 0) state.axis = axis;
    manifest.states.push_back(state);
  }
  for (int64_t count = cases->whole(); count > 0; --count) {
    manifest.outputs.push_back(cases->word());
  }
  GenerateLoop loop;
  loop.stage = "step", loop.token = "tokens", loop.logits = "logits";
  loop.limit = cases->whole();
  if (cases->whole()) loop.position = "position";
  loop.start = cases->wholes(), loop.stop = cases->wholes();
  loop.suppress = cases->wholes(), loop.suppress_first = cases->wholes();
  loop.temperature = cases->number();
  loop.top_k = cases->whole();
  loop.top_p = cases->number();
  loop.whole_prompt = cases->whole() != 0;
  manifest.loop = loop;
  return manifest;
}

void print(const char* name, const TensorView& tensor) {
  if (tensor.data == nullptr) return;
  std::printf(" %s %s", name, dtype_name(tensor.dtype));
  for (size_t axis = 0; axis < tensor.rank; ++axis) {
    std::printf(" %lld", static_cast<long long>(tensor.shape[axis]));
  }
  std::printf(" :");
  for (int64_t i = 0; i < tensor.elements(); ++i) {
    std::printf(" %lld", tensor.dtype == DType::kInt32
                             ? static_cast<long long>(static_cast<int32_t*>(tensor.data)[i])
                             : static_cast<long long>(static_cast<int64_t*>(tensor.data)[i]));
  }
}

void print(const std::vector<int64_t>& numbers) {
  for (const int64_t number : numbers) std::printf(" %lld", static_cast<long long>(number));
}

// Tokens of several rows, or "-".
struct Rows {
  std::optional<std::vector<int64_t>> tokens;
  int64_t rows = 0;
  int64_t count = 0;

  explicit Rows(CaseReader* cases) {
    if (cases->word() == "-") return;
    rows = cases->whole(), count = cases->whole();
    tokens.emplace(static_cast<size_t>(rows * count));
    for (int64_t& token : *tokens) token = cases->whole();
    tokens->reserve(1);  // so that no tokens are not the same as none given
  }
};

template <typename T>
std::optional<T> read_option(CaseReader* cases) {
  const std::string word = cases->word();
  if (word == "-") return std::nullopt;
  return static_cast<T>(std::strtod(word.c_str(), nullptr));
}

struct Run {
  explicit Run(CaseReader* cases) : pending(nothing(cases)), prefix(cases), forced(cases) {}

  // Reads what comes before the first member.
  CaseReader* nothing(CaseReader* cases) {
    batch = read_option<int64_t>(cases);
    if (cases->whole()) prompt = cases->tensor();
    sizes = cases->wholes();
    taken = cases->whole(), choices = cases->whole();
    return cases;
  }

  std::optional<int64_t> batch;
  std::optional<Tensor> prompt;
  std::vector<int64_t> sizes;
  int64_t taken = 0, choices = 0;
  Rows pending, prefix, forced;
};

void print_end(const GenerateState& state) {
  std::printf("end %s", loop_finish_name(state.finish()));
  for (int64_t row = 0; row < state.batch(); ++row) {
    std::printf(" %lld %s", static_cast<long long>(state.length(row)),
                loop_finish_name(state.row_finish(row)));
  }
  std::vector<int64_t> tokens(static_cast<size_t>(state.batch() * state.longest()));
  state.write_tokens(tokens.data());
  std::printf(" :");
  print(tokens);
  tokens.resize(static_cast<size_t>(state.batch() * state.pending_count()));
  state.write_pending(tokens.data());
  std::printf(" : %lld %lld %lld :", static_cast<long long>(state.taken()),
              static_cast<long long>(state.choices()),
              static_cast<long long>(state.pending_count()));
  print(tokens);
  std::printf("\n");
}

void run(CaseReader* cases, GenerateState* state) {
  Run given(cases);
  GenerateCall call;
  call.batch = given.batch;
  if (given.prompt) call.prompt = given.prompt->view();
  call.state_sizes = given.sizes.data();
  call.taken = given.taken, call.choices = given.choices;
  if (given.pending.tokens) {
    call.pending = given.pending.tokens->data();
    call.pending_rows = given.pending.rows, call.pending_count = given.pending.count;
  }
  GenerateOptions options;
  options.limit = read_option<int64_t>(cases);
  std::vector<int64_t> stop;
  if (cases->word() != "-") {
    stop = cases->wholes();
    options.stop = TokenList{stop.data(), stop.size()};
  }
  options.temperature = read_option<double>(cases);
  options.top_k = read_option<int64_t>(cases);
  options.top_p = read_option<double>(cases);
  options.seed = cases->natural();
  options.deadline = cases->number();
  if (given.forced.tokens) {
    options.forced = given.forced.tokens->data();
    options.forced_rows = given.forced.rows, options.forced_count = given.forced.count;
  }
  const int64_t cancel = cases->whole();
  std::deque<Tensor> logits;
  for (int64_t count = cases->whole(); count > 0; --count) logits.push_back(cases->tensor());
  CallError error;
  std::optional<AllocationGuard> guard(std::in_place);
  if (state->begin(call, options, &error) != Code::kOk) {
    std::printf("error %d %s\n", static_cast<int>(error.code), error.text);
    return;
  }
  int64_t runs = 0;
  const auto accept = [&]() {
    if (logits.empty()) return std::printf("more runs than scores\n"), false;
    const int64_t before = state->index();
    const auto now = static_cast<double>(runs);
    if (state->accept(logits.front().view(), now, &error) != Code::kOk) {
      std::printf("error %d %s\n", static_cast<int>(error.code), error.text);
      return false;
    }
    logits.pop_front();  // frees memory, and takes none
    if (state->index() == before) return true;
    std::printf("step");
    for (int64_t row = 0; row < state->batch(); ++row) {
      std::printf(" %lld%s%s", static_cast<long long>(state->tokens()[row]),
                  state->is_active(row) ? "+" : "", state->has_just_ended(row) ? "!" : "");
    }
    std::printf(" %s\n", loop_finish_name(state->finish()));
    return true;
  };
  if (given.prefix.tokens) {
    const Rows& prefix = given.prefix;
    const int64_t common =
        state->count_common(prefix.tokens->data(), prefix.rows, prefix.count);
    std::printf("common %lld\n", static_cast<long long>(common));
    if (common && cancel != 0) {
      state->skip(common);
      if (common == state->first_count() && !accept()) return;
    }
  }
  TokenRun run;
  while (state->index() != cancel && state->next_run(static_cast<double>(runs), &run)) {
    ++runs;
    std::printf("run %d", run.are_scores_used);
    print("tokens", run.token);
    print("position", run.position);
    std::printf("\n");
    if (!accept()) return;
  }
  state->cancel();
  guard.reset();
  print_end(*state);
}

}  // namespace

int main() {
  CaseReader cases;
  while (!cases.is_done()) {
    const Manifest manifest = read_manifest(&cases);
    GenerateCapacity capacity;
    capacity.batch = cases.whole(), capacity.first_tokens = cases.whole();
    capacity.vocabulary = cases.whole();
    const int64_t runs = cases.whole();
    try {
      const TokenLoop loop(manifest, "b.mmedge");
      GenerateState state(loop, capacity);
      for (int64_t i = 0; i < runs; ++i) run(&cases, &state);
    } catch (const Error& error) {
      std::printf("refused %d %s\n", static_cast<int>(error.code()), error.what());
    }
  }
}
