// A multi-rate run of a bundle: sensors push at their own rates, fused results come out.
//
// mmedge/stream/stream.py is the same in Python, and docs/reference/streams.md has the rules. A
// stream here has no thread: it works inside push(), forget(), reset() and advance_to(), on the
// thread that calls them, and stages run there too. Call it from one thread at a time. Making one
// may fail and sets aside all that it needs; what follows is noexcept and allocates nothing (what
// the stage runner does in its runs is its own share).
#ifndef MMEDGE_RUNTIME_STREAM_STREAM_H_
#define MMEDGE_RUNTIME_STREAM_STREAM_H_

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "execution/call_error.h"
#include "spec.h"
#include "stream/compute.h"
#include "stream/options.h"
#include "stream/relation_rules.h"
#include "stream/result.h"
#include "stream/sanity.h"
#include "stream/stage_runner.h"
#include "stream/state_machine.h"
#include "stream/stream_clock.h"
#include "stream/ticker.h"

namespace mmedge::runtime::stream {

class Stream {
 public:
  // `start` is the first time of a simulated clock. `manifest` and `runner` stay as long as the
  // stream. Throws Error(kInput): options that Python refuses, or a dimension without largest size.
  Stream(const Manifest& manifest, StageRunner* runner, const StreamOptions& options, Clock clock,
         double start = 0.0);

  // A sample of a modality, by its place in the manifest: its inputs in the modality's order, or
  // chunks of rows under a window. They are copied. `t`: when it was measured; none: now. The
  // sample's number is in `seq`, which may be null. kInput: it does not fit, and nothing changed.
  // kBackend: the stream is closed, or its clock has failed. message() says more.
  Code push(size_t modality, const TensorView* inputs, std::optional<double> t,
            int64_t* seq) noexcept;
  // Withdraws the samples of a modality: no result that is taken after this has used them.
  Code forget(size_t modality) noexcept;
  // Begins as if nothing had been pushed; counters and ticks go on.
  Code reset() noexcept;
  void close() noexcept;
  bool is_closed() const noexcept { return core_->closed; }

  // Does what is due. On a simulated clock it is `time` then; on another `time` is not looked at, and
  // what comes due while stages run waits for the next call: ticks, and steps of a loop.
  Code advance_to(double time) noexcept;
  // When something is due next, if nothing is pushed until then, in seconds of the clock; infinity:
  // nothing is.
  double next_time() const noexcept;
  double now() const noexcept { return time_.last - time_.offset; }

  // The oldest result that there is, or the newest, passing over the others; null: there is none.
  // It stays until the next call.
  const Result* take(bool latest) noexcept;
  // A snapshot of all counters, until the next call.
  const Health& health() noexcept;

  size_t modalities() const noexcept { return tracks_.size(); }
  // Fusion stages with state, of which results have notes.
  const FusionStates& states() const noexcept { return core_->states(); }
  const char* message() const noexcept { return error_.text; }

 private:
  friend class ThreadedStream;  // does the same work on threads

  enum class Event : uint8_t { kEncoded, kFused, kStepped, kTick, kAlarm };
  struct Planned {
    double time;
    int64_t number;  // those of one time happen in the order in which they were planned
    Event event;
    size_t modality;
    Item* item;
  };

  // The time now. A clock that was set moves what is planned; one that fails ends the stream.
  double read_clock() noexcept;
  void plan_tick() noexcept;
  bool is_patient(const Planned& planned) const noexcept;
  void take_step() noexcept;
  void end_loop(LoopEnd why) noexcept;
  void plan(double time, Event event, size_t modality = 0, Item* item = nullptr) noexcept;
  void plan_alarm() noexcept;
  void cancel_fusion() noexcept;
  void start() noexcept;
  void wake() noexcept;
  // Lets the next event happen if it is due; says whether one did. Ticks and steps of a loop have a
  // limit of their own: where stages take longer than a period, one call would go on for ever with
  // those that come due meanwhile, and nothing could be pushed between two steps.
  bool step(double limit, double patient_limit) noexcept;
  void happen(const Planned& planned) noexcept;
  Code check_open() noexcept;

  StreamClock time_;
  Jumps jumps_;
  DimensionTable table_;
  RelationRules rules_;
  std::vector<ModalityLayout> layouts_;
  std::vector<std::unique_ptr<ModalityState>> tracks_;
  std::vector<Checker> checkers_;
  std::unique_ptr<StreamStateMachine> core_;
  std::unique_ptr<Compute> compute_;
  std::optional<Ticker> ticker_;
  std::vector<Planned> planned_;
  int64_t count_ = 0;
  std::optional<double> alarm_;  // the last one that was planned
  Fused fused_;
  int64_t fused_serial_ = -1;
  Health health_;
  std::vector<int64_t> sizes_;
  CallError error_;
};

}  // namespace mmedge::runtime::stream

#endif  // MMEDGE_RUNTIME_STREAM_STREAM_H_
