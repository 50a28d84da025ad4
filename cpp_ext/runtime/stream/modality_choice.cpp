// One modality in a stream: what stands for it at a trigger's time, and why it is absent.
#include <algorithm>

#include "stream/modality_state.h"

namespace mmedge::runtime::stream {
namespace {

// An encoding that takes longer than this many seconds, and than so many times what 95 % of those
// before it took, is taken to hang.
constexpr double kHang = 1.0, kHangRatio = 3.0;

}  // namespace

void ModalityState::choose(double t, Choice* choice) noexcept {
  Text why;
  if (history_) {
    Pick pick;
    history_->pick(t, &pick);
    choice->note = pick.note;
    if (pick.before != nullptr) {
      choice->item = make_item(pick, t);
    } else if (!history_->empty()) {
      choice->item = make_item(history_->newest());
      why = pick.absent;
      add_problem(&why);
    }
  } else if (!newest_.empty()) {
    choice->item = newest_.back();
  }
  if (choice->item != nullptr && ready != nullptr && choice->item->has_key_of(*ready)) {
    choice->item = ready;
  }
  if (why.empty()) is_absent(choice->item, t, false, &why);
  choice->absent = why;
}

Item* ModalityState::unready(double t) noexcept {
  if (lazy) return nullptr;
  Item* newest = queue_.empty() ? running_ : queue_.back();
  if (newest == nullptr || newest->epoch != epoch_) return nullptr;
  Text why;
  return is_absent(newest, t, false, &why) ? nullptr : newest;
}

std::optional<double> ModalityState::due(double t, double now) noexcept {
  const auto would_do = [&](const Item* item) {
    Text why;
    return item->epoch == epoch_ && !is_absent(item, t, false, &why);
  };
  if (running_ != nullptr && would_do(running_)) return expected_end(running_, now);
  for (const Item* item : queue_) {
    if (would_do(item)) return expected_end(item, now);
  }
  return std::nullopt;
}

double ModalityState::expected_end(const Item* item, double now) const noexcept {
  size_t number = 1;  // its place in the queue, from 1, with what runs before it
  if (item != running_) {
    const auto found = std::find(queue_.begin(), queue_.end(), item);
    number = static_cast<size_t>(found - queue_.begin()) + (running_ != nullptr ? 2 : 1);
  }
  return begun(now) + encoding.estimate().value_or(0.0) * static_cast<double>(number);
}

double ModalityState::overdue(double now) const noexcept {
  return begun(now) + std::max(kHang, kHangRatio * encoding.estimate().value_or(0.0));
}

Item* ModalityState::older(double t) noexcept {
  if (matches_times() || !encoder_error.empty()) return nullptr;
  Text why;
  return is_absent(ready, t, false, &why) ? nullptr : ready;
}

Item* ModalityState::last_good(double t) noexcept {
  Text why;
  if (required || !limit || is_absent(ready, t, false, &why)) return nullptr;
  return ready;
}

bool ModalityState::is_absent(const Item* item, double t, bool is_trigger,
                              Text* why) const noexcept {
  if (sensor.lying && !limit && !is_trigger) {
    why->add(sensor.problem).add(": the newest sample is bad and no maximum age is stated");
    return true;
  }
  if (item == nullptr) {
    if (!sensor.problem.empty()) {
      why->add(sensor.problem);
    } else if (!ring_ || !ring_->is_filling(why)) {
      why->add("no sample yet");
    }
    return true;
  }
  if (limit) t += lead(*item);
  if (limit && t - item->t > *limit + kSlack) {
    why->add("too_old: ").add_number(t - item->t).add(" s, limit ").add_number(*limit).add(" s");
    if (ring_) why->add(" for the oldest row of the window");
    add_problem(why);
    return true;
  }
  if (limit && item->end - t > *limit + kSlack) {
    why->add("too_new: ")
        .add_number(item->end - t)
        .add(" s newer than the trigger, limit ")
        .add_number(*limit)
        .add(" s");
    if (!history_) why->add("; Exact or Interpolate keep older ones");
    add_problem(why);
    return true;
  }
  if (!sensor.is_recovering(why)) return false;
  add_problem(why);
  return true;
}

double ModalityState::lead(const Item& item) const noexcept {
  if (jumps_.next() == first_jump) return 0.0;
  return jumps_.since(first_jump) - jumps_.since(first_jump, item.samples[0]->arrival);
}

void ModalityState::add_problem(Text* text) const noexcept {
  if (!sensor.problem.empty()) {
    text->add("; newest sample dropped: ").add(sensor.problem);
    return;
  }
  if (clock_.behind() != 0.0) {
    text->add("; its source's clock was set back, ")
        .add_number(clock_.behind())
        .add(" s behind now");
    return;
  }
  Text how_far;
  if (ring_ && ring_->is_filling(&how_far)) text->add("; window ").add(how_far);
}

void ModalityState::newest_note(Text* note) const noexcept {
  if (sensor.refusal != DropReason::kNone) {
    note->add("its newest sample was dropped: ").add(drop_reason_name(sensor.refusal));
    return;
  }
  Text how_far;
  if (ring_ && ring_->is_filling(&how_far)) {
    note->add("an older window; the next is ").add(how_far);
  }
}

bool ModalityState::is_missing(double now, Text* why) noexcept {
  if (!encoder_error.empty()) {
    why->add("encoder_error: ").add(encoder_error);
    return true;
  }
  if (now >= overdue(now)) {
    why->add("its encoder has run for ").add_number(now - started).add(" s");
    return true;
  }
  const Item* newest = newest_item();
  // It is asked about now, and not about the trigger at work.
  return is_absent(newest, newest == nullptr ? now : now - lead(*newest), false, why);
}

bool ModalityState::is_distrusted(Text* why) const noexcept {
  if (!encoder_error.empty()) {
    why->add("encoder_error: ").add(encoder_error);
    return true;
  }
  if (!sensor.lying || limit) return false;
  why->add(sensor.problem);
  return true;
}

Item* ModalityState::newest_item() noexcept {
  if (history_) return history_->empty() ? nullptr : make_item(history_->newest());
  if (!queue_.empty()) return queue_.back();
  if (!newest_.empty()) return newest_.back();
  return running_ != nullptr ? running_ : ready;
}

}  // namespace mmedge::runtime::stream
