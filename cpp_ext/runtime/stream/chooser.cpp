// What stands for each modality in the result of a trigger.
#include "stream/chooser.h"

#include <algorithm>
#include <limits>

namespace mmedge::runtime::stream {

void Active::begin(const Trigger& new_trigger, std::optional<double> new_patience) noexcept {
  is_there = true;
  trigger = new_trigger;
  patience = new_patience;
  alarm.reset();
  cold = fusing = handed_out = false;
  begun = 0;
  for (Part& part : parts) {
    part.request.reset();
    part.until.reset();
    part.gave_up = false;
    part.choice.reset();
  }
  std::fill(sizes.begin(), sizes.end(), kNoSize);
  std::fill(owners.begin(), owners.end(), -1);
  holds.clear();
  first_step.reset();
}

void Active::follow_clock(double ahead) noexcept {
  trigger.follow_clock(ahead);
  begun += ahead;
  if (first_step) *first_step += ahead;
  for (Part& part : parts) {
    if (part.until) *part.until += ahead;
  }
  if (patience) *patience += ahead;
  if (alarm) *alarm += ahead;
}

void Chooser::begin(Active* active, ModalityState* track, double now) const noexcept {
  const Trigger& trigger = active->trigger;
  Active::Part& part = active->parts[track->place];
  const double last = track->wait != 0.0 ? until(*active, *track)
                                         : -std::numeric_limits<double>::infinity();
  if (trigger.track == track && trigger.item != nullptr) {
    Choice choice;
    choice.item = trigger.item;
    track->is_absent(trigger.item, trigger.t, true, &choice.absent);
    ask(active, track, choice);
  } else if (track->lazy && now < last && !track->is_settled(trigger.t)) {
    part.until = last;
  } else if (track->lazy) {
    ask_now(active, track);
  } else if (now < last) {
    Choice choice;
    choice.item = track->unready(trigger.t);
    if (choice.item == nullptr) return;
    part.until = last;
    ask(active, track, choice);
  }
}

bool Chooser::choose(Active* active, ModalityState* track, double now) const noexcept {
  const double t = active->trigger.t;
  Active::Part& part = active->parts[track->place];
  part.choice.reset();
  if (part.until && is_awaited(*active, *track)) {
    if (now < *part.until) {
      active->wake_at(*part.until);
      return false;
    }
    // What is ready, or below what a history has now.
    part.request.reset();
  }
  if (part.until && track->lazy && !part.request) ask_now(active, track);
  Choice& choice = part.choice.emplace();
  if (part.request) {
    const Choice& request = *part.request;
    if (request.item == nullptr || request.item->progress == Progress::kReady) {
      choice = request;
      return true;
    }
    if (request.item->progress == Progress::kFailed) {
      choose_failed(track, t, request.item->error, &choice);
      return true;
    }
    // Where a policy matches samples in time, none but the one asked for will do.
    const Item* instead = track->matches_times() ? nullptr : track->ready;
    if (waits(active, *track, track->expected_end(request.item, now), now, instead)) {
      part.choice.reset();
      return false;
    }
    choice.item = track->older(t);
    if (choice.item != nullptr) {
      choice.note = "an older value: the results would have to wait for the encoding of the newest";
      return true;
    }
    if (has_deadline_) {
      choose_late(*track, "deadline: its encoding would take too long", &choice);
      return true;
    }
    Text why;
    if (!track->is_absent(track->ready, t, false, &why)) why = "late";
    why.add("; its encoder has run for ").add_number(now - track->started).add(" s");
    choose_late(*track, why, &choice);
    return true;
  }
  Text absent;
  if (!track->is_absent(track->ready, t, false, &absent) && track->encoder_error.empty()) {
    choice.item = track->ready;
    if (part.until && track->unready(t) != nullptr) {
      choice.note.add("a newer one was still being encoded after ")
          .add_number(track->wait)
          .add(" s");
    }
    return true;
  }
  std::optional<double> due;
  if (!part.gave_up) due = track->due(t, now);
  if (due && waits(active, *track, *due, now, track->ready)) {
    part.choice.reset();
    return false;
  }
  if (!track->encoder_error.empty()) {
    choose_failed(track, t, track->encoder_error, &choice);
    return true;
  }
  if (due) absent.add("; a newer one is still being encoded");
  choose_late(*track, absent, &choice);
  return true;
}

bool Chooser::is_awaited(const Active& active, const ModalityState& track) const noexcept {
  const std::optional<Choice>& request = active.parts[track.place].request;
  if (!request) return track.lazy && !track.is_settled(active.trigger.t);
  if (track.lazy || request->item == nullptr) return false;
  const Progress progress = request->item->progress;
  return progress == Progress::kNew || progress == Progress::kQueued ||
         progress == Progress::kRunning;
}

bool Chooser::waits(Active* active, const ModalityState& track, double due, double now,
                    const Item* instead) const noexcept {
  if (track.required) return true;
  if (!track.encoder_error.empty() && !active->parts[track.place].request) return false;
  const bool is_other = active->trigger.track != &track;
  const bool by_patience =
      has_deadline_ ? has_many_triggers_ || is_other : instead != nullptr && is_other;
  std::optional<double> limit = active->patience;
  if (!by_patience) limit = track.overdue(now);
  if (!limit || now >= *limit || (by_patience && due > *limit)) return false;
  active->wake_at(*limit);
  return true;
}

void Chooser::choose_late(const ModalityState& track, const Text& absent,
                          Choice* choice) const noexcept {
  choice->item = track.repeats ? track.ready : nullptr;
  choice->absent = absent;
}

void Chooser::choose_failed(ModalityState* track, double t, const Text& message,
                            Choice* choice) const noexcept {
  Text absent("encoder_error: ");
  absent.add(message);
  Item* last_good = track->last_good(t);
  if (last_good == nullptr) {
    choose_late(*track, absent, choice);
    return;
  }
  absent.add("; its last good value stands in, age ").add_number(track->age(*last_good, t)).add(" s");
  choice->item = last_good;
  choice->absent = absent;
  choice->stands_in = true;
}

double Chooser::until(const Active& active, const ModalityState& track) const noexcept {
  const double until = active.trigger.arrival + track.wait;
  if (!has_deadline_ || !active.patience || track.required) return until;
  return std::min(until, *active.patience);
}

void Chooser::ask_now(Active* active, ModalityState* track) const noexcept {
  Choice choice;
  track->choose(active->trigger.t, &choice);
  ask(active, track, choice);
}

void Chooser::ask(Active* active, ModalityState* track, Choice choice) const noexcept {
  if (!choice.absent.empty() && !track->repeats) {
    choice.item = nullptr;
    choice.note.clear();
  }
  if (!track->encoder_error.empty() &&
      (choice.item == nullptr || choice.item == track->ready)) {
    // Nothing is encoded for this trigger that could show the encoder to be well.
    const Text message = track->encoder_error;
    choice = Choice();
    choose_failed(track, active->trigger.t, message, &choice);
  }
  if (choice.item != nullptr) {
    active->hold(track, choice.item);
    track->submit(choice.item);
  }
  active->parts[track->place].request = choice;
}

bool merge_sizes(Active* active, const std::vector<std::unique_ptr<ModalityState>>& tracks,
                 const DimensionTable& table, const SizeRules* rules, std::vector<int64_t>* scratch,
                 Text* fault) noexcept {
  // Old values that stand in come last, and give way to what is present.
  for (const bool is_absent : {false, true}) {
    for (const auto& track : tracks) {
      Choice& choice = *active->parts[track->place].choice;
      if (choice.absent.empty() == is_absent || choice.item == nullptr) continue;
      const int64_t* sizes = choice.item->sizes;
      const std::vector<size_t>& own = track->layout().dimensions;
      const auto clash = std::find_if(own.begin(), own.end(), [&](size_t place) {
        return active->sizes[place] != kNoSize && sizes[place] != kNoSize &&
               active->sizes[place] != sizes[place];
      });
      char text[Text::kCapacity + 1] = "";
      bool is_broken = false;
      if (clash == own.end() && rules != nullptr && rules->any()) {
        *scratch = active->sizes;
        for (size_t place : own) {
          if (sizes[place] != kNoSize) (*scratch)[place] = sizes[place];
        }
        is_broken = rules->is_broken(scratch->data(), text, sizeof text);
      }
      if ((clash != own.end() || is_broken) && is_absent) {
        choice.item = nullptr;
        choice.note.clear();
        choice.stands_in = false;
      } else if (clash != own.end()) {
        const auto name_of = [&](size_t place) {
          return std::string_view(tracks[place]->layout().modality->name);
        };
        fault->add("dimension '")
            .add(std::string_view(table.names[*clash]))
            .add("' is ")
            .add_whole(active->sizes[*clash])
            .add(" in modality '")
            .add(name_of(static_cast<size_t>(active->owners[*clash])))
            .add("' and ")
            .add_whole(sizes[*clash])
            .add(" in '")
            .add(name_of(track->place))
            .add("'; push values of one size");
        return false;
      } else if (is_broken) {
        fault->add(text);
        return false;
      } else {
        for (size_t place : own) {
          if (sizes[place] == kNoSize) continue;
          active->sizes[place] = sizes[place];
          if (active->owners[place] < 0) active->owners[place] = static_cast<int>(track->place);
        }
      }
    }
  }
  return true;
}

}  // namespace mmedge::runtime::stream
