// Runs the stages for a stream.
#include "stream/compute.h"

#include <algorithm>

namespace mmedge::runtime::stream {

Compute::Compute(StageRunner* runner, const std::vector<std::unique_ptr<ModalityState>>& tracks,
                 const DimensionTable& table, size_t results, size_t fusion_states)
    : runner_(runner),
      tracks_(tracks),
      table_(table),
      parts_(tracks.size()),
      goes_on_(fusion_states) {
  size_t longest = 0;
  chosen_.resize(tracks.size());
  sizes_.resize(table.names.size());
  no_sizes_.assign(table.names.size(), kNoSize);
  for (const auto& track : tracks) {
    StandIns stand_ins;
    stand_ins.first_slot = track->slots.size();
    const size_t dimensions = track->layout().dimensions.size();
    size_t slots = 0;
    if (!track->required) {
      // One more where there is no room to keep another.
      stand_ins.most = dimensions ? kMostStandIns : 1;
      slots = stand_ins.most + (dimensions ? 1 : 0);
      stand_ins.keys.resize(stand_ins.most * dimensions);
    }
    longest = std::max(longest, dimensions);
    std::vector<size_t> bytes;
    for (const InputLayout& input : track->layout().inputs) bytes.push_back(input.window_bytes);
    runner->reserve(track->place, stand_ins.first_slot + slots, bytes.data());
    stand_ins_.push_back(std::move(stand_ins));
  }
  key_.resize(longest);
  runner->reserve_results(results);
  double seconds = 0;
  for (const auto& track : tracks) {
    // An encoder that fails here fails again, and is reported, when the stand-in is needed.
    if (!track->required && track->has_encoder) stand_in(*track, no_sizes_.data(), &seconds);
  }
}

int Compute::stand_in(const ModalityState& track, const int64_t* sizes, double* seconds) noexcept {
  StandIns& stand_ins = stand_ins_[track.place];
  const std::vector<size_t>& dimensions = track.layout().sorted_dimensions;
  for (size_t i = 0; i < dimensions.size(); ++i) {
    const int64_t size = sizes[dimensions[i]];
    key_[i] = size == kNoSize ? table_.limits[dimensions[i]].min : size;
  }
  for (size_t at = 0; at < stand_ins.count; ++at) {
    if (std::equal(key_.begin(), key_.begin() + static_cast<std::ptrdiff_t>(dimensions.size()),
                   stand_ins.keys.begin() + static_cast<std::ptrdiff_t>(at * dimensions.size()))) {
      return static_cast<int>(stand_ins.first_slot + at);
    }
  }
  const size_t slot = stand_ins.first_slot + stand_ins.count;
  if (runner_->stand_in(track.place, sizes, slot, seconds) != Code::kOk) return -1;
  if (stand_ins.count < stand_ins.most) {
    std::copy(key_.begin(), key_.begin() + static_cast<std::ptrdiff_t>(dimensions.size()),
              stand_ins.keys.begin() +
                  static_cast<std::ptrdiff_t>(stand_ins.count * dimensions.size()));
    ++stand_ins.count;
  }
  return static_cast<int>(slot);
}

void Compute::encode(ModalityState* track, const Item& item, double* seconds) noexcept {
  Encoded& outcome = track->outcome;
  outcome.has_failed = outcome.is_skipped = false;
  outcome.message.clear();
  const TensorView* inputs = track->build(item, &outcome.message);
  if (inputs == nullptr) {
    outcome.has_failed = true;
    return;
  }
  // With state it runs whatever came before.
  if (!track->sequence) outcome.slot = track->slot_of_same(inputs);
  {
    const Lock lock(mutex_);
    if (outcome.slot >= 0) {
      track->slots.hold(outcome.slot);
      outcome.is_skipped = true;
      return;
    }
    outcome.slot = track->slots.take();
  }
  if (outcome.slot < 0) {
    outcome.has_failed = true;
    outcome.message = "BackendError: all places for features are in use";
    return;
  }
  const size_t slot = static_cast<size_t>(outcome.slot);
  const bool goes_on = item.turn && item.turn->goes_on;
  const Code code = runner_->encode(track->place, inputs, goes_on, slot, seconds);
  const Lock lock(mutex_);
  if (code != Code::kOk) {
    outcome.has_failed = true;
    outcome.message = runner_->message(static_cast<int>(track->place));
    track->slots.release(outcome.slot);
    outcome.slot = -1;
    return;
  }
  if (!track->sequence) track->keep_content(item, inputs, outcome.slot);
}

void Compute::begin_fusion(const Active& active, const FusionStates& states) noexcept {
  for (size_t i = 0; i < goes_on_.size(); ++i) goes_on_[i] = states.stages()[i].turn.goes_on;
  std::copy(active.sizes.begin(), active.sizes.end(), sizes_.begin());
  for (const auto& track : tracks_) {
    Chosen& chosen = chosen_[track->place];
    chosen.item = active.parts[track->place].choice->item;
    if (chosen.item == nullptr) continue;
    chosen.features = chosen.item->features;
    track->slots.hold(chosen.features);
    ++chosen.item->pins;
    for (size_t i = 0; i < chosen.item->count; ++i) ++chosen.item->samples[i]->pins;
  }
}

void Compute::end_fusion() noexcept {
  for (const auto& track : tracks_) {
    const Chosen& chosen = chosen_[track->place];
    if (chosen.item == nullptr) continue;
    track->slots.release(chosen.features);
    --chosen.item->pins;
    for (size_t i = 0; i < chosen.item->count; ++i) --chosen.item->samples[i]->pins;
  }
}

void Compute::fuse(Slots* results, Fused* outcome, double* seconds) noexcept {
  outcome->slot = -1;
  outcome->message.clear();
  outcome->remark.clear();
  outcome->has_loop = outcome->has_more = false;
  outcome->steps = 0;
  for (const auto& track : tracks_) {
    FusionPart& part = parts_[track->place];
    part = FusionPart();
    const Item* item = chosen_[track->place].item;
    if (item == nullptr) {
      part.slot = stand_in(*track, sizes_.data(), seconds);
      if (part.slot >= 0) continue;
      outcome->message = runner_->message(-1);
      return;
    }
    if (chosen_[track->place].features >= 0) {
      part.slot = chosen_[track->place].features;
      continue;
    }
    part.inputs = track->build(*item, &outcome->message);
    if (part.inputs == nullptr) return;
  }
  int slot;
  {
    const Lock lock(mutex_);
    slot = results->take();
  }
  if (slot < 0) {
    outcome->message = "BackendError: all places for outputs are in use";
    return;
  }
  if (runner_->fuse(parts_.data(), goes_on_.data(), static_cast<size_t>(slot), seconds) !=
      Code::kOk) {
    outcome->message = runner_->message(-1);
    const Lock lock(mutex_);
    results->release(slot);
    return;
  }
  outcome->slot = slot;
  outcome->has_loop = runner_->has_loop();
}

void Compute::step(Slots* results, Fused* outcome, double* seconds) noexcept {
  if (runner_->step(&outcome->has_more, seconds) == Code::kOk) {
    ++outcome->steps;
    return;
  }
  outcome->message = runner_->message(-1);
  const Lock lock(mutex_);
  results->release(outcome->slot);
  outcome->slot = -1;
  outcome->has_loop = outcome->has_more = false;
}

void Compute::end(LoopEnd why, Slots* results, Fused* outcome, double* seconds) noexcept {
  const bool has_loop = outcome->has_loop;
  outcome->has_loop = false;
  bool has_outputs = false;
  const LoopFinish finish =
      why == LoopEnd::kDeadline ? LoopFinish::kDeadline : LoopFinish::kCancel;
  const size_t slot = outcome->slot < 0 ? 0 : static_cast<size_t>(outcome->slot);
  // After a step that failed there is nothing to take, and the time is as long.
  const Code code = runner_->end(finish, slot, has_loop ? &has_outputs : nullptr, seconds);
  if (!has_loop) return;
  if (why != LoopEnd::kNone) {
    outcome->remark = why == LoopEnd::kCanceled ? "canceled: a newer trigger came"
                                                : "deadline: the loop was ended";
    outcome->remark.add(" after ").add_whole(outcome->steps).add(" steps");
  }
  if (code == Code::kOk && has_outputs) return;
  if (code == Code::kOk) {
    outcome->remark.add(", before it had a result");
  } else {
    outcome->message = runner_->message(-1);
  }
  const Lock lock(mutex_);
  results->release(outcome->slot);
  outcome->slot = -1;
}

}  // namespace mmedge::runtime::stream
