// The state machine of a stream: what its results say, and outputs that are repeated.
#include "stream/source_clock.h"
#include "stream/state_machine.h"

namespace mmedge::runtime::stream {

void StreamStateMachine::set_good(const Result* result, double t) noexcept {
  if (result != nullptr) slots.hold(result->slot);
  if (has_good_) slots.release(good_.slot);
  has_good_ = result != nullptr;
  if (result == nullptr) return;
  good_ = *result;
  good_t_ = t;
}

void StreamStateMachine::fill(Result* result, const Trigger& trigger, double now, double outputs_t,
                              bool fresh, const Text& reason) noexcept {
  for (const auto& track : tracks_) {
    result->modalities[track->place].dropped = track->ledger.since_last();
  }
  const double ahead = jumps_.since(trigger.first_jump);
  result->t = trigger.t + ahead - offset_;
  result->made = now - offset_;
  result->latency = now - trigger.begin;
  result->fresh = fresh;
  result->met.reset();
  if (deadline_) result->met = fresh && result->latency <= *deadline_;
  result->reason = reason;
  result->lateness = 0;
  result->has_outputs = result->slot >= 0;
  result->outputs_t.reset();
  if (result->has_outputs) result->outputs_t = outputs_t + ahead - offset_;
  result->trigger = trigger.track == nullptr ? -1 : static_cast<int>(trigger.track->place);
}

void StreamStateMachine::deliver(int slot, const Text& reason, double now) noexcept {
  const Trigger& trigger = active_.trigger;
  Result* result = outbox_.next();
  result->slot = slot;
  for (const auto& track : tracks_) {
    ModalityResult& part = result->modalities[track->place];
    part.age.reset();
    part.samples.clear();
    part.absent.clear();
    part.note.clear();
    const std::optional<Choice>& choice = active_.parts[track->place].choice;
    if (!choice) continue;
    Item* item = choice->item;
    double ahead = 0;
    if (item != nullptr) {
      part.age = track->age(*item, trigger.t);
      ahead = jumps_.since(trigger.first_jump, item->samples[0]->arrival);
      for (size_t i = 0; i < item->count; ++i) {
        part.samples.push_back({item->samples[i]->seq, item->samples[i]->t + ahead - offset_});
      }
      if (slot >= 0) track->use(item);
    }
    part.absent = choice->absent;
    if (!choice->absent.empty()) continue;
    part.note = choice->note;
    const auto add = [&part](const Text& remark) {
      if (!remark.empty()) part.note.add(part.note.empty() ? "" : "; ").add(remark);
    };
    Text remark;
    if (trigger.track != track.get()) track->newest_note(&remark);
    add(remark);
    if (ahead != 0.0) {
      remark = "its age leaves out ";
      add(remark.add_number(ahead).add(" s by which the clock was set ahead"));
    }
    remark.clear();
    // Without outputs a later result says it.
    if (item != nullptr && slot >= 0) track->state_note(*item, &remark);
    add(remark);
  }
  for (size_t i = 0; i < states_.size(); ++i) {
    result->stage_notes[i].clear();
    if (slot >= 0) states_.tell(i, &result->stage_notes[i]);
  }
  fill(result, trigger, now, trigger.t, slot >= 0, reason);
  if (slot < 0) {
    ++empty_;
  } else {
    // What was held before a jump is older by it from now on: no outputs for repeating.
    set_good(has_jumped(trigger) ? nullptr : result, trigger.t);
    if (!active_.cold) {
      predictor_.observe(result->latency - (active_.first_step ? now - *active_.first_step : 0.0));
    }
  }
  outbox_.put(now - ahead_);
}

bool StreamStateMachine::has_age_fault(const ModalityState& track, double t,
                                       Text* why) const noexcept {
  const std::optional<double>& age = good_.modalities[track.place].age;
  if (age && track.limit && *age + t - good_t_ > *track.limit + kSlack) {
    why->add("too_old: ")
        .add_number(*age + t - good_t_)
        .add(" s, limit ")
        .add_number(*track.limit)
        .add(" s");
    return true;
  }
  return track.is_distrusted(why);
}

bool StreamStateMachine::may_repeat(double t) const noexcept {
  for (const auto& track : tracks_) {
    Text why;
    if (track->required && has_age_fault(*track, t, &why)) return false;
  }
  return true;
}

void StreamStateMachine::repeat(const Trigger& trigger, double latency, double now) noexcept {
  Text reason("deadline: a result is expected to take ");
  reason.add_number(latency)
      .add(" s, ")
      .add_number(*deadline_)
      .add(" s are allowed; these are the outputs of t=")
      .add_number(good_t_ - offset_)
      .add(" s");
  Result* result = outbox_.next();
  *result = good_;
  for (const auto& track : tracks_) {
    ModalityResult& part = result->modalities[track->place];
    if (part.age) part.age = *part.age + trigger.t - good_t_;
    Text why;
    if (has_age_fault(*track, trigger.t, &why)) part.absent = why;
    if (!part.absent.empty()) part.note.clear();
  }
  if (trigger.item != nullptr) {
    trigger.track->condemn(trigger.item, DropReason::kDeadline);
    trigger.track->withdraw(trigger.item, DropReason::kDeadline);
  }
  let_go(trigger, DropReason::kDeadline);
  predictor_.relax();
  ++stale_;
  fill(result, trigger, now, good_t_, false, reason);
  outbox_.put(now - ahead_);
}

}  // namespace mmedge::runtime::stream
