// What the states of one stage begin with, and whether those of an earlier call fit.
//
// docs/reference/bundle.md ("State") specifies it; FirstStates of mmedge/execution/state.py is the
// reference.
#ifndef MMEDGE_RUNTIME_EXECUTION_FIRST_STATES_H_
#define MMEDGE_RUNTIME_EXECUTION_FIRST_STATES_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "bundle/samples.h"
#include "execution/call_error.h"
#include "spec.h"

namespace mmedge::runtime {

// The place of each axis' dimension among the manifest's names; -1: the size is fixed.
std::vector<int> dimension_places(const Manifest& manifest, const TensorSpec& spec);

// Memory of first values, by state.
struct FirstMemory {
  std::vector<std::vector<uint8_t>> data;
  std::vector<TensorView> filled;  // what was last written there
};

class FirstStates {
 public:
  // `samples` may be null where nothing is stored. The manifest stays as long as this does.
  FirstStates(const Manifest& manifest, const Stage& stage, std::shared_ptr<const Samples> samples);

  size_t count() const noexcept { return states_.size(); }
  const StateSpec& state(size_t index) const noexcept { return *states_[index].state; }

  FirstMemory make_memory() const;
  // Sets aside what make() needs at these sizes, by dimension; kUnknownSize: nothing in the call has
  // it. Throws std::bad_alloc.
  void reserve(const int64_t* sizes, FirstMemory* memory) const;

  // The first value of a state. `output` is the network's output that it is, where the bundle says
  // so. kInput: what is stored, or the output, has not the sizes of this call; kNotWarm: more memory
  // is needed than was set aside.
  Code make(size_t index, const int64_t* sizes, const TensorView* output, FirstMemory* memory,
            TensorView* value, CallError* error) const noexcept;

  // kInput where a state of an earlier call has not the sizes of this one; in the words of a caller who
  // knows where it came from, and what to do.
  Code check(size_t index, const TensorView& value, const int64_t* sizes, CallError* error,
             const char* source = "the State given",
             const char* advice = "call with the same sizes, or reset() the State") const noexcept;

  // kBackend where what a run left of a state, its next value, is NaN somewhere.
  Code check_left(size_t index, const TensorView& value, CallError* error) const noexcept;

 private:
  struct Entry {
    const StateSpec* state = nullptr;
    TensorSpec spec;
    std::vector<int> places;
    std::vector<std::string> axes;  // in messages
    TensorView stored;  // without data where nothing is
  };

  TensorView shape_of(const Entry& entry, const int64_t* sizes) const noexcept;
  Code check_sizes(const Entry& entry, const TensorView& value, const int64_t* sizes,
                   const char* source, const char* advice, CallError* error) const noexcept;

  std::string stage_;
  std::shared_ptr<const Samples> samples_;
  std::vector<Entry> states_;
  std::vector<std::string> names_, spans_;  // of dimensions
  std::vector<Dimension> dimensions_;
};

}  // namespace mmedge::runtime

#endif  // MMEDGE_RUNTIME_EXECUTION_FIRST_STATES_H_
