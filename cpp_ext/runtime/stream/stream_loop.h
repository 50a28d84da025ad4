// The loop of a bundle in a stream: begun on what other stages made, and what it gives, kept by result.
#ifndef MMEDGE_RUNTIME_STREAM_STREAM_LOOP_H_
#define MMEDGE_RUNTIME_STREAM_STREAM_LOOP_H_

#include <memory>
#include <optional>
#include <vector>

#include "denoise_run.h"
#include "generate_run.h"
#include "stream/kept_tensor.h"
#include "stream/largest_sizes.h"
#include "stream/made_call.h"
#include "stream/options.h"

namespace mmedge::runtime::stream {

// What the loop of one result gave.
struct LoopOutputs {
  std::vector<KeptTensor> tensors;  // as Network::loop_outputs() lists them
  std::vector<LoopFinish> finish;   // for each row, of `generate`; one, of `denoise`
  size_t rows = 0;                  // of those
};

// It is begun anew for each result. For one thread.
class StreamLoop {
 public:
  // The network has a loop. Throws Error(kInput): an option that does not fit; kBackend: a session
  // gives no further slot.
  StreamLoop(std::shared_ptr<const Network> network, const LoopOptions& options,
             const LargestSizes& sizes);

  // Takes what the loop begins with.
  MadeCall& call() noexcept { return call_; }
  // Sets aside what the loop needs, where call() holds tensors of the largest sizes. Throws Error.
  void reserve();
  // With the memory that any result needs. Throws Error(kInput): a dimension without largest size.
  LoopOutputs make_outputs() const;

  Code begin() noexcept;
  Code step(bool* more) noexcept;
  // Takes no more steps. What ended before its time did so for `why`. `*has_outputs` is false where
  // there is no estimate yet.
  Code end(LoopFinish why, LoopOutputs* outputs, bool* has_outputs) noexcept;

  const char* message() const noexcept { return error_.text; }

 private:
  Code end_generate(LoopFinish why, LoopOutputs* outputs) noexcept;
  Code end_denoise(LoopFinish why, LoopOutputs* outputs, bool* has_outputs) noexcept;
  Code keep(const TensorView& view, KeptTensor* to) noexcept;

  const Network& network_;
  const LoopOptions options_;
  LargestSizes sizes_;
  MadeCall call_;
  std::optional<GenerateRun> generate_;
  std::optional<DenoiseRun> denoise_;
  GenerateOptions generate_options_;
  DenoiseOptions denoise_options_;
  Tensor noise_;
  CallError error_;
};

}  // namespace mmedge::runtime::stream

#endif  // MMEDGE_RUNTIME_STREAM_STREAM_LOOP_H_
