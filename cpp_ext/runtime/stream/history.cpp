// The samples that Exact and Interpolate choose from.
#include "stream/history.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace mmedge::runtime::stream {
namespace {

// Samples farther apart than so many periods, or seconds where no rate is stated, lie around a gap.
constexpr double kPeriods = 2.5, kWide = 1.0;

}  // namespace

History::History(const ModalityLayout& layout, std::optional<double> limit, size_t depth)
    : layout_(layout),
      is_exact_(layout.policy.kind == Policy::Kind::kExact),
      limit_(limit.value_or(std::numeric_limits<double>::infinity())),
      tolerance_(layout.policy.tolerance_ms / 1000.0),
      usual_(layout.modality->rate_hz ? kPeriods / *layout.modality->rate_hz : kWide),
      depth_(depth) {
  if (is_exact_) limit_ = std::min(limit_, tolerance_);
  samples_.reserve(depth + 1);
  gone_.reserve(depth + 1);
}

bool History::has(double t) const noexcept {
  return std::any_of(samples_.begin(), samples_.end(),
                     [t](const Sample* sample) { return sample->t == t; });
}

size_t History::first_after(double t) const noexcept {
  return static_cast<size_t>(
      std::upper_bound(samples_.begin(), samples_.end(), t,
                       [](double time, const Sample* sample) { return time < sample->t; }) -
      samples_.begin());
}

Sample* History::insert(Sample* sample) noexcept {
  const auto place =
      std::lower_bound(samples_.begin(), samples_.end(), sample->t,
                       [](const Sample* each, double time) { return each->t < time; });
  samples_.insert(place, sample);
  if (samples_.size() <= depth_) return nullptr;
  Sample* oldest = samples_.front();
  samples_.erase(samples_.begin());
  evicted_ = oldest->t;
  return oldest;
}

bool History::is_useful(double t) const noexcept {
  if (samples_.size() >= depth_ && t < samples_.front()->t) return false;
  if (!asked_until_) return true;
  if (is_exact_) return t >= *asked_until_ - tolerance_ - kSlack;
  // It is, unless a sample lies between it and the last trigger.
  const size_t at = first_after(t);
  return at == samples_.size() || samples_[at]->t > *asked_until_;
}

bool History::is_near(double t, const Sample* sample) const noexcept {
  return std::fabs(t - sample->t) <= limit_ + kSlack;
}

bool History::is_settled(double t) const noexcept {
  if (samples_.empty()) return false;
  if (!is_exact_) return samples_.back()->t >= t;
  if (samples_.back()->t > t + limit_) return true;
  return std::any_of(samples_.begin(), samples_.end(),
                     [this, t](const Sample* sample) { return is_near(t, sample); });
}

void History::pick(double t, Pick* pick) noexcept {
  asked_until_ = asked_until_ ? std::max(t, *asked_until_) : t;
  if (samples_.empty()) return;
  // Those that are near lie side by side.
  size_t begin = 0;
  while (begin < samples_.size() && !is_near(t, samples_[begin])) ++begin;
  size_t end = begin;
  while (end < samples_.size() && is_near(t, samples_[end])) ++end;
  if (is_exact_) {
    for (size_t i = end; i-- > begin;) {
      if (pick->before == nullptr ||
          std::fabs(t - samples_[i]->t) < std::fabs(t - pick->before->t)) {
        pick->before = samples_[i];
      }
    }
  } else {
    mix(t, begin, end, pick);
  }
  if (misses(t, *pick)) {
    *pick = Pick();
    pick->absent.add("history_too_short: the trigger's time is ")
        .add_number(samples_.front()->t - t)
        .add(" s before the oldest of ")
        .add_whole(static_cast<int64_t>(samples_.size()))
        .add(" samples kept; raise the stream's depth, ")
        .add_whole(static_cast<int64_t>(depth_))
        .add(", or push fewer samples a second");
  } else if (pick->before == nullptr) {
    double nearest = t - samples_.front()->t;
    for (const Sample* sample : samples_) {
      if (std::fabs(t - sample->t) < std::fabs(nearest)) nearest = t - sample->t;
    }
    pick->absent.add("too_old: no sample within ")
        .add_number(limit_)
        .add(" s, the nearest is ")
        .add_number(nearest)
        .add(" s old");
  }
}

bool History::misses(double t, const Pick& pick) const noexcept {
  if (!evicted_ || t >= samples_.front()->t) return false;
  if (*evicted_ >= t) return true;
  if (t - *evicted_ > limit_ + kSlack) return false;
  if (is_exact_ && pick.before != nullptr) return t - *evicted_ < pick.before->t - t;
  return true;
}

void History::mix(double t, size_t begin, size_t end, Pick* pick) const noexcept {
  const size_t at = std::clamp(first_after(t), begin, end);
  Sample* before = at > begin ? samples_[at - 1] : nullptr;
  Sample* after = at < end ? samples_[at] : nullptr;
  if (before == nullptr && after == nullptr) return;
  if (before != nullptr && before->t == t) {
    pick->before = before;
    return;
  }
  if (before == nullptr || after == nullptr) {
    pick->before = before != nullptr ? before : after;
    pick->note.add("held, not interpolated: no usable sample ")
        .add(before != nullptr ? "after" : "before")
        .add(" the trigger");
    return;
  }
  for (size_t place : layout_.dimensions) {
    if (before->sizes[place] == after->sizes[place]) continue;
    pick->before = t - before->t <= after->t - t ? before : after;
    pick->note = "held, not interpolated: its neighbors have different sizes";
    return;
  }
  pick->before = before;
  pick->after = after;
  const double apart = after->t - before->t;
  if (apart > usual_) {
    pick->note.add("interpolated over ").add_number(apart).add(" s without a usable sample");
  }
}

bool History::discard(const Sample* sample) noexcept {
  const auto place = std::find(samples_.begin(), samples_.end(), sample);
  if (place == samples_.end()) return false;
  samples_.erase(place);
  return true;
}

void History::clear(const SourceClock* keep) noexcept {
  gone_.clear();
  size_t kept = 0;
  for (Sample* sample : samples_) {
    if (keep != nullptr && keep->is_suspect(sample->t, sample->arrival)) {
      samples_[kept++] = sample;
    } else {
      gone_.push_back(sample);
    }
  }
  samples_.resize(kept);
  evicted_.reset();
  asked_until_.reset();
}

}  // namespace mmedge::runtime::stream
