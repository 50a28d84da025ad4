// Places of inputs and outputs around an engine's runs.
#include "buffered_slot.h"

#include <cstdio>
#include <cstring>
#include <utility>

namespace mmedge::runtime {
namespace {

// Address of tensors without elements: no engine takes null.
alignas(64) unsigned char nothing[64];

const TensorView kEmpty{};

bool same_layout(const TensorView& a, const TensorView& b) {
  return a.dtype == b.dtype && same_shape(a, b);
}

TensorView addressed(TensorView tensor) {
  if (tensor.data == nullptr) tensor.data = nothing;
  return tensor;
}

}  // namespace

BufferedSlot::BufferedSlot(const std::string& where, const char* engine,
                           const std::vector<TensorSpec>& inputs,
                           const std::vector<TensorSpec>& outputs)
    : where_(where),
      engine_(engine),
      input_specs_(inputs),
      output_specs_(outputs),
      inputs_(inputs.size()),
      outputs_(outputs.size()) {}

Code BufferedSlot::fail(Code code, const char* format, ...) noexcept {
  const int length = std::snprintf(message_, sizeof message_, "%s: ", where_.c_str());
  if (length < 0 || static_cast<size_t>(length) >= sizeof message_) return code;
  std::va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(message_ + length, sizeof message_ - static_cast<size_t>(length), format,
                 arguments);
  va_end(arguments);
  return code;
}

Code BufferedSlot::out_of_memory() noexcept { return fail(Code::kBackend, "memory is exhausted"); }

bool BufferedSlot::fits(const TensorSpec& spec, const char* kind,
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

Code BufferedSlot::set_input(size_t index, const TensorView& tensor) noexcept {
  if (index >= inputs_.size()) return fail(Code::kInput, "there is no input %zu", index);
  Input& place = inputs_[index];
  const TensorView view = addressed(tensor);
  if (place.set && !place.held && place.view.data == view.data && same_layout(place.view, view)) {
    return Code::kOk;
  }
  if (!fits(input_specs_[index], "input", tensor)) return Code::kInput;
  const Code code = bind(index, view);
  if (code != Code::kOk) return code;
  place.view = view;
  place.set = true;
  place.held = Value();
  return Code::kOk;
}

Code BufferedSlot::set_input(size_t index, const Value& value) noexcept {
  if (!value) return fail(Code::kInput, "input %zu: the value is empty", index);
  return set_input(index, value.view());
}

Code BufferedSlot::feed_back(size_t output, size_t input) noexcept {
  if (input >= inputs_.size()) return fail(Code::kInput, "there is no input %zu", input);
  if (output >= outputs_.size() || !outputs_[output].made) {
    return fail(Code::kInput, "output %zu holds nothing that the engine made", output);
  }
  Output& made = outputs_[output];
  if (!fits(input_specs_[input], "input", made.view)) return Code::kInput;
  Value value = pool_.copy(made.view);
  if (!value) return out_of_memory();
  if (const Code code = bind(input, value.view()); code != Code::kOk) return code;
  Input& place = inputs_[input];
  place.view = value.view();
  place.set = true;
  place.held = std::move(value);
  made.view = TensorView{};
  made.made = false;
  return Code::kOk;
}

Code BufferedSlot::set_output(size_t index, const TensorView& memory) noexcept {
  if (index >= outputs_.size()) return fail(Code::kInput, "there is no output %zu", index);
  if (!fits(output_specs_[index], "output", memory)) return Code::kInput;
  Output& place = outputs_[index];
  place.memory = addressed(memory);
  place.has_memory = true;
  place.view = TensorView{};
  place.made = false;
  return Code::kOk;
}

void BufferedSlot::reset_output(size_t index) noexcept {
  if (index < outputs_.size()) outputs_[index] = Output{};
}

Code BufferedSlot::read_output(size_t index) noexcept {
  Output& place = outputs_[index];
  TensorView view;
  if (const Code code = read(index, &view); code != Code::kOk) return code;
  const TensorSpec& spec = output_specs_[index];
  bool whole = view.rank == spec.shape.size() && view.dtype == spec.dtype;
  for (size_t axis = 0; whole && axis < view.rank; ++axis) whole = view.shape[axis] >= 0;
  if (!whole || (view.data == nullptr && view.elements() > 0)) {
    return fail(Code::kBackend,
                "%s gave output '%s' as %s of rank %zu; the manifest declares %s of rank %zu", engine_,
                spec.name.c_str(), dtype_name(view.dtype), view.rank, dtype_name(spec.dtype),
                spec.shape.size());
  }
  place.view = addressed(view);
  place.made = !place.has_memory;
  if (!place.has_memory) return Code::kOk;
  if (!same_layout(view, place.memory)) {
    return fail(Code::kBackend, "output '%s' has another shape than the memory that was set for it",
                spec.name.c_str());
  }
  if (view.bytes() > 0) std::memmove(place.memory.data, view.data, view.bytes());
  place.view = place.memory;
  return Code::kOk;
}

Code BufferedSlot::run() noexcept {
  for (size_t i = 0; i < inputs_.size(); ++i) {
    if (!inputs_[i].set) {
      return fail(Code::kInput, "input '%s' is not set", input_specs_[i].name.c_str());
    }
  }
  const auto forget = [this] {
    for (Output& output : outputs_) {
      output.view = TensorView{};
      output.made = false;
    }
  };
  forget();
  Code code = compute();
  for (size_t i = 0; i < outputs_.size() && code == Code::kOk; ++i) code = read_output(i);
  if (code != Code::kOk) forget();
  return code;
}

const TensorView& BufferedSlot::output(size_t index) const noexcept {
  return index < outputs_.size() ? outputs_[index].view : kEmpty;
}

const TensorView& BufferedSlot::input(size_t index) const noexcept {
  return index < inputs_.size() ? inputs_[index].view : kEmpty;
}

Value BufferedSlot::take_output(size_t index) noexcept {
  if (index >= outputs_.size() || !outputs_[index].made) return Value();
  Value value = pool_.copy(outputs_[index].view);
  outputs_[index].view = TensorView{};
  outputs_[index].made = false;
  return value;
}

Code BufferedSlot::make_tensor(const TensorView& shape, Value* out) noexcept {
  TensorView view = shape;
  view.data = nullptr;
  *out = pool_.copy(view);
  return *out ? Code::kOk : out_of_memory();
}

Code BufferedSlot::copy_input(size_t index, Value* out) noexcept {
  if (!input(index).data) return fail(Code::kInput, "input %zu is not set", index);
  *out = pool_.copy(input(index));
  return *out ? Code::kOk : out_of_memory();
}

Value BufferedSlot::take_input(size_t index) noexcept {
  if (index >= inputs_.size() || !inputs_[index].held) return Value();
  Value value = std::move(inputs_[index].held);
  inputs_[index] = Input{};
  return value;
}

}  // namespace mmedge::runtime
