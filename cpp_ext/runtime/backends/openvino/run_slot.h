// Inputs and outputs of one thread's runs in OpenVINO.
#ifndef MMEDGE_RUNTIME_BACKENDS_OPENVINO_RUN_SLOT_H_
#define MMEDGE_RUNTIME_BACKENDS_OPENVINO_RUN_SLOT_H_

#include <memory>
#include <vector>

#include "../buffered_slot.h"
#include "session.h"

namespace mmedge::runtime::openvino {

class OpenVinoSlot final : public BufferedSlot {
 public:
  // Throws Error(kBackend).
  OpenVinoSlot(Forms& forms, const std::vector<TensorSpec>& inputs,
               const std::vector<TensorSpec>& outputs);

 protected:
  Code bind(size_t index, const TensorView& tensor) noexcept override;
  Code compute() noexcept override;
  Code read(size_t index, TensorView* view) noexcept override;

 private:
  // An infer request of one form of the graph.
  struct Request {
    const Compiled* form = nullptr;
    Owner<InferRequest> held;
    std::vector<void*> places;  // of inputs that are copied; null for the others
  };

  Request make_request(const Compiled& form) const;
  Code fail_call(Status status) noexcept;
  Code check_ranges() noexcept;
  Code choose_form() noexcept;
  Code enter(size_t index) noexcept;
  Code view(const OvTensor* tensor, DType dtype, TensorView* view) const noexcept;

  Forms& forms_;
  std::vector<Request> requests_;    // of the special forms, and of the general one
  Request* request_ = nullptr;       // that of the last run
  std::vector<bool> stale_;          // inputs of which that does not know yet
};

}  // namespace mmedge::runtime::openvino

#endif  // MMEDGE_RUNTIME_BACKENDS_OPENVINO_RUN_SLOT_H_
