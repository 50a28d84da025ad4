// What a state in a stream has taken, in order.
#include "stream/state_sequence.h"

#include <algorithm>

namespace mmedge::runtime::stream {

Turn StateSequence::begin(double t) noexcept {
  if (last_ && reset_after_ && t - *last_ > *reset_after_) {
    Text why;
    reset(why.add_number(t - *last_).add(" s lie between its value and the one before"));
  }
  last_ = t;
  return {has_states_, epoch_, missed, resets};
}

bool StateSequence::finish(const Turn& turn) noexcept {
  if (turn.epoch != epoch_) return false;
  has_states_ = true;
  return true;
}

void StateSequence::fail(const Turn& turn, DropReason why) noexcept {
  if (turn.epoch == epoch_) miss(1, why);
}

void StateSequence::miss(int64_t count, DropReason why) noexcept {
  if (count == 0) return;
  missed += count;
  why_missed_ = why;
}

void StateSequence::jump() noexcept {
  last_.reset();
  if (reset_after_) reset("its source's clock was set back");
}

void StateSequence::reset(const Text& why) noexcept {
  restart();
  ++resets;
  why_reset_ = why;
}

void StateSequence::restart() noexcept {
  has_states_ = false;
  last_.reset();
  ++epoch_;
}

void StateSequence::follow_clock(double ahead) noexcept {
  if (last_) *last_ += ahead;
}

void StateSequence::tell(const Turn& turn, Text* remarks) noexcept {
  const int64_t values = turn.missed - told_missed_, times = turn.resets - told_resets_;
  told_missed_ = std::max(turn.missed, told_missed_);
  told_resets_ = std::max(turn.resets, told_resets_);
  if (times > 0) remarks->add("its state began anew: ").add(why_reset_);
  if (values <= 0) return;
  if (times > 0) remarks->add("; ");
  remarks->add("its state missed ");
  if (values == 1) {
    remarks->add("a value");
  } else {
    remarks->add_whole(values).add(" values");
  }
  remarks->add(", the last as ").add(drop_reason_name(why_missed_));
}

int64_t FusionStates::resets() const noexcept {
  int64_t total = 0;
  for (const Stage& stage : stages_) total += stage.sequence.resets;
  return total;
}

void FusionStates::begin(double t) noexcept {
  for (Stage& stage : stages_) stage.turn = stage.sequence.begin(t);
}

void FusionStates::finish() noexcept {
  for (Stage& stage : stages_) stage.is_kept = stage.sequence.finish(stage.turn);
}

void FusionStates::forget(int modality) noexcept {
  if (modality >= 0 && !taken_[static_cast<size_t>(modality)]) return;
  std::fill(taken_.begin(), taken_.end(), false);
  for (Stage& stage : stages_) stage.sequence.restart();
}

void FusionStates::follow_clock(double ahead) noexcept {
  for (Stage& stage : stages_) stage.sequence.follow_clock(ahead);
}

}  // namespace mmedge::runtime::stream
