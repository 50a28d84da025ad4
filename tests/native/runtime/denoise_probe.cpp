// Runs of the loop `denoise` on predictions that are there already; writes latents and estimates.
#include "execution/denoise_step.h"

#include "allocation_guard.h"
#include "case_reader.h"

using namespace mmedge::runtime;

namespace {

DenoiseLoop read_loop(CaseReader* cases) {
  DenoiseLoop loop;
  loop.initial_scale = cases->number();
  if (const double clip = cases->number(); clip > 0.0) loop.clip = clip;
  if (cases->whole()) loop.guidance = cases->number();
  loop.schedule.resize(static_cast<size_t>(cases->whole()));
  for (auto& row : loop.schedule) {
    for (double& number : row) number = cases->number();
  }
  return loop;
}

void write(const float* elements, size_t count) {
  std::fwrite(elements, sizeof(float), count, stdout);
}

// LOOP RUNS, and for each: SEED DEADLINE CANCEL HAS_NOISE [NOISE] PREDICTIONS, [steps, runs, n]. The
// time is the number of steps taken so far; the run is canceled after so many. Writes what the stage
// takes in each step and its time as float32, int32 and int64, then a line and the result.
void run(CaseReader* cases) {
  const DenoiseLoop loop = read_loop(cases);
  const auto most = static_cast<size_t>(cases->whole());
  DenoiseStep step(loop, most);
  for (int64_t runs = cases->whole(); runs > 0; --runs) {
    const uint64_t seed = cases->natural();
    const double deadline = cases->number();
    const auto cancel = static_cast<size_t>(cases->whole());
    Tensor noise;
    const bool has_noise = cases->whole() != 0;
    if (has_noise) noise = cases->tensor();
    Tensor predictions = cases->tensor();
    const auto* prediction = reinterpret_cast<const float*>(predictions.data.data());
    const auto count = static_cast<size_t>(predictions.shape.at(2));
    const AllocationGuard guard;
    step.begin(count, seed, has_noise ? reinterpret_cast<const float*>(noise.data.data()) : nullptr,
               deadline);
    while (step.index() != cancel && step.prepare(static_cast<double>(step.index()))) {
      write(step.scaled(), count);
      for (const DType dtype : {DType::kFloat32, DType::kInt32, DType::kInt64}) {
        alignas(8) uint8_t bytes[16];
        TensorView time;
        time.dtype = dtype;
        time.rank = 1, time.shape[0] = 2, time.data = bytes;
        step.fill_time(time);
        std::fwrite(bytes, 1, time.bytes(), stdout);
      }
      if (step.has_guidance()) {
        step.keep_conditional(prediction);
        prediction += count;
      }
      step.finish_step(prediction);
      prediction += count;
    }
    step.cancel();
    const float* latent = nullptr;
    CallError error;
    const Code code = step.result(&latent, &error);
    std::printf("%s|%zu|%d|%s\n", loop_finish_name(step.finish()), step.index(), step.is_late(),
                error.text);
    if (code == Code::kOk) write(latent, count);
  }
}

}  // namespace

int main() {
  CaseReader cases;
  while (!cases.is_done()) run(&cases);
}
