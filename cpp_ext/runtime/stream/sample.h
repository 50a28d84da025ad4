// Samples, what encoders are given, and the account of what became of each sample.
#ifndef MMEDGE_RUNTIME_STREAM_SAMPLE_H_
#define MMEDGE_RUNTIME_STREAM_SAMPLE_H_

#include <atomic>
#include <cstdint>
#include <optional>
#include <vector>

#include "stream/drop_reason.h"
#include "stream/layout.h"
#include "stream/state_sequence.h"
#include "stream/text.h"
#include "tensor.h"

namespace mmedge::runtime::stream {

// What an account counts. `holders` are the places it is kept in; at none, it is done with.
struct Counted {
  int holders = 0;
  bool is_settled = false;
  DropReason fate = DropReason::kNone;
};

// One pushed value, or one chunk. It lives in a pool: its memory is used anew once nothing holds it
// and nothing has it pinned.
struct Sample : Counted {
  int64_t seq = 0;
  double t = 0;
  double arrival = 0;           // when it was pushed, in seconds of the stream's clock
  int64_t* sizes = nullptr;     // of each dimension
  TensorView* values = nullptr; // of each input
  // Reasons to keep the memory that are no part of the account.
  std::atomic<int> pins{0};
};

enum class Progress : uint8_t { kNew, kQueued, kRunning, kReady, kFailed };

// What one encoding is made of: one sample, two to interpolate between, or a window's chunks.
struct Item : Counted {
  enum class Build : uint8_t { kValue, kBlend, kRows };

  Build build = Build::kValue;
  Sample** samples = nullptr;
  size_t count = 0;
  double t = 0;              // of the oldest sample or row: ages count from it
  double end = 0;            // of the newest
  int64_t* sizes = nullptr;
  double weight = 0;         // of the second of two samples
  double asked_t = 0;        // of two samples: the time that they stand for
  int64_t first_row = 0;     // of a window: in its first chunk
  int64_t last_row = 0;      // the one behind its last, in its last chunk
  int64_t number = 0;        // of a window: which of its newest chunk's
  int64_t epoch = 0;         // its modality's, when it was made
  Progress progress = Progress::kNew;
  bool pinned = false;       // a trigger waits for it
  int features = -1;         // where its features are; -1: it has none
  int refs = 0;              // holds of the item itself
  std::optional<Turn> turn;  // where it is in the sequence of an encoder with state, once it runs
  int pins = 0;              // a fusion at work reads it, whatever became of its trigger
  Text error;                // why it could not be encoded

  // Whether both are made of the same samples for the same time.
  bool has_key_of(const Item& other) const noexcept;
};

// Says of every sample or window whether it was used, why it was dropped, or is pending.
class SampleAccounting {
 public:
  int64_t pushed = 0, used = 0, pending = 0;
  DropCounts dropped;

  // The number of the next sample.
  int64_t take() noexcept {
    ++pending;
    return pushed++;
  }
  // Counts so many that were never held as dropped.
  void skip(int64_t count, DropReason reason) noexcept;
  // Ends a sample that nobody holds.
  void drop(Counted* sample, DropReason reason) noexcept;
  // Undoes one hold; what is held no more and was not used is dropped.
  void release(Counted* sample, DropReason reason) noexcept;
  // Notes a sample that went into a delivered computation.
  void use(Counted* sample) noexcept;
  // Adds drops that since_last() gave and that nobody was told of.
  void tell_again(const DropCounts& counts) noexcept { since_.add(counts); }
  // Drops by reason since the last call.
  DropCounts since_last() noexcept;

 private:
  DropCounts since_;
};

// The samples of one modality. Their memory is set aside when it is made.
class SamplePool {
 public:
  // Throws std::bad_alloc.
  SamplePool(const ModalityLayout& layout, size_t dimensions, size_t count);

  // One that nothing holds; null where there is none. It is pinned once.
  Sample* take() noexcept;
  // Copies values and sizes to one that take() gave.
  void fill(Sample* sample, const TensorView* values, const int64_t* sizes) const noexcept;
  // One that is never kept: its values stay where they are.
  Sample* passing(const TensorView* values, const int64_t* sizes) noexcept;

 private:
  const ModalityLayout& layout_;
  size_t dimensions_;
  std::vector<Sample> samples_;
  std::vector<TensorView> views_;
  std::vector<int64_t> sizes_;
  std::vector<uint8_t> memory_;
  std::vector<uint8_t*> data_;  // of each sample's inputs
  Sample passing_;
  std::vector<TensorView> passing_views_;
  std::vector<int64_t> passing_sizes_;
  size_t next_ = 0;
};

// The items of one modality.
class ItemPool {
 public:
  // Throws std::bad_alloc.
  ItemPool(size_t dimensions, size_t count, size_t most_samples);

  // A new one that nothing holds; null where all are held. One that nobody comes to hold is made
  // anew, but not by the next calls.
  Item* make() noexcept;
  size_t most_samples() const noexcept { return most_samples_; }

 private:
  size_t dimensions_, most_samples_;
  std::vector<Item> items_;
  std::vector<Sample*> samples_;
  std::vector<int64_t> sizes_;
  size_t next_ = 0;
};

}  // namespace mmedge::runtime::stream

#endif  // MMEDGE_RUNTIME_STREAM_SAMPLE_H_
