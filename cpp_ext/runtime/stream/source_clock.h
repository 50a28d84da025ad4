// The stamps of one source: which are refused, and when they show that its clock was set back.
#ifndef MMEDGE_RUNTIME_STREAM_SOURCE_CLOCK_H_
#define MMEDGE_RUNTIME_STREAM_SOURCE_CLOCK_H_

#include <cstddef>
#include <cstdint>
#include <optional>

#include "stream/drop_reason.h"

namespace mmedge::runtime::stream {

// Seconds by which an age may exceed its limit: float64 seconds since 1970 resolve 0.24 us, so that
// the difference of two stamps may come out above a limit that it equals.
constexpr double kSlack = 1e-6;

// Stamps of a modality's samples, in order of arrival: mmedge/stream/source_clock.py. All times in
// seconds.
class SourceClock {
 public:
  // `limit`: oldest age that may be used; none: any. `future`: how far a stamp may be ahead of now.
  SourceClock(std::optional<double> limit, double future) noexcept
      : limit_(limit), future_(future) {}

  // Why a sample of this stamp is refused whatever it holds; kNone: it is not.
  DropReason fault(double t, double now) const noexcept;
  // Whether a sample of stamp `t` at `now` shows that the clock was set back.
  bool is_set_back(double t, double now) const noexcept;
  // Notes a sample that was dropped or came late.
  void suspect(double t, double now) noexcept;
  // Notes a sample that is newer than all before it.
  void accept(double t, double now) noexcept;
  // Begins anew with the sample that showed that the clock was set back.
  void restart(double t, double now) noexcept;
  // Forgets all stamps.
  void clear() noexcept;

  // Whether stamp and arrival are of a sample behind the newest, one of those that came in a row.
  bool is_suspect(double t, double arrival) const noexcept;
  const std::optional<double>& newest() const noexcept { return newest_; }
  // How far the source's clock is behind since it was set back, if it makes a sample look too old
  // on arrival; 0: it does not.
  double behind() const noexcept { return behind_; }
  // The same by the quickest of its samples since then.
  double lag() const noexcept { return lag_; }

 private:
  // Samples in a row behind the newest that show a clock set back; the last of them is not kept.
  static constexpr size_t kSetBack = 3;
  static constexpr size_t kLeads = 32;

  struct Suspect {
    double t, arrival;
  };

  bool is_ahead(double t, double now) const noexcept;

  std::optional<double> limit_;
  double future_;
  Suspect suspects_[kSetBack - 1];
  size_t suspect_count_ = 0;
  double leads_[kLeads];  // how far the last stamps were ahead of their arrival
  size_t lead_count_ = 0, next_lead_ = 0;
  double last_ahead_ = 0;  // the newest of stamps in a row that were ahead of all before them
  size_t ahead_count_ = 0;
  std::optional<double> newest_;
  double behind_ = 0, lag_ = 0;
};

}  // namespace mmedge::runtime::stream

#endif  // MMEDGE_RUNTIME_STREAM_SOURCE_CLOCK_H_
