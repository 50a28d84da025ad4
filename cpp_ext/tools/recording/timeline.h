// How long a recording is, where nothing comes for long, and how large its values are: one reading
// before it is played. mmedge/recording/timeline.py in C++.
#ifndef MMEDGE_TOOLS_RECORDING_TIMELINE_H_
#define MMEDGE_TOOLS_RECORDING_TIMELINE_H_

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "recording/recording.h"

namespace mmedge::tools {

struct Timeline {
  int64_t samples = 0;
  double origin = 0;   // the first arrival
  double seconds = 0;  // from the first arrival to the last
  // The arrival before each time of more than 10 s without any sample, and how long it is.
  std::vector<std::pair<double, double>> gaps;

  double silent() const;  // seconds of all gaps together
  std::string text() const;
};

// Reads all of a recording, and hands each sample to `look`. Throws Error(kInput): it cannot be
// read, or its stamps and arrivals are of two clocks.
Timeline read_timeline(const Recording& recording, const std::function<void(const Recorded&)>& look);

// Hands samples to `take`, with each gap shortened to a second; samples keep their ages.
void read_without_gaps(const Recording& recording, const Timeline& timeline,
                       const std::function<void(const Recorded&)>& take);

// Throws Error(kInput) where so much of the recording is gaps that its times must be in another unit.
void check_gaps(const Recording& recording, const Timeline& timeline);

}  // namespace mmedge::tools

#endif  // MMEDGE_TOOLS_RECORDING_TIMELINE_H_
