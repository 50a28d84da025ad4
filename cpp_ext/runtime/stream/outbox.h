// The results that wait to be fetched.
#ifndef MMEDGE_RUNTIME_STREAM_OUTBOX_H_
#define MMEDGE_RUNTIME_STREAM_OUTBOX_H_

#include <memory>
#include <vector>

#include "stream/result.h"
#include "stream/slots.h"

namespace mmedge::runtime::stream {

// At most `keep` results, oldest first: mmedge/stream/outbox.py. Their memory is set aside when it
// is made; the result that was taken last stays until the next is.
class Outbox {
 public:
  int64_t total = 0;     // results so far
  int64_t misses = 0;    // fresh ones among them that were later than the deadline
  int64_t losses = 0;    // those that nobody fetched

  // `empty` is copied for each place, with the memory of its vectors. `slots` are of outputs.
  Outbox(size_t keep, const Result& empty, Slots* slots);

  bool has_results() const noexcept { return count_ > 0; }
  // A place for the next result; put() adds it.
  Result* next() noexcept { return places_[order_[count_]].get(); }
  // Holds the slot of its outputs. Of too many, the oldest is lost.
  void put(double now) noexcept;
  // The oldest of the results that there are, or the newest.
  const Result* take(double now, bool latest) noexcept;
  // Loses all results, or those that used a modality (-1: all); what they told of drops is added to
  // `dropped`, by modality.
  void drop(int modality, std::vector<DropCounts>* dropped) noexcept;

 private:
  void pass_over() noexcept;
  void remove(size_t at) noexcept;

  size_t keep_;
  Slots* slots_;
  std::vector<std::unique_ptr<Result>> places_;
  std::vector<size_t> order_;  // results that wait, oldest first; then free places
  std::vector<double> since_;  // of each place
  size_t count_ = 0;
  int taken_slot_ = -1;
};

// Whether a result used a sample of a modality.
inline bool has_used(const Result& result, size_t modality) {
  return !result.modalities[modality].samples.empty();
}

// Copies a result, and gives the copy as much memory for samples: later copies to it allocate nothing.
void copy_with_memory(const Result& from, Result* to);

}  // namespace mmedge::runtime::stream

#endif  // MMEDGE_RUNTIME_STREAM_OUTBOX_H_
