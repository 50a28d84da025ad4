// Runs a compiled graph: mmedge/backends/openvino/compiled.py.
//
// A state is copied from where a run left it. Given back as it lies, which Python's stepper does after
// each run, it is written to by a later run where another run came between.
#include "run_slot.h"

#include <algorithm>
#include <cstring>
#include <exception>
#include <limits>

namespace mmedge::runtime::openvino {
namespace {

bool has_shapes(const InputShapes& shapes, const TensorView& view, size_t input) {
  return std::equal(shapes[input].begin(), shapes[input].end(), view.shape,
                    view.shape + view.rank);
}

}  // namespace

OpenVinoSlot::OpenVinoSlot(Forms& forms, const std::vector<TensorSpec>& inputs,
                           const std::vector<TensorSpec>& outputs)
    : BufferedSlot(forms.where(), "OpenVINO", inputs, outputs),
      forms_(forms),
      stale_(inputs.size(), true) {
  requests_.reserve(forms.special().size() + 1);  // pointers to them stay
  for (const auto& form : forms.special()) requests_.push_back(make_request(*form));
  if (const Compiled* general = forms.general()) requests_.push_back(make_request(*general));
}

OpenVinoSlot::Request OpenVinoSlot::make_request(const Compiled& form) const {
  const Library& library = forms_.library();
  const Api& api = library.api();
  Request request;
  request.form = &form;
  request.held = Owner<InferRequest>(api.infer_request_free);
  library.check(api.compiled_model_create_infer_request(form.model(), request.held.out()));
  for (size_t i = 0; i < input_specs_.size(); ++i) {
    void*& place = request.places.emplace_back();
    if (form.copied_bytes(i) == 0) continue;
    Owner<OvTensor> tensor(api.tensor_free);
    library.check(api.infer_request_get_input_tensor_by_index(request.held.get(), i, tensor.out()));
    library.check(api.tensor_data(tensor.get(), &place));
  }
  return request;
}

Code OpenVinoSlot::fail_call(Status status) noexcept {
  char text[900];
  forms_.library().describe(status, text, sizeof text);
  return fail(Code::kBackend, "OpenVINO failed: %s", text);
}

Code OpenVinoSlot::bind(size_t index, const TensorView&) noexcept {
  stale_[index] = true;
  return Code::kOk;
}

// On the CPU OpenVINO computes int64 in 32 bits, and would cut off the rest.
Code OpenVinoSlot::check_ranges() noexcept {
  for (size_t i = 0; i < inputs_.size(); ++i) {
    const Input& input = inputs_[i];
    if (input.view.dtype != DType::kInt64) continue;
    const auto* values = static_cast<const int64_t*>(input.view.data);
    const int64_t count = input.view.elements();
    if (count == 0) continue;
    const auto [low, high] = std::minmax_element(values, values + count);
    if (*low >= std::numeric_limits<int32_t>::min() &&
        *high <= std::numeric_limits<int32_t>::max()) {
      continue;
    }
    return fail(Code::kBackend,
                "input '%s': expected integers of 32 bits, which is what OpenVINO computes int64 in, "
                "got %lld to %lld; load with backend='ort'",
                input_specs_[i].name.c_str(), static_cast<long long>(*low),
                static_cast<long long>(*high));
  }
  return Code::kOk;
}

Code OpenVinoSlot::choose_form() noexcept {
  const Compiled* form = nullptr;
  for (const auto& each : forms_.special()) {
    bool same = true;
    for (size_t i = 0; i < inputs_.size() && same; ++i) {
      same = has_shapes(each->shapes(), inputs_[i].view, i);
    }
    if (same) form = each.get();
  }
  Request* request = nullptr;
  if (form == nullptr) form = forms_.general();  // without the lock of what makes it
  try {
    if (form == nullptr) form = &forms_.make_general();
    for (Request& each : requests_) {
      if (each.form == form) request = &each;
    }
    if (request == nullptr) {
      requests_.push_back(make_request(*form));  // there is room for it
      request = &requests_.back();
    }
  } catch (const std::exception& error) {
    return fail(Code::kBackend, "OpenVINO failed: %s", error.what());
  }
  if (request == request_) return Code::kOk;
  stale_.assign(stale_.size(), true);
  request_ = request;
  return Code::kOk;
}

Code OpenVinoSlot::enter(size_t index) noexcept {
  const Api& api = forms_.library().api();
  TensorView& view = inputs_[index].view;
  Owner<OvTensor> tensor(api.tensor_free);
  const Shape shape{static_cast<int64_t>(view.rank), view.shape};
  Status status = api.tensor_create_from_host_ptr(element_type(view.dtype), shape, view.data,
                                                  tensor.out());
  if (status == 0) {
    status = api.infer_request_set_input_tensor_by_index(request_->held.get(), index, tensor.get());
  }
  if (status != 0) return fail_call(status);
  stale_[index] = false;
  return Code::kOk;
}

Code OpenVinoSlot::compute() noexcept {
  if (const Code code = check_ranges(); code != Code::kOk) return code;
  if (const Code code = choose_form(); code != Code::kOk) return code;
  for (size_t i = 0; i < inputs_.size(); ++i) {
    if (void* place = request_->places[i]) {
      const size_t bytes = inputs_[i].view.bytes();
      if (bytes != request_->form->copied_bytes(i)) {
        return fail(Code::kBackend, "OpenVINO failed: input '%s' has %zu bytes, the graph takes %zu",
                    input_specs_[i].name.c_str(), bytes, request_->form->copied_bytes(i));
      }
      std::memcpy(place, inputs_[i].view.data, bytes);
    } else if (stale_[i]) {
      if (const Code code = enter(i); code != Code::kOk) return code;
    }
  }
  const Status status = forms_.library().api().infer_request_infer(request_->held.get());
  return status == 0 ? Code::kOk : fail_call(status);
}

Code OpenVinoSlot::view(const OvTensor* tensor, DType dtype, TensorView* view) const noexcept {
  const Api& api = forms_.library().api();
  Shape shape{};
  if (api.tensor_get_shape(tensor, &shape) != 0) return Code::kBackend;
  view->dtype = dtype;
  view->rank = static_cast<size_t>(shape.rank);
  const bool fits = view->rank <= kMaxRank;
  if (fits) std::copy_n(shape.sizes, view->rank, view->shape);
  api.shape_free(&shape);
  return fits && api.tensor_data(tensor, &view->data) == 0 ? Code::kOk : Code::kBackend;
}

Code OpenVinoSlot::read(size_t index, TensorView* out) noexcept {
  const Api& api = forms_.library().api();
  Owner<OvTensor> tensor(api.tensor_free);
  const Status status = api.infer_request_get_output_tensor_by_index(
      request_->held.get(), request_->form->output_place(index), tensor.out());
  if (status != 0) return fail_call(status);
  // The request has the tensor, too.
  if (view(tensor.get(), output_specs_[index].dtype, out) == Code::kOk) return Code::kOk;
  return fail(Code::kBackend, "OpenVINO made an output '%s' that cannot be read",
              output_specs_[index].name.c_str());
}

}  // namespace mmedge::runtime::openvino
