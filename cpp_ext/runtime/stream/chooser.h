// What stands for each modality in the result of a trigger, and what is waited for until then.
#ifndef MMEDGE_RUNTIME_STREAM_CHOOSER_H_
#define MMEDGE_RUNTIME_STREAM_CHOOSER_H_

#include <memory>
#include <optional>
#include <vector>

#include "stream/modality_state.h"
#include "stream/options.h"

namespace mmedge::runtime::stream {

// A reason to make a result: a tick, or an item of a modality that just came.
struct Trigger {
  double t = 0;
  double arrival = 0;
  double begin = 0;  // what its latency counts from
  ModalityState* track = nullptr;
  Item* item = nullptr;
  // The number of the first jump of the stream's time since it came. What those span never passed, so
  // `arrival` and `begin` are moved by them; `t` is not, which is compared with the stamps of what came
  // before.
  int64_t first_jump = 0;

  // Goes on after a jump of the time.
  void follow_clock(double ahead) noexcept {
    arrival += ahead;
    begin += ahead;
  }
};

// The trigger at work: mmedge/stream/choose.py.
struct Active {
  struct Part {
    std::optional<Choice> request;  // an item that it waits for
    std::optional<double> until;    // of what a policy's wait_ms asks for
    bool gave_up = false;           // an encoding failed for this trigger
    std::optional<Choice> choice;
  };
  struct Hold {
    ModalityState* track;
    Item* item;
  };

  bool is_there = false;
  Trigger trigger;
  std::optional<double> patience;  // until when it waits for optional modalities
  std::optional<double> alarm;     // the first time that it waits for
  // A stage runs for the first time, or a clock was set meanwhile: its latency says nothing of those to
  // come.
  bool cold = false;
  double begun = 0;
  std::vector<Part> parts;  // by modality
  std::vector<int64_t> sizes;
  std::vector<int> owners;  // of each size: the modality
  bool fusing = false, handed_out = false;
  std::vector<Hold> holds;
  std::optional<double> first_step;  // when the first step of a loop ended

  // Begins with a trigger, and keeps its memory.
  void begin(const Trigger& new_trigger, std::optional<double> new_patience) noexcept;
  // Goes on after a jump of the time as if there had been none.
  void follow_clock(double ahead) noexcept;
  // Sets the alarm, unless it rings before that.
  void wake_at(double time) noexcept { alarm = alarm && *alarm <= time ? *alarm : time; }
  void hold(ModalityState* track, Item* item) noexcept {
    track->hold(item);
    holds.push_back({track, item});
  }
};

// Chooses for the trigger at work; it keeps nothing of it.
class Chooser {
 public:
  Chooser(bool has_deadline, bool has_many_triggers) noexcept
      : has_deadline_(has_deadline), has_many_triggers_(has_many_triggers) {}

  // Asks a modality for what its policy chooses, or finds that it is to be waited for.
  void begin(Active* active, ModalityState* track, double now) const noexcept;
  // What stands for a modality, in its part's `choice`. False: that is to be waited for.
  bool choose(Active* active, ModalityState* track, double now) const noexcept;

 private:
  bool is_awaited(const Active& active, const ModalityState& track) const noexcept;
  bool waits(Active* active, const ModalityState& track, double due, double now,
             const Item* instead) const noexcept;
  void choose_late(const ModalityState& track, const Text& absent, Choice* choice) const noexcept;
  void choose_failed(ModalityState* track, double t, const Text& message,
                     Choice* choice) const noexcept;
  double until(const Active& active, const ModalityState& track) const noexcept;
  void ask(Active* active, ModalityState* track, Choice choice) const noexcept;
  void ask_now(Active* active, ModalityState* track) const noexcept;

  bool has_deadline_, has_many_triggers_;
};

// Collects the sizes of what is used. False: two modalities do not go together; `fault` says why.
bool merge_sizes(Active* active, const std::vector<std::unique_ptr<ModalityState>>& tracks,
                 const DimensionTable& table, const SizeRules* rules, std::vector<int64_t>* scratch,
                 Text* fault) noexcept;

}  // namespace mmedge::runtime::stream

#endif  // MMEDGE_RUNTIME_STREAM_CHOOSER_H_
