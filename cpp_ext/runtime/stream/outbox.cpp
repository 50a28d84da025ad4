// The results that wait to be fetched.
#include "stream/outbox.h"

#include <algorithm>

namespace mmedge::runtime::stream {

void copy_with_memory(const Result& from, Result* to) {
  *to = from;
  for (size_t i = 0; i < from.modalities.size(); ++i) {
    to->modalities[i].samples.reserve(from.modalities[i].samples.capacity());
  }
}

Outbox::Outbox(size_t keep, const Result& empty, Slots* slots) : keep_(keep), slots_(slots) {
  // One more while a result is added, one that was taken, and one that is written.
  for (size_t i = 0; i < keep + 3; ++i) {
    places_.push_back(std::make_unique<Result>());
    copy_with_memory(empty, places_.back().get());
    order_.push_back(i);
  }
  since_.resize(places_.size());
}

void Outbox::put(double now) noexcept {
  Result& result = *next();
  slots_->hold(result.slot);
  since_[order_[count_]] = now;
  ++total;
  misses += result.fresh && result.met && !*result.met;
  ++count_;
  if (count_ > keep_) pass_over();
}

void Outbox::remove(size_t at) noexcept {
  // Its place goes to the end: it is the last one to be used again.
  const auto place = order_.begin() + static_cast<std::ptrdiff_t>(at);
  std::rotate(place, place + 1, order_.end());
  --count_;
}

void Outbox::pass_over() noexcept {
  const Result& oldest = *places_[order_[0]];
  Result& successor = *places_[order_[1]];
  for (size_t i = 0; i < oldest.modalities.size(); ++i) {
    successor.modalities[i].dropped.add(oldest.modalities[i].dropped);
  }
  ++losses;
  slots_->release(oldest.slot);
  remove(0);
}

const Result* Outbox::take(double now, bool latest) noexcept {
  if (count_ == 0) return nullptr;
  while (latest && count_ > 1) pass_over();
  Result& result = *places_[order_[0]];
  result.lateness = std::max(0.0, now - since_[order_[0]]);
  slots_->release(taken_slot_);
  taken_slot_ = result.slot;
  remove(0);
  return &result;
}

void Outbox::drop(int modality, std::vector<DropCounts>* dropped) noexcept {
  for (size_t at = 0; at < count_;) {
    const Result& result = *places_[order_[at]];
    if (modality >= 0 && !has_used(result, static_cast<size_t>(modality))) {
      ++at;
      continue;
    }
    for (size_t i = 0; i < result.modalities.size(); ++i) {
      (*dropped)[i].add(result.modalities[i].dropped);
    }
    ++losses;
    slots_->release(result.slot);
    remove(at);
  }
}

}  // namespace mmedge::runtime::stream
