// The state machine of a stream: triggers, and what each result waits for.
#include "stream/state_machine.h"

#include <algorithm>

namespace mmedge::runtime::stream {
namespace {

// Share of the deadline after which it is at risk: the rest is for one that wakes up late.
constexpr double kPatience = 0.95;

bool has_many(const std::vector<bool>& triggers) {
  return std::count(triggers.begin(), triggers.end(), true) > 1;
}

}  // namespace

StreamStateMachine::StreamStateMachine(const std::vector<std::unique_ptr<ModalityState>>& tracks,
                                       const std::vector<bool>& triggers,
                                       const DimensionTable& table, const SizeRules* rules,
                                       std::optional<double> rate, std::optional<double> deadline,
                                       size_t keep, std::vector<FusionStates::Stage> states,
                                       bool cancels, Jumps* jumps, StageRunner* runner)
    : slots(keep + 6),
      tracks_(tracks),
      triggering_(triggers),
      table_(table),
      rules_(rules),
      deadline_(deadline),
      chooser_(deadline.has_value(), has_many(triggers)),
      outbox_(keep, make_result(states.size()), &slots),
      states_(std::move(states), tracks.size()),
      cancels_(cancels),
      jumps_(*jumps),
      runner_(runner),
      dropped_(tracks.size()),
      scratch_(table.names.size()),
      kept_(states_.size()) {
  if (rate) patience_ = 1.0 / *rate;
  if (deadline) patience_ = kPatience * *deadline;
  copy_with_memory(make_result(states_.size()), &good_);
  active_.parts.resize(tracks.size());
  active_.sizes.resize(table.names.size());
  active_.owners.resize(table.names.size());
  active_.holds.reserve(8 * tracks.size());
  size_t most = 1;
  for (const auto& track : tracks) most = std::max(most, track->most_windows());
  waiting_.reserve(most + 2);
  incoming_.reserve(most + 2);
}

Result StreamStateMachine::make_result(size_t stages) const {
  Result result;
  result.stage_notes.resize(stages);
  result.modalities.resize(tracks_.size());
  for (const auto& track : tracks_) {
    result.modalities[track->place].samples.reserve(track->most_samples());
  }
  return result;
}

void StreamStateMachine::push(ModalityState* track, Sample* sample, DropReason fault, bool lying,
                              double now) noexcept {
  const int64_t jumps = track->jumps;
  track->receive(sample, fault, lying);
  incoming_.clear();
  if (triggering_[track->place]) {
    if (track->jumps > jumps) {
      forget_latencies();
    }
    for (Item* item : track->arrived()) {
      const double begin = std::min(item->end + track->behind(), now);
      incoming_.push_back({item->end, now, begin, track, item, jumps_.next()});
    }
  }
  if (!incoming_.empty()) {
    fire(now);
  } else if (active_.is_there && active_.parts[track->place].until) {
    proceed(now);
  }
}

void StreamStateMachine::forget_latencies() noexcept {
  // A clock was set: times from before are not comparable with those after.
  predictor_ = LatencyPredictor();
  set_good(nullptr, 0);
  active_.cold = true;
}

void StreamStateMachine::follow_clock(double now, double ahead, double offset) noexcept {
  offset_ = offset;
  forget_latencies();
  if (ahead == 0.0) return;
  ahead_ += ahead;
  loop_times_.follow_clock(ahead);
  // It tells what came before the jump from what comes after.
  jumps_.add(now - 0.5 * ahead, ahead);
  for (Trigger& trigger : waiting_) trigger.follow_clock(ahead);
  if (active_.is_there) active_.follow_clock(ahead);
  if (!active_.is_there) set_first_jump(jumps_.next());
  for (const auto& track : tracks_) track->follow_clock(ahead);
  states_.follow_clock(ahead);
}

void StreamStateMachine::set_first_jump(int64_t first) noexcept {
  for (const auto& track : tracks_) track->first_jump = first;
}

void StreamStateMachine::tick(double t, int64_t missed, double now) noexcept {
  triggers_ += missed;
  superseded_ += missed;
  incoming_.clear();
  incoming_.push_back({t, now, std::min(t, now), nullptr, nullptr, jumps_.next()});
  fire(now);
}

void StreamStateMachine::fire(double now) noexcept {
  triggers_ += static_cast<int64_t>(incoming_.size());
  for (const Trigger& trigger : incoming_) {
    if (trigger.item != nullptr) trigger.track->hold(trigger.item);
  }
  superseded_ += static_cast<int64_t>(waiting_.size());
  for (const Trigger& trigger : waiting_) let_go(trigger, DropReason::kSuperseded);
  waiting_.swap(incoming_);
  proceed(now);
}

void StreamStateMachine::let_go(const Trigger& trigger, DropReason reason) noexcept {
  if (trigger.item != nullptr) trigger.track->release(trigger.item, reason);
}

void StreamStateMachine::proceed(double now) noexcept {
  for (;;) {
    if (!active_.is_there) {
      if (waiting_.empty()) return;
      const Trigger trigger = waiting_.front();
      waiting_.erase(waiting_.begin());
      begin(trigger, now);
    }
    if (active_.is_there && (active_.fusing || !gather(now))) return;
  }
}

void StreamStateMachine::begin(const Trigger& trigger, double now) noexcept {
  if (deadline_ && has_good_) {
    const std::optional<double> latency = predictor_.estimate();
    if (latency && *latency > *deadline_ && may_repeat(trigger.t)) {
      repeat(trigger, *latency, now);
      return;
    }
  }
  std::optional<double> patience;
  if (patience_) patience = trigger.begin + *patience_ - fusion_time_.estimate().value_or(0.0);
  active_.begin(trigger, patience);
  ++serial_;
  set_first_jump(trigger.first_jump);
  for (const auto& track : tracks_) chooser_.begin(&active_, track.get(), now);
}

bool StreamStateMachine::gather(double now) noexcept {
  active_.alarm.reset();
  bool is_whole = true;
  for (const auto& track : tracks_) {
    if (!chooser_.choose(&active_, track.get(), now)) {
      is_whole = false;
      continue;
    }
    const Text why = active_.parts[track->place].choice->absent;
    if (why.empty() || !track->required) continue;
    for (Active::Part& part : active_.parts) part.choice.reset();
    active_.parts[track->place].choice.emplace().absent = why;
    Text reason("required modality '");
    reason.add(std::string_view(track->layout().modality->name)).add("' is absent: ").add(why);
    deliver(-1, reason, now);
    end();
    return true;
  }
  if (!is_whole) return false;
  Text conflict;
  const bool fits = merge_sizes(&active_, tracks_, table_, rules_, &scratch_, &conflict);
  for (const auto& track : tracks_) {
    const Choice& choice = *active_.parts[track->place].choice;
    if (!choice.stands_in) track->sensor.conclude(choice.absent);
  }
  if (!fits) {
    deliver(-1, conflict, now);
    end();
    return true;
  }
  for (const auto& track : tracks_) {
    Item* item = active_.parts[track->place].choice->item;
    if (item != nullptr) active_.hold(track.get(), item);
  }
  active_.fusing = true;
  active_.begun = now;
  return false;
}

void StreamStateMachine::end() noexcept {
  Trigger trigger;
  abandon(DropReason::kSuperseded, &trigger);
  let_go(trigger, DropReason::kSuperseded);
}

bool StreamStateMachine::abandon(DropReason reason, Trigger* trigger) noexcept {
  if (!active_.is_there) return false;
  active_.is_there = false;
  ++serial_;
  for (const Active::Hold& hold : active_.holds) {
    hold.item->pinned = false;
    if (hold.track->lazy) hold.track->withdraw(hold.item, reason);
    hold.track->release(hold.item, reason);
  }
  active_.holds.clear();
  *trigger = active_.trigger;
  return true;
}

void StreamStateMachine::forget(ModalityState* track, double now) noexcept {
  const bool is_held =
      active_.is_there && std::any_of(active_.holds.begin(), active_.holds.end(),
                                      [track](const Active::Hold& hold) {
                                        return hold.track == track;
                                      });
  Trigger current;
  // Begun anew, without it.
  if (is_held && abandon(DropReason::kSuperseded, &current)) {
    waiting_.insert(waiting_.begin(), current);
  }
  incoming_.swap(waiting_);
  waiting_.clear();
  for (const Trigger& trigger : incoming_) {
    if (trigger.track != track) {
      waiting_.push_back(trigger);
    } else {
      ++orphaned_;
      let_go(trigger, DropReason::kForgotten);
    }
  }
  track->forget(DropReason::kForgotten, drop_reason_name(DropReason::kForgotten));
  drop_results(static_cast<int>(track->place));
  states_.forget(static_cast<int>(track->place));
  if (has_good_ && has_used(good_, track->place)) set_good(nullptr, 0);
  proceed(now);
}

void StreamStateMachine::reset() noexcept {
  Trigger current;
  if (abandon(DropReason::kReset, &current)) waiting_.insert(waiting_.begin(), current);
  orphaned_ += static_cast<int64_t>(waiting_.size());
  for (const Trigger& trigger : waiting_) let_go(trigger, DropReason::kReset);
  waiting_.clear();
  for (const auto& track : tracks_) track->forget(DropReason::kReset, "");
  drop_results(-1);
  states_.forget(-1);
  set_good(nullptr, 0);
}

void StreamStateMachine::drop_results(int modality) noexcept {
  std::fill(dropped_.begin(), dropped_.end(), DropCounts());
  outbox_.drop(modality, &dropped_);
  // The next result tells what these would have told.
  for (const auto& track : tracks_) track->ledger.tell_again(dropped_[track->place]);
}

std::optional<double> StreamStateMachine::alarm() const noexcept {
  return !active_.is_there || active_.fusing ? std::nullopt : active_.alarm;
}

void StreamStateMachine::wake(double now) noexcept {
  if (!closed) proceed(now);
}

const Active* StreamStateMachine::fusion() noexcept {
  if (!active_.is_there || !active_.fusing || active_.handed_out) return nullptr;
  active_.handed_out = true;
  states_.begin(active_.trigger.t);
  return &active_;
}

void StreamStateMachine::fused(const Fused& outcome, double now) noexcept {
  // Of a loop, what there must be time for is its first step: it can be ended after that.
  fusion_time_.observe(active_.first_step.value_or(now) - active_.begun);
  if (active_.first_step) loop_times_.end(now);
  active_.cold = active_.cold || !has_fused_;
  has_fused_ = has_fused_ || outcome.slot >= 0;
  if (outcome.slot >= 0 && states_.size() > 0) {
    states_.finish();
    for (size_t i = 0; i < kept_.size(); ++i) kept_[i] = states_.stages()[i].is_kept;
    runner_->keep_fusion_states(kept_.data());
    for (const auto& track : tracks_) {
      if (active_.parts[track->place].choice->item != nullptr) states_.note_taken(track->place);
    }
  }
  Text reason;
  if (!outcome.message.empty()) {
    reason.add("fusion failed: ").add(outcome.message);
  } else {
    reason = outcome.remark;
  }
  deliver(outcome.slot, reason, now);
  slots.release(outcome.slot);
  end();
  proceed(now);
}

LoopEnd StreamStateMachine::loop_end(double now) noexcept {
  if (cancels_ && !waiting_.empty()) return LoopEnd::kCanceled;
  if (deadline_ && now + loop_times_.expected() - active_.trigger.begin > *deadline_) {
    return LoopEnd::kDeadline;
  }
  loop_times_.begin_step(now);
  return LoopEnd::kNone;
}

void StreamStateMachine::stepped(double now) noexcept {
  loop_times_.end_step(now, !active_.first_step);
  if (!active_.first_step) active_.first_step = now;
}

void StreamStateMachine::encoded(ModalityState* track, Item* item, double now) noexcept {
  if (closed) return;
  const bool is_skipped = track->outcome.is_skipped;
  if (!track->outcome.has_failed) {
    if (track->finish(item, now)) runner_->keep_states(track->place);
    if (track->encodes == 1 && !is_skipped) active_.cold = true;
  } else {
    track->fail(item);
    if (active_.is_there) active_.parts[track->place].gave_up = true;
  }
  proceed(now);
}

void StreamStateMachine::fail(const Text& why) noexcept {
  if (closed) return;
  failure = why;
  close();
}

void StreamStateMachine::close() noexcept {
  if (closed) return;
  closed = true;
  if (active_.is_there) {
    for (const Active::Hold& hold : active_.holds) {
      hold.track->release(hold.item, DropReason::kClosed);
    }
    active_.holds.clear();
    active_.is_there = false;
    ++serial_;
    waiting_.push_back(active_.trigger);
  }
  for (const Trigger& trigger : waiting_) {
    ++orphaned_;
    let_go(trigger, DropReason::kClosed);
  }
  waiting_.clear();
  for (const auto& track : tracks_) track->close();
}

void StreamStateMachine::read_health(double now, Health* health) noexcept {
  for (const auto& track : tracks_) {
    ModalityHealth& state = health->modalities[track->place];
    state.reason.clear();
    state.present = !track->is_missing(now, &state.reason);
    if (state.present) state.reason.clear();
    state.pushed = track->ledger.pushed;
    state.used = track->ledger.used;
    state.dropped = track->ledger.dropped;
    state.pending = track->ledger.pending;
    state.encodes = track->encodes;
    state.encodes_skipped = track->skipped;
    state.errors = track->errors;
    state.last_error = track->last_error;
    state.clock_jumps = track->jumps;
    if (track->sequence) {
      state.state_missed = track->sequence->missed;
      state.state_resets = track->sequence->resets;
    }
    if (!track->windows) continue;
    state.windows = track->windows->pushed;
    state.windows_used = track->windows->used;
    state.windows_dropped = track->windows->dropped;
    state.windows_pending = track->windows->pending;
  }
  health->triggers = triggers_;
  health->triggers_superseded = superseded_;
  health->triggers_closed = orphaned_;
  health->triggers_pending =
      (active_.is_there ? 1 : 0) + static_cast<int64_t>(waiting_.size());
  health->results = outbox_.total;
  health->stale = stale_;
  health->empty = empty_;
  health->deadline_misses = outbox_.misses;
  health->results_dropped = outbox_.losses;
  health->latency_p95 = predictor_.estimate();
  health->failure = failure;
  health->state_resets = states_.resets();
}

}  // namespace mmedge::runtime::stream
