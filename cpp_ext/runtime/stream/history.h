// The samples that Exact and Interpolate choose from, in order of their stamps.
#ifndef MMEDGE_RUNTIME_STREAM_HISTORY_H_
#define MMEDGE_RUNTIME_STREAM_HISTORY_H_

#include <optional>
#include <vector>

#include "stream/sample.h"
#include "stream/source_clock.h"
#include "stream/text.h"

namespace mmedge::runtime::stream {

// What stands for a time: one sample, two to interpolate between, or none.
struct Pick {
  Sample* before = nullptr;
  Sample* after = nullptr;  // only of two
  Text absent;              // why there is none
  Text note;                // what a reader should know about what there is
};

// At most `depth` samples: mmedge/stream/history.py.
class History {
 public:
  // `limit`: farthest in seconds that a sample may lie from the time it stands for; none: any.
  History(const ModalityLayout& layout, std::optional<double> limit, size_t depth);

  bool empty() const noexcept { return samples_.empty(); }
  Sample* newest() const noexcept { return samples_.back(); }
  // Whether a sample of this stamp is kept.
  bool has(double t) const noexcept;
  // Puts a sample in its place; the oldest if it has to make room, else null.
  Sample* insert(Sample* sample) noexcept;
  // Whether a trigger after the last one can still choose a sample, which came late.
  bool is_useful(double t) const noexcept;
  // Whether waiting for more samples would be of no use for time `t`.
  bool is_settled(double t) const noexcept;
  // What stands for time `t`.
  void pick(double t, Pick* pick) noexcept;
  // Takes a sample out; whether it was kept.
  bool discard(const Sample* sample) noexcept;
  // Begins anew, with samples that `keep` suspects (null: none). The others are in gone().
  void clear(const SourceClock* keep) noexcept;
  const std::vector<Sample*>& gone() const noexcept { return gone_; }

 private:
  size_t first_after(double t) const noexcept;
  bool is_near(double t, const Sample* sample) const noexcept;
  bool misses(double t, const Pick& pick) const noexcept;
  void mix(double t, size_t begin, size_t end, Pick* pick) const noexcept;

  const ModalityLayout& layout_;
  bool is_exact_;
  double limit_, tolerance_, usual_;
  size_t depth_;
  std::vector<Sample*> samples_, gone_;
  std::optional<double> evicted_;  // newest stamp of what had to make room
  std::optional<double> asked_until_;
};

}  // namespace mmedge::runtime::stream

#endif  // MMEDGE_RUNTIME_STREAM_HISTORY_H_
