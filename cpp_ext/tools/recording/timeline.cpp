// Finds gaps, and skips them.
#include "recording/timeline.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "recording/json_text.h"
#include "recording/sample.h"

namespace mmedge::tools {
namespace {

// Seconds without any sample that are a gap, and what is left of one that is skipped.
constexpr double kGap = 10, kLeft = 1;
// Seconds between a stamp and its arrival that no sensor takes.
constexpr double kApart = 86'400;

std::string short_number(double value, const char* format) {
  char text[32];
  std::snprintf(text, sizeof text, format, value);
  return text;
}

}  // namespace

double Timeline::silent() const {
  double sum = 0;
  for (const auto& gap : gaps) sum += gap.second;
  return sum;
}

std::string Timeline::text() const {
  std::string text = std::to_string(samples) + " samples over " + short_number(seconds, "%.4g") +
                     " s";
  if (!gaps.empty()) {
    text += ", of them " + short_number(silent(), "%.4g") + " s in " +
            std::to_string(gaps.size()) + " gaps";
  }
  return text;
}

Timeline read_timeline(const Recording& recording,
                       const std::function<void(const Recorded&)>& look) {
  Timeline timeline;
  double last = 0, t = 0;
  int64_t apart = 0;
  recording.read([&](const Recorded& sample) {
    if (timeline.samples == 0) timeline.origin = last = sample.arrival;
    if (sample.arrival - last > kGap) timeline.gaps.emplace_back(last, sample.arrival - last);
    last = sample.arrival;
    t = sample.t;
    apart += std::abs(sample.arrival - sample.t) > kApart;
    ++timeline.samples;
    look(sample);
  });
  if (timeline.samples > 0 && apart == timeline.samples) {
    throw refusal(recording.name,
                  "every stamp is more than a day from its arrival (the last one " +
                      short_number(t, "%g") + " s, arrival " + short_number(last, "%g") +
                      " s): they are of two clocks or units; record both on one, in seconds");
  }
  timeline.seconds = last - timeline.origin;
  return timeline;
}

void read_without_gaps(const Recording& recording, const Timeline& timeline,
                       const std::function<void(const Recorded&)>& take) {
  double shift = 0;
  size_t next = 0;
  recording.read([&](const Recorded& sample) {
    while (next < timeline.gaps.size() && sample.arrival > timeline.gaps[next].first) {
      shift += timeline.gaps[next++].second - kLeft;
    }
    Recorded moved = sample;
    moved.t -= shift;
    moved.arrival -= shift;
    take(moved);
  });
}

void check_gaps(const Recording& recording, const Timeline& timeline) {
  if (static_cast<int64_t>(2 * timeline.gaps.size()) < timeline.samples) return;
  const auto longest =
      std::max_element(timeline.gaps.begin(), timeline.gaps.end(),
                       [](const auto& a, const auto& b) { return a.second < b.second; });
  throw refusal(recording.name,
                timeline.text() + ", the longest " + short_number(longest->second, "%.4g") +
                    " s after arrival " + JsonText().number(longest->first).text() +
                    ": so few samples in so much time are no seconds of a sensor; if times are in "
                    "milliseconds or nanoseconds record them in seconds. Leave out --skip-gaps to "
                    "play all of it");
}

}  // namespace mmedge::tools
