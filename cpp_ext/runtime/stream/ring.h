// Windows over chunks of rows: keeps the chunks that coming windows need, and sees missing rows.
#ifndef MMEDGE_RUNTIME_STREAM_RING_H_
#define MMEDGE_RUNTIME_STREAM_RING_H_

#include <optional>
#include <vector>

#include "stream/sample.h"
#include "stream/text.h"

namespace mmedge::runtime::stream {

// Windows that one chunk may make; of more, the newest.
constexpr int64_t kMostWindows = 1024;

// Rows are counted from the first chunk; a window covers rows [end - length, end):
// mmedge/stream/ring.py.
class Ring {
 public:
  Ring(const ModalityLayout& layout, size_t chunks);

  // Whether rows are missing between the newest chunk and `sample`; says why. Ask once for each
  // chunk, before it is added: without a stated rate, the time between chunks is learned here.
  bool has_gap(const Sample& sample, Text* why) noexcept;
  // Appends a chunk, for which there is room. Its windows are made by make_window().
  void add(Sample* sample) noexcept;
  // New windows of the chunk that was added last, and how many were left out before them.
  int64_t windows() const noexcept { return windows_; }
  int64_t left_out() const noexcept { return left_out_; }
  // The new window of this number, from 0. False: it has more chunks than an item holds.
  bool make_window(int64_t number, Item* item, size_t most_samples) const noexcept;
  // Ends adding: chunks that no coming window reaches are in gone().
  void drop_unreachable() noexcept;
  // Whether a chunk of this stamp and content is held already, so that no row is missing.
  bool repeats(const Sample& sample) const noexcept;
  // Begins anew, for a reason; the chunks that were kept are in gone().
  void clear(const Text& why) noexcept;
  const std::vector<Sample*>& gone() const noexcept { return gone_; }
  bool is_full() const noexcept { return chunks_.size() == most_chunks_; }
  // Whether there has been no window yet; how far the first is, and why it began anew.
  bool is_filling(Text* how_far) const noexcept;
  // Writes the rows of a window one after the other; `inputs` have their memory.
  void join(const Item& window, TensorView* inputs) const noexcept;

 private:
  static constexpr size_t kIntervals = 15;

  struct Chunk {
    int64_t begin, end;  // its rows
    Sample* sample;
  };

  int64_t count(const Sample& sample) const noexcept;
  double time(const Sample& sample, int64_t row) const noexcept;
  void set_newest(Sample* sample) noexcept;

  const ModalityLayout& layout_;
  int64_t length_, hop_;
  int64_t least_;  // end of the first window
  std::optional<double> max_gap_, row_;
  double first_interval_;
  double intervals_[kIntervals];  // seconds that a row took, where that is not stated
  size_t interval_count_ = 0, next_interval_ = 0;
  size_t most_chunks_;
  std::vector<Chunk> chunks_;
  std::vector<Sample*> gone_;
  Sample* newest_ = nullptr;
  int64_t rows_ = 0, end_ = 0;
  int64_t first_end_ = 0, windows_ = 0, left_out_ = 0;
  Text why_;
};

}  // namespace mmedge::runtime::stream

#endif  // MMEDGE_RUNTIME_STREAM_RING_H_
