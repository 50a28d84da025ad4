// The checks of a call, in the order of Python's, and what stands in for absent modalities.
#include "execution/inputs.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "execution/finite.h"

namespace mmedge::runtime {
namespace {

// How the sizes of a dimension read in messages of both runtimes.
std::string join(const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
  return text;
}

// [2, 64] as a message shows it.
struct ShapeText {
  explicit ShapeText(const TensorView& view) noexcept {
    size_t at = static_cast<size_t>(std::snprintf(text, sizeof text, "["));
    for (size_t axis = 0; axis < view.rank && at < sizeof text - 24; ++axis) {
      at += static_cast<size_t>(std::snprintf(text + at, sizeof text - at, "%s%lld",
                                              axis > 0 ? ", " : "",
                                              static_cast<long long>(view.shape[axis])));
    }
    std::snprintf(text + at, sizeof text - at, "]");
  }
  char text[24 * (kMaxRank + 1)];
};

// Repeats `first`, which has size 1 along each dynamic axis, to the shape of `out`.
void repeat(const uint8_t* first, const TensorView& out, const uint8_t* dynamic,
            size_t item) noexcept {
  int64_t index[kMaxRank] = {};
  const int64_t count = out.elements();
  auto* to = static_cast<uint8_t*>(out.data);
  for (int64_t i = 0; i < count; ++i, to += item) {
    int64_t from = 0;
    for (size_t axis = 0; axis < out.rank; ++axis) {
      const bool repeated = dynamic[axis] != 0;
      from = from * (repeated ? 1 : out.shape[axis]) + (repeated ? 0 : index[axis]);
    }
    std::memcpy(to, first + static_cast<size_t>(from) * item, item);
    for (size_t axis = out.rank; axis-- > 0;) {
      if (++index[axis] < out.shape[axis]) break;
      index[axis] = 0;
    }
  }
}

// The dimension of a caller's tokens; no bundle can have one of that name.
constexpr const char* kPrompt = "prompt tokens";

// The tokens of a loop among the network's inputs; null where there are none.
const std::string* prompt_of(const Manifest& manifest) {
  const auto* loop = std::get_if<GenerateLoop>(&manifest.loop);
  if (loop == nullptr) return nullptr;
  for (const Modality& modality : manifest.modalities) {
    for (const std::string& input : modality.inputs) {
      if (input == loop->token) return &input;
    }
  }
  return nullptr;
}

}  // namespace

std::vector<TensorSpec> call_inputs(const Manifest& manifest) {
  std::vector<TensorSpec> specs = manifest.inputs();
  const std::string* prompt = prompt_of(manifest);
  for (TensorSpec& spec : specs) {
    if (prompt != nullptr && spec.name == *prompt) spec.shape = {spec.shape[0], {0, kPrompt}};
  }
  return specs;
}

std::map<std::string, Dimension> call_dimensions(const Manifest& manifest) {
  std::map<std::string, Dimension> dimensions = manifest.dimensions;
  const std::string* prompt = prompt_of(manifest);
  for (const Modality& modality : manifest.modalities) {
    for (const std::string& input : modality.inputs) {
      if (&input != prompt) continue;
      // One that is left out has no tokens, unless a token stands for it.
      Dimension any;
      any.min = modality.absent == Absent::kToken && !modality.required ? 1 : 0;
      dimensions[kPrompt] = any;
    }
  }
  return dimensions;
}

Inputs::Inputs(const Manifest& manifest, std::shared_ptr<const Samples> samples,
               bool allow_non_finite)
    : manifest_(manifest),
      samples_(std::move(samples)),
      specs_(call_inputs(manifest)),
      relations_(call_dimensions(manifest), manifest.constraints),
      allow_non_finite_(allow_non_finite) {
  const std::map<std::string, Dimension> dimensions = call_dimensions(manifest);
  for (const std::string& name : relations_.names()) {
    dimensions_.push_back(dimensions.at(name));
    spans_.push_back(spans(dimensions_.back()));
  }
  std::vector<std::string> names;
  for (const TensorSpec& spec : specs_) {
    names.push_back(spec.name);
    std::vector<AxisLimit> axes;
    std::string text;
    for (const Axis& axis : spec.shape) {
      axes.push_back({axis.size,
                      axis.is_dynamic() ? static_cast<int>(relations_.index(axis.dimension)) : -1});
      text += (text.empty() ? "" : ", ") +
              (axis.is_dynamic() ? axis.dimension : std::to_string(axis.size));
    }
    axes_.push_back(std::move(axes));
    shape_texts_.push_back("[" + text + "]");
  }
  names_text_ = join(names);
  for (const Modality& modality : manifest.modalities) {
    first_of_.push_back(modality_of_.size());
    for (size_t i = 0; i < modality.inputs.size(); ++i) modality_of_.push_back(&modality);
  }
  first_of_.push_back(modality_of_.size());
  tokens_.resize(specs_.size());
  nan_allowed_.resize(specs_.size());
  infinity_allowed_.resize(specs_.size());
  for (size_t input = 0; input < specs_.size() && samples_ != nullptr; ++input) {
    for (const Sample& sample : samples_->golden) {
      const NonFinite found = find_non_finite(sample.inputs.at(specs_[input].name));
      nan_allowed_[input] |= found.nan;
      infinity_allowed_[input] |= found.infinity;
    }
    if (modality_of_[input]->absent != Absent::kToken || modality_of_[input]->required) continue;
    // Constant along dynamic axes by the format's rule: one element of each serves any size.
    const TensorView& token = samples_->absent.at(specs_[input].name);
    const size_t item = item_size(token.dtype);
    const auto* data = static_cast<const uint8_t*>(token.data);
    int64_t index[kMaxRank] = {};
    for (int64_t i = 0; i < token.elements(); ++i) {
      bool first = true;
      for (size_t axis = 0; axis < token.rank; ++axis) {
        first = first && (axes_[input][axis].dimension < 0 || index[axis] == 0);
      }
      if (first) {
        const uint8_t* element = data + static_cast<size_t>(i) * item;
        tokens_[input].insert(tokens_[input].end(), element, element + item);
      }
      for (size_t axis = token.rank; axis-- > 0;) {
        if (++index[axis] < token.shape[axis]) break;
        index[axis] = 0;
      }
    }
  }
}

InputCall Inputs::make_call() const {
  InputCall call;
  call.values.resize(specs_.size());
  call.present.resize(specs_.size());
  call.sizes.resize(dimensions_.size());
  call.scratch.resize(dimensions_.size());
  call.stand_ins.resize(specs_.size());
  call.filled.resize(specs_.size());
  return call;
}

size_t Inputs::find(const char* name) const noexcept {
  size_t input = 0;
  while (input < specs_.size() && std::strcmp(specs_[input].name.c_str(), name) != 0) ++input;
  return input;
}

Code Inputs::take(const NamedTensor& tensor, InputCall* call) const noexcept {
  CallError& error = call->error;
  const char* name = tensor.name != nullptr ? tensor.name : "";
  const size_t input = find(name);
  if (input == specs_.size()) {
    return error.set(Code::kInput, "unknown input '%.200s'; this bundle takes %s", name,
                       names_text_.c_str());
  }
  if (call->present[input]) {
    return error.set(Code::kInput, "input '%s' is given twice", name);
  }
  const TensorView& view = tensor.view;
  const TensorSpec& spec = specs_[input];
  if (view.dtype != spec.dtype) {
    return error.set(Code::kInput,
                       "input '%s': expected dtype %s, got %s; convert it where it is made, so that "
                       "no precision is lost unseen",
                       name, dtype_name(spec.dtype), dtype_name(view.dtype));
  }
  if (view.rank != spec.shape.size()) {
    return error.set(Code::kInput, "input '%s': expected rank %zu %s, got rank %zu %s", name,
                       spec.shape.size(), shape_text(input), view.rank, ShapeText(view).text);
  }
  for (size_t axis = 0; axis < view.rank; ++axis) {
    const int64_t size = view.shape[axis];
    const AxisLimit& limit = axes_[input][axis];
    if (limit.dimension < 0) {
      if (size != limit.size) {
        return error.set(Code::kInput, "input '%s': axis %zu must have size %lld %s, got %s", name,
                           axis, static_cast<long long>(limit.size), shape_text(input),
                           ShapeText(view).text);
      }
      continue;
    }
    int64_t& known = call->sizes[static_cast<size_t>(limit.dimension)];
    if (known < 0) known = size;
    if (known != size) {
      return error.set(Code::kInput,
                         "input '%s': axis %zu is dimension '%s', which is %lld elsewhere in this "
                         "call, got %lld",
                         name, axis, relations_.names()[static_cast<size_t>(limit.dimension)].c_str(),
                         static_cast<long long>(known), static_cast<long long>(size));
    }
  }
  call->values[input] = view;
  call->present[input] = 1;
  return Code::kOk;
}

Code Inputs::check_sizes(InputCall* call) const noexcept {
  for (size_t i = 0; i < dimensions_.size(); ++i) {
    const int64_t size = call->sizes[i];
    if (size != kUnknownSize && !allows(dimensions_[i], size)) {
      return call->error.set(Code::kInput,
                               "dimension '%s' may be %s in this bundle, got %lld",
                               relations_.names()[i].c_str(), spans_[i].c_str(),
                               static_cast<long long>(size));
    }
  }
  const size_t broken = relations_.first_broken(call->sizes.data());
  if (broken == Relations::kNone) return Code::kOk;
  const Constraint& constraint = manifest_.constraints[broken];
  return call->error.set(Code::kInput,
                           "sizes of this call: this bundle takes only %.200s, because of %.120s. "
                           "Pass sizes that keep it; elsewhere the network does something else, which "
                           "is not in this bundle's graphs",
                           constraint.expression.c_str(), constraint.source.c_str());
}

Code Inputs::check_presence(InputCall* call, bool* absent) const noexcept {
  *absent = false;
  for (size_t m = 0; m + 1 < first_of_.size(); ++m) {
    const size_t begin = first_of_[m], end = first_of_[m + 1];
    const Modality& modality = *modality_of_[begin];
    size_t brought = 0, missing = begin;
    for (size_t input = begin; input < end; ++input) {
      if (call->present[input]) {
        ++brought;
      } else if (brought == input - begin) {
        missing = input;  // the first
      }
    }
    if (brought == end - begin) continue;
    if (modality.required || brought > 0) {
      return call->error.set(Code::kInput, "missing input '%s' of modality '%s'%s",
                               specs_[missing].name.c_str(), modality.name.c_str(),
                               brought > 0 ? "; others of the same modality were given" : "");
    }
    *absent = true;
  }
  return Code::kOk;
}

TensorView Inputs::stand_in_shape(size_t input, const InputCall& call) const noexcept {
  TensorView view;
  view.dtype = specs_[input].dtype;
  view.rank = axes_[input].size();
  for (size_t axis = 0; axis < view.rank; ++axis) {
    const AxisLimit& limit = axes_[input][axis];
    view.shape[axis] =
        limit.dimension < 0 ? limit.size : call.sizes[static_cast<size_t>(limit.dimension)];
  }
  return view;
}

Code Inputs::fill(size_t input, InputCall* call) const noexcept {
  TensorView view = stand_in_shape(input, *call);
  std::vector<uint8_t>& memory = call->stand_ins[input];
  if (memory.empty() || view.bytes() > memory.size()) {
    return call->error.set(Code::kNotWarm,
                             "what stands in for input '%s' has %zu bytes, and %zu were set aside; "
                             "warm up with the largest sizes of your calls",
                             specs_[input].name.c_str(), view.bytes(), memory.size());
  }
  view.data = memory.data();
  // Zeros are zeros in any shape.
  if (!tokens_[input].empty() && !same_shape(view, call->filled[input])) {
    uint8_t dynamic[kMaxRank];
    for (size_t axis = 0; axis < view.rank; ++axis) dynamic[axis] = axes_[input][axis].dimension >= 0;
    repeat(tokens_[input].data(), view, dynamic, item_size(view.dtype));
  }
  call->filled[input] = view;
  call->values[input] = view;
  return Code::kOk;
}

Code Inputs::check_finite(size_t input, InputCall* call) const noexcept {
  const TensorView& view = call->values[input];
  if (is_finite(view)) return Code::kOk;
  const NonFinite found = find_non_finite(view);
  const bool nan = found.nan && !nan_allowed_[input];
  const bool infinity = found.infinity && !infinity_allowed_[input];
  if (!nan && !infinity) return Code::kOk;
  return call->error.set(
      Code::kInput,
      "input '%s': %s, where every golden sample is free of it: the answer would mean nothing. Leave "
      "the sample out, or pass it on: allow_non_finite",
      specs_[input].name.c_str(), nan ? "NaN" : "infinity");
}

Code Inputs::prepare(const NamedTensor* tensors, size_t count, InputCall* call) const noexcept {
  std::fill(call->present.begin(), call->present.end(), 0);
  std::fill(call->sizes.begin(), call->sizes.end(), kUnknownSize);
  for (size_t i = 0; i < count; ++i) {
    if (const Code code = take(tensors[i], call); code != Code::kOk) return code;
    const size_t input = find(tensors[i].name);
    const TensorView& view = call->values[input];
    if (tensors[i].bytes != 0 && tensors[i].bytes != view.bytes()) {
      return call->error.set(Code::kInput, "input '%s' has %zu bytes, and its shape %s needs %zu",
                               tensors[i].name, tensors[i].bytes, ShapeText(view).text,
                               view.bytes());
    }
    if (view.data == nullptr && view.elements() > 0) {
      return call->error.set(Code::kInput, "input '%s' has no data", tensors[i].name);
    }
  }
  if (const Code code = check_sizes(call); code != Code::kOk) return code;
  bool absent = false;
  if (const Code code = check_presence(call, &absent); code != Code::kOk) return code;
  if (absent) {
    if (!relations_.complete(call->sizes.data(), call->scratch.data())) {
      return call->error.set(Code::kInput,
                               "nothing can stand in for what is absent: no size of it keeps the "
                               "constraints of this bundle beside the sizes of this call");
    }
    for (size_t input = 0; input < specs_.size(); ++input) {
      if (call->present[input]) continue;
      if (const Code code = fill(input, call); code != Code::kOk) return code;
    }
  }
  for (size_t input = 0; input < specs_.size() && !allow_non_finite_; ++input) {
    if (!call->present[input]) continue;
    if (const Code code = check_finite(input, call); code != Code::kOk) return code;
  }
  return Code::kOk;
}

void Inputs::reserve(const NamedTensor* tensors, size_t count, InputCall* call) const {
  Code code = prepare(tensors, count, call);
  if (code == Code::kNotWarm) {
    for (size_t input = 0; input < specs_.size(); ++input) {
      if (call->present[input]) continue;
      const size_t bytes = stand_in_shape(input, *call).bytes();
      std::vector<uint8_t>& memory = call->stand_ins[input];
      if (memory.size() < bytes || memory.empty()) {
        memory.assign(std::max<size_t>(bytes, 1), 0);
        call->filled[input] = TensorView();
      }
    }
    code = prepare(tensors, count, call);
  }
  if (code != Code::kOk) throw Error(code, call->error.text);
}

std::vector<NamedTensor> Inputs::example(bool required_only, std::vector<Tensor>* memory) const {
  std::vector<NamedTensor> tensors;
  memory->clear();
  memory->reserve(specs_.size());
  for (size_t input = 0; input < specs_.size(); ++input) {
    if (required_only && !modality_of_[input]->required) continue;
    Tensor tensor;
    tensor.dtype = specs_[input].dtype;
    size_t bytes = item_size(tensor.dtype);
    for (const AxisLimit& limit : axes_[input]) {
      const int64_t size =
          limit.dimension < 0 ? limit.size : dimensions_[static_cast<size_t>(limit.dimension)].opt;
      tensor.shape.push_back(size);
      bytes *= static_cast<size_t>(size);
    }
    tensor.data.assign(std::max<size_t>(bytes, 1), 0);
    memory->push_back(std::move(tensor));
    tensors.push_back({specs_[input].name.c_str(), memory->back().view(), 0});
  }
  return tensors;
}

}  // namespace mmedge::runtime
