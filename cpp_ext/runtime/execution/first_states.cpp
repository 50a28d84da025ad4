// First values of states, in memory that is set aside before, and the sizes of later ones.
#include "execution/first_states.h"

#include <algorithm>
#include <cstdio>
#include <iterator>

#include "execution/finite.h"
#include "execution/repeat.h"
#include "schema/constraints.h"

namespace mmedge::runtime {
namespace {

}  // namespace

std::vector<int> dimension_places(const Manifest& manifest, const TensorSpec& spec) {
  std::vector<int> places;
  for (const Axis& axis : spec.shape) {
    const auto found = axis.is_dynamic() ? manifest.dimensions.find(axis.dimension)
                                         : manifest.dimensions.end();
    places.push_back(found == manifest.dimensions.end()
                         ? -1
                         : static_cast<int>(std::distance(manifest.dimensions.begin(), found)));
  }
  return places;
}

FirstStates::FirstStates(const Manifest& manifest, const Stage& stage,
                         std::shared_ptr<const Samples> samples)
    : stage_(stage.name), samples_(std::move(samples)) {
  for (const auto& [name, dimension] : manifest.dimensions) {
    names_.push_back(name);
    spans_.push_back(spans(dimension));
    dimensions_.push_back(dimension);
  }
  for (const StateSpec& state : manifest.states) {
    if (state.stage != stage.name) continue;
    Entry entry;
    entry.state = &state;
    for (const TensorSpec& spec : stage.inputs) {
      if (spec.name == state.input) entry.spec = spec;
    }
    entry.places = dimension_places(manifest, entry.spec);
    for (const Axis& axis : entry.spec.shape) {
      entry.axes.push_back(axis.is_dynamic() ? "'" + axis.dimension + "'"
                                             : std::to_string(axis.size));
    }
    if (state.initial == Initial::kStored) entry.stored = samples_->states.at(state.input);
    states_.push_back(std::move(entry));
  }
}

FirstMemory FirstStates::make_memory() const {
  return {std::vector<std::vector<uint8_t>>(states_.size()),
          std::vector<TensorView>(states_.size())};
}

TensorView FirstStates::shape_of(const Entry& entry, const int64_t* sizes) const noexcept {
  TensorView view;
  view.dtype = entry.spec.dtype;
  view.rank = entry.spec.shape.size();
  for (size_t axis = 0; axis < view.rank; ++axis) {
    const bool grows = entry.state->axis && static_cast<size_t>(*entry.state->axis) == axis;
    const int place = entry.places[axis];
    const int64_t known = place < 0 ? kUnknownSize : sizes[place];
    int64_t& size = view.shape[axis];
    if (entry.state->initial == Initial::kStored) {
      // Of a dimension that nothing in the call has, and of the axis that grows, the stored size
      // holds; else a size of 1 is repeated.
      const int64_t stored = entry.stored.shape[axis];
      size = grows || known == kUnknownSize || stored != 1 ? stored : known;
    } else if (grows) {
      size = 0;
    } else if (place < 0) {
      size = entry.spec.shape[axis].size;
    } else {
      size = known == kUnknownSize ? dimensions_[static_cast<size_t>(place)].opt : known;
    }
  }
  return view;
}

void FirstStates::reserve(const int64_t* sizes, FirstMemory* memory) const {
  for (size_t i = 0; i < states_.size(); ++i) {
    if (states_[i].state->source) continue;
    const size_t bytes = std::max<size_t>(shape_of(states_[i], sizes).bytes(), 1);
    if (memory->data[i].size() >= bytes) continue;
    memory->data[i].assign(bytes, 0);
    memory->filled[i] = TensorView();
  }
}

Code FirstStates::make(size_t index, const int64_t* sizes, const TensorView* output,
                       FirstMemory* memory, TensorView* value, CallError* error) const noexcept {
  const Entry& entry = states_[index];
  constexpr const char* advice = "call with its sizes";
  if (entry.state->source) {
    *value = *output;
    char source[256];
    std::snprintf(source, sizeof source, "output '%s'", entry.state->source->c_str());
    return check_sizes(entry, *output, sizes, source, advice, error);
  }
  TensorView view = shape_of(entry, sizes);
  std::vector<uint8_t>& data = memory->data[index];
  if (data.empty() || view.bytes() > data.size()) {
    return error->set(Code::kNotWarm,
                      "the first value of state '%s' has %zu bytes, and %zu were set aside; warm up "
                      "with the largest sizes of your calls",
                      entry.state->input.c_str(), view.bytes(), data.size());
  }
  view.data = data.data();
  *value = view;
  // Zeros are zeros in any shape.
  if (entry.state->initial != Initial::kStored) return Code::kOk;
  TensorView& filled = memory->filled[index];
  if (filled.data == nullptr || !same_shape(filled, view)) repeat(entry.stored, view);
  filled = view;
  return check_sizes(entry, view, sizes, "what is stored", advice, error);
}

Code FirstStates::check(size_t index, const TensorView& value, const int64_t* sizes,
                        CallError* error, const char* source, const char* advice) const noexcept {
  return check_sizes(states_[index], value, sizes, source, advice, error);
}

Code FirstStates::check_left(size_t index, const TensorView& value,
                             CallError* error) const noexcept {
  if (is_finite(value) || !find_non_finite(value).nan) return Code::kOk;
  return error->set(Code::kBackend,
                    "stage '%s' made NaN of its state ('%s'); the state before is kept",
                    stage_.c_str(), states_[index].state->output.c_str());
}

Code FirstStates::check_sizes(const Entry& entry, const TensorView& value, const int64_t* sizes,
                              const char* source, const char* advice,
                              CallError* error) const noexcept {
  for (size_t axis = 0; axis < value.rank; ++axis) {
    const int64_t length = value.shape[axis];
    const int place = entry.places[axis];
    const bool grows = entry.state->axis && static_cast<size_t>(*entry.state->axis) == axis;
    if (grows && place >= 0) {
      const auto at = static_cast<size_t>(place);
      if (allows(dimensions_[at], length)) continue;
      return error->set(Code::kInput,
                        "state '%s' of stage '%s': %s has grown to %lld along '%s', which takes %s; "
                        "%s",
                        entry.state->input.c_str(), stage_.c_str(), source,
                        static_cast<long long>(length), names_[at].c_str(), spans_[at].c_str(),
                        advice);
    }
    int64_t expected = entry.spec.shape[axis].size;
    if (place >= 0) expected = sizes[place] == kUnknownSize ? length : sizes[place];
    if (length == expected) continue;
    return error->set(Code::kInput,
                      "state '%s' of stage '%s': %s has size %lld along axis %zu (%s), this call "
                      "has %lld; %s",
                      entry.state->input.c_str(), stage_.c_str(), source,
                      static_cast<long long>(length), axis, entry.axes[axis].c_str(),
                      static_cast<long long>(expected), advice);
  }
  return Code::kOk;
}

}  // namespace mmedge::runtime
