// Runs a session without allocating, locking or logging in code of our own.
#include "run_slot.h"

#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <utility>

namespace mmedge::runtime::onnxruntime {
namespace {

// By DType.
constexpr int kElementTypes[] = {ort::kBool,  ort::kFloat16, ort::kFloat, ort::kDouble,
                                 ort::kInt8,  ort::kInt16,   ort::kInt32, ort::kInt64,
                                 ort::kUint8, ort::kUint16,  ort::kUint32, ort::kUint64};

// Address of tensors without elements: ONNX Runtime takes no null.
alignas(64) unsigned char nothing[64];

// The same tensor with an address.
TensorView addressed(TensorView tensor) {
  if (tensor.data == nullptr) tensor.data = nothing;
  return tensor;
}

bool same(const TensorView& a, const TensorView& b) {
  if (a.data != b.data || a.dtype != b.dtype || a.rank != b.rank) return false;
  for (size_t axis = 0; axis < a.rank; ++axis) {
    if (a.shape[axis] != b.shape[axis]) return false;
  }
  return true;
}

void release_value(const void* engine, void* tensor) noexcept {
  static_cast<const Library*>(engine)->call<ort::ReleaseValue>(static_cast<ort::Value*>(tensor));
}

const TensorView kEmpty{};

}  // namespace

int element_type(DType dtype) noexcept { return kElementTypes[static_cast<size_t>(dtype)]; }

bool parse_element_type(int type, DType* out) noexcept {
  for (size_t i = 0; i < sizeof kElementTypes / sizeof kElementTypes[0]; ++i) {
    if (kElementTypes[i] == type) {
      *out = static_cast<DType>(i);
      return true;
    }
  }
  return false;
}

OrtRunSlot::OrtRunSlot(const LoadedGraph& graph)
    : graph_(graph),
      inputs_(graph.inputs->size()),
      outputs_(graph.outputs->size()),
      input_values_(graph.inputs->size()),
      output_values_(graph.outputs->size()) {
  if (graph.watch == nullptr) return;
  limit_ = std::make_unique<LimitedRun>(*graph.library, graph.run_timeout_s);
  graph.watch->add(limit_.get());
}

OrtRunSlot::~OrtRunSlot() {
  if (limit_) graph_.watch->remove(limit_.get());
  for (size_t i = 0; i < inputs_.size(); ++i) clear(&inputs_[i], &input_values_[i]);
  for (size_t i = 0; i < outputs_.size(); ++i) clear(&outputs_[i], &output_values_[i]);
}

Code OrtRunSlot::fail(Code code, const char* format, ...) noexcept {
  const int length = std::snprintf(message_, sizeof message_, "%s: ", graph_.where.c_str());
  if (length < 0 || static_cast<size_t>(length) >= sizeof message_) return code;
  std::va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(message_ + length, sizeof message_ - length, format, arguments);
  va_end(arguments);
  return code;
}

Code OrtRunSlot::fail(ort::Status* status) noexcept {
  fail(Code::kBackend, "ONNX Runtime failed: %s",
       graph_.library->call<ort::GetErrorMessage>(status));
  graph_.library->call<ort::ReleaseStatus>(status);
  return Code::kBackend;
}

bool OrtRunSlot::fits(const TensorSpec& spec, const char* kind,
                      const TensorView& tensor) noexcept {
  bool whole = tensor.rank == spec.shape.size() && tensor.rank <= kMaxRank;
  for (size_t axis = 0; whole && axis < tensor.rank; ++axis) whole = tensor.shape[axis] >= 0;
  if (tensor.dtype == spec.dtype && whole && (tensor.data != nullptr || tensor.elements() == 0)) {
    return true;
  }
  fail(Code::kInput,
       "%s '%s': expected %s of rank %zu with sizes from 0 and data, got %s of rank %zu", kind,
       spec.name.c_str(), dtype_name(spec.dtype), spec.shape.size(), dtype_name(tensor.dtype),
       tensor.rank);
  return false;
}

Code OrtRunSlot::wrap(const TensorView& tensor, ort::Value** out) noexcept {
  ort::Status* status = graph_.library->call<ort::CreateTensorWithData>(
      graph_.library->cpu_memory(), tensor.data, tensor.bytes(), tensor.shape, tensor.rank,
      element_type(tensor.dtype), out);
  return status == nullptr ? Code::kOk : fail(status);
}

Code OrtRunSlot::view(const ort::Value* value, TensorView* out) noexcept {
  const Library& library = *graph_.library;
  int type = 0;
  const int64_t* shape = nullptr;
  size_t rank = 0;
  ort::Status* status =
      library.call<ort::GetTensorTypeAndShapeReference>(value, &type, &shape, &rank);
  if (status != nullptr) return fail(status);
  if (rank > kMaxRank || !parse_element_type(type, &out->dtype)) {
    return fail(Code::kBackend, "ONNX Runtime made a tensor of element type %d and rank %zu", type,
                rank);
  }
  out->rank = rank;
  for (size_t axis = 0; axis < rank; ++axis) out->shape[axis] = shape[axis];
  // It asks for no const value.
  status = library.call<ort::GetTensorMutableData>(const_cast<ort::Value*>(value), &out->data);
  if (status != nullptr) return fail(status);
  *out = addressed(*out);
  return Code::kOk;
}

void OrtRunSlot::clear(Place* place, ort::Value** value) noexcept {
  if (*value != nullptr && place->origin != Origin::kBorrowed) {
    graph_.library->call<ort::ReleaseValue>(*value);
  }
  *value = nullptr;
  *place = Place{};
}

Code OrtRunSlot::make_tensor(const TensorView& shape, Value* out) noexcept {
  const Library& library = *graph_.library;
  ort::Allocator* allocator = nullptr;
  ort::Status* status = library.call<ort::GetAllocatorWithDefaultOptions>(&allocator);
  if (status != nullptr) return fail(status);
  ort::Value* value = nullptr;
  status = library.call<ort::CreateTensor>(allocator, shape.shape, shape.rank,
                                           element_type(shape.dtype), &value);
  if (status != nullptr) return fail(status);
  Value made = own(value, shape);
  TensorView seen;
  if (const Code code = view(value, &seen); code != Code::kOk) return code;
  *out = own(made.leave(), seen);
  return Code::kOk;
}

Code OrtRunSlot::copy_input(size_t index, Value* out) noexcept {
  const TensorView from = input(index);
  if (from.data == nullptr) return fail(Code::kInput, "input %zu is not set", index);
  const Code code = make_tensor(from, out);
  if (code == Code::kOk) std::memcpy(out->view().data, from.data, from.bytes());
  return code;
}

Value OrtRunSlot::own(void* tensor, const TensorView& view) const noexcept {
  return {graph_.library, tensor, release_value, view};
}

Code OrtRunSlot::set_input(size_t index, const TensorView& tensor) noexcept {
  if (index >= inputs_.size()) return fail(Code::kInput, "there is no input %zu", index);
  Place& place = inputs_[index];
  const TensorView view = addressed(tensor);
  if (place.origin == Origin::kCaller && same(place.view, view)) return Code::kOk;
  if (!fits((*graph_.inputs)[index], "input", tensor)) return Code::kInput;
  ort::Value* value = nullptr;
  const Code code = wrap(view, &value);
  if (code != Code::kOk) return code;
  clear(&place, &input_values_[index]);
  place = {Origin::kCaller, view};
  input_values_[index] = value;
  return Code::kOk;
}

Code OrtRunSlot::set_input(size_t index, const Value& value) noexcept {
  if (value.engine() != graph_.library) return set_input(index, value.view());
  if (index >= inputs_.size()) return fail(Code::kInput, "there is no input %zu", index);
  if (!value) return fail(Code::kInput, "input %zu: the value is empty", index);
  if (!fits((*graph_.inputs)[index], "input", value.view())) return Code::kInput;
  clear(&inputs_[index], &input_values_[index]);
  inputs_[index] = {Origin::kBorrowed, value.view()};
  input_values_[index] = static_cast<ort::Value*>(value.tensor());
  return Code::kOk;
}

Code OrtRunSlot::feed_back(size_t output, size_t input) noexcept {
  if (input >= inputs_.size()) return fail(Code::kInput, "there is no input %zu", input);
  if (output >= outputs_.size() || outputs_[output].origin != Origin::kEngine ||
      output_values_[output] == nullptr) {
    return fail(Code::kInput, "output %zu holds nothing that the engine made", output);
  }
  if (!fits((*graph_.inputs)[input], "input", outputs_[output].view)) return Code::kInput;
  clear(&inputs_[input], &input_values_[input]);
  inputs_[input] = std::exchange(outputs_[output], Place{});
  input_values_[input] = std::exchange(output_values_[output], nullptr);
  return Code::kOk;
}

Code OrtRunSlot::set_output(size_t index, const TensorView& memory) noexcept {
  if (index >= outputs_.size()) return fail(Code::kInput, "there is no output %zu", index);
  Place& place = outputs_[index];
  const TensorView view = addressed(memory);
  if (place.origin == Origin::kCaller && same(place.view, view)) return Code::kOk;
  if (!fits((*graph_.outputs)[index], "output", memory)) return Code::kInput;
  ort::Value* value = nullptr;
  const Code code = wrap(view, &value);
  if (code != Code::kOk) return code;
  clear(&place, &output_values_[index]);
  place = {Origin::kCaller, view};
  output_values_[index] = value;
  return Code::kOk;
}

void OrtRunSlot::reset_output(size_t index) noexcept {
  if (index < outputs_.size()) clear(&outputs_[index], &output_values_[index]);
}

Code OrtRunSlot::run() noexcept {
  for (size_t i = 0; i < inputs_.size(); ++i) {
    if (input_values_[i] == nullptr) {
      return fail(Code::kInput, "input '%s' is not set", graph_.input_names[i]);
    }
  }
  for (size_t i = 0; i < outputs_.size(); ++i) {
    if (outputs_[i].origin != Origin::kCaller) clear(&outputs_[i], &output_values_[i]);
  }
  const bool unproven = graph_.unproven.load(std::memory_order_relaxed) != 0;
  const uint64_t before = unproven ? graph_.kernels->calls() : 0;
  Code code = call();
  if (code == Code::kOk && unproven) code = prove(graph_.kernels->calls() - before);
  for (size_t i = 0; i < outputs_.size() && code == Code::kOk; ++i) {
    if (outputs_[i].origin == Origin::kCaller) continue;
    outputs_[i].origin = Origin::kEngine;
    code = view(output_values_[i], &outputs_[i].view);
  }
  if (code != Code::kOk) {
    for (size_t i = 0; i < outputs_.size(); ++i) {
      if (outputs_[i].origin != Origin::kCaller) clear(&outputs_[i], &output_values_[i]);
    }
  }
  return code;
}

Code OrtRunSlot::call() noexcept {
  if (limit_) {
    if (ort::Status* status = limit_->begin()) return fail(status);
  }
  ort::Status* status = graph_.library->call<ort::Run>(
      graph_.session, limit_ ? limit_->options() : nullptr, graph_.input_names.data(),
      const_cast<const ort::Value* const*>(input_values_.data()), input_values_.size(),
      graph_.output_names.data(), output_values_.size(), output_values_.data());
  const bool late = limit_ && limit_->end();
  if (status == nullptr) return Code::kOk;
  if (!late) return fail(status);
  graph_.library->call<ort::ReleaseStatus>(status);
  return fail(Code::kBackend,
              "the run took more than run_timeout_s = %g and was ended; allow it more time, or do "
              "not trust the bundle",
              graph_.run_timeout_s);
}

Code OrtRunSlot::prove(uint64_t calls) noexcept {
  const int64_t nodes = graph_.unproven.load(std::memory_order_relaxed);
  if (calls < static_cast<uint64_t>(nodes)) {
    return fail(Code::kBackend,
                "%lld nodes of segmented attention are said to run in the kernel of %s, which was "
                "called %llu times; load without kernels, and report this",
                static_cast<long long>(nodes), graph_.kernels->path.c_str(),
                static_cast<unsigned long long>(calls));
  }
  graph_.unproven.store(0, std::memory_order_relaxed);
  return Code::kOk;
}

const TensorView& OrtRunSlot::output(size_t index) const noexcept {
  return index < outputs_.size() ? outputs_[index].view : kEmpty;
}

const TensorView& OrtRunSlot::input(size_t index) const noexcept {
  return index < inputs_.size() ? inputs_[index].view : kEmpty;
}

Value OrtRunSlot::take_output(size_t index) noexcept {
  if (index >= outputs_.size() || outputs_[index].origin != Origin::kEngine) return Value();
  const TensorView view = std::exchange(outputs_[index], Place{}).view;
  return own(std::exchange(output_values_[index], nullptr), view);
}

Value OrtRunSlot::take_input(size_t index) noexcept {
  if (index >= inputs_.size() || inputs_[index].origin != Origin::kEngine) return Value();
  const TensorView view = std::exchange(inputs_[index], Place{}).view;
  return own(std::exchange(input_values_[index], nullptr), view);
}

}  // namespace mmedge::runtime::onnxruntime
