// The stamps of one source.
#include "stream/source_clock.h"

#include <algorithm>

namespace mmedge::runtime::stream {
namespace {

// Least ratio of the time in which samples come to the time that their stamps span. What was held
// up on its way, or is delivered again, comes faster than it was measured.
constexpr double kPace = 0.5;
// Where the stream's clock stood still meanwhile: seconds that they are all behind.
constexpr double kFar = 1.0;
// A stamp that is ahead of its arrival by more seconds than this, and by so much more than any of
// the last, is a wrong one unless so many in a row are.
constexpr double kAhead = 0.05;
constexpr size_t kAheadSamples = 3;

}  // namespace

DropReason SourceClock::fault(double t, double now) const noexcept {
  if (t > now + future_ || is_ahead(t, now)) return DropReason::kFuture;
  if (is_set_back(t, now)) return DropReason::kNone;
  if (limit_ && now - behind_ - t > *limit_ + kSlack) return DropReason::kTooOld;
  if (newest_ && t == *newest_) return DropReason::kDuplicate;
  for (size_t i = 0; i < suspect_count_; ++i) {
    if (t == suspects_[i].t) return DropReason::kDuplicate;
  }
  return DropReason::kNone;
}

bool SourceClock::is_set_back(double t, double now) const noexcept {
  if (!newest_ || t >= *newest_ || suspect_count_ + 1 < kSetBack) return false;
  const Suspect& first = suspects_[0];
  if (t <= suspects_[suspect_count_ - 1].t) return false;
  if (now == first.arrival) return *newest_ - t > kFar;
  return now - first.arrival >= kPace * (t - first.t);
}

bool SourceClock::is_ahead(double t, double now) const noexcept {
  if (t - now <= kAhead || lead_count_ == 0) return false;
  if (t - now <= *std::max_element(leads_, leads_ + lead_count_) + kAhead) return false;
  const bool in_a_row = ahead_count_ > 0 && t > last_ahead_;
  return !in_a_row || ahead_count_ + 1 < kAheadSamples;
}

bool SourceClock::is_suspect(double t, double arrival) const noexcept {
  for (size_t i = 0; i < suspect_count_; ++i) {
    if (suspects_[i].t == t && suspects_[i].arrival == arrival) return true;
  }
  return false;
}

void SourceClock::suspect(double t, double now) noexcept {
  if (is_ahead(t, now)) {
    ahead_count_ = ahead_count_ > 0 && t > last_ahead_ ? ahead_count_ + 1 : 1;
    last_ahead_ = t;
  }
  if (!newest_ || t >= *newest_) return;
  if (suspect_count_ > 0 && t <= suspects_[suspect_count_ - 1].t) {
    if (t == suspects_[suspect_count_ - 1].t) return;
    suspect_count_ = 0;
  }
  if (suspect_count_ == kSetBack - 1) {
    std::copy(suspects_ + 1, suspects_ + suspect_count_, suspects_);
    --suspect_count_;
  }
  suspects_[suspect_count_++] = {t, now};
}

void SourceClock::accept(double t, double now) noexcept {
  newest_ = t;
  suspect_count_ = 0;
  ahead_count_ = 0;
  leads_[next_lead_] = t - now;
  next_lead_ = (next_lead_ + 1) % kLeads;
  lead_count_ = std::min(lead_count_ + 1, kLeads);
  const double late = now - t > 0.0 ? now - t : 0.0;
  lag_ = std::min(lag_, late);
  behind_ = std::min(behind_, late);  // the source may have been set right again
}

void SourceClock::restart(double t, double now) noexcept {
  clear();
  newest_ = t;
  lag_ = now - t > 0.0 ? now - t : 0.0;
  if (limit_ && now - t > *limit_) behind_ = now - t;
}

void SourceClock::clear() noexcept {
  suspect_count_ = 0;
  ahead_count_ = 0;
  lead_count_ = next_lead_ = 0;
  newest_.reset();
  behind_ = lag_ = 0;
}

}  // namespace mmedge::runtime::stream
