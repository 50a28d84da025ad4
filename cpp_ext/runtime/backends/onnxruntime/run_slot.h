// Inputs and outputs of one thread's runs in ONNX Runtime.
#ifndef MMEDGE_RUNTIME_BACKENDS_ONNXRUNTIME_RUN_SLOT_H_
#define MMEDGE_RUNTIME_BACKENDS_ONNXRUNTIME_RUN_SLOT_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "../backend.h"
#include "kernels.h"
#include "library.h"
#include "run_limit.h"

namespace mmedge::runtime::onnxruntime {

// ONNX Runtime's number for an element type, and back; false where a manifest has no name for it.
int element_type(DType dtype) noexcept;
bool parse_element_type(int type, DType* out) noexcept;

// What slots need of the session that they belong to.
struct LoadedGraph {
  Library* library = nullptr;
  ort::Session* session = nullptr;
  const std::vector<TensorSpec>* inputs = nullptr;
  const std::vector<TensorSpec>* outputs = nullptr;
  std::vector<const char*> input_names, output_names;
  std::string where;  // stage and variant, for messages
  const Kernels* kernels = nullptr;
  // Nodes that the kernel is said to run; 0 as soon as its own count of calls has shown it.
  mutable std::atomic<int64_t> unproven{0};
  double run_timeout_s = 0;
  RunWatch* watch = nullptr;  // where runs have a limit
};

class OrtRunSlot final : public RunSlot {
 public:
  // Throws Error(kBackend).
  explicit OrtRunSlot(const LoadedGraph& graph);
  ~OrtRunSlot() override;
  OrtRunSlot(const OrtRunSlot&) = delete;
  OrtRunSlot& operator=(const OrtRunSlot&) = delete;

  Code set_input(size_t index, const TensorView& tensor) noexcept override;
  Code set_input(size_t index, const Value& value) noexcept override;
  Code feed_back(size_t output, size_t input) noexcept override;
  Code set_output(size_t index, const TensorView& memory) noexcept override;
  void reset_output(size_t index) noexcept override;
  Code run() noexcept override;
  const TensorView& output(size_t index) const noexcept override;
  Value take_output(size_t index) noexcept override;
  const TensorView& input(size_t index) const noexcept override;
  Value take_input(size_t index) noexcept override;
  Code make_tensor(const TensorView& shape, Value* out) noexcept override;
  Code copy_input(size_t index, Value* out) noexcept override;
  const char* message() const noexcept override { return message_; }

  // What ONNX Runtime made, as a value that is seen as `view`.
  Value own(void* tensor, const TensorView& view) const noexcept;
  Code fail(Code code, const char* format, ...) noexcept __attribute__((format(printf, 3, 4)));

 private:
  // Where a value comes from, which says who frees it and whether it can be handed on.
  enum class Origin { kNone, kCaller, kEngine, kBorrowed };
  struct Place {
    Origin origin = Origin::kNone;
    TensorView view;
  };

  Code fail(ort::Status* status) noexcept;
  bool fits(const TensorSpec& spec, const char* kind, const TensorView& tensor) noexcept;
  Code wrap(const TensorView& tensor, ort::Value** out) noexcept;
  Code view(const ort::Value* value, TensorView* out) noexcept;
  void clear(Place* place, ort::Value** value) noexcept;
  Code call() noexcept;
  Code prove(uint64_t calls) noexcept;

  const LoadedGraph& graph_;
  std::vector<Place> inputs_, outputs_;
  std::vector<ort::Value*> input_values_, output_values_;
  std::unique_ptr<LimitedRun> limit_;
  char message_[1024] = {};
};

}  // namespace mmedge::runtime::onnxruntime

#endif  // MMEDGE_RUNTIME_BACKENDS_ONNXRUNTIME_RUN_SLOT_H_
