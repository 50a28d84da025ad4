// Runs the stages for a stream.
#include "stream/compute.h"

#include <algorithm>

namespace mmedge::runtime::stream {

Compute::Compute(StageRunner* runner, const std::vector<std::unique_ptr<ModalityState>>& tracks,
                 const DimensionTable& table, size_t results)
    : runner_(runner), tracks_(tracks), table_(table), parts_(tracks.size()) {
  size_t longest = 0;
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
  outcome.slot = track->slot_of_same(inputs);
  if (outcome.slot >= 0) {
    outcome.is_skipped = true;
    return;
  }
  outcome.slot = track->slots.take();
  if (outcome.slot < 0) {
    outcome.has_failed = true;
    outcome.message = "BackendError: all places for features are in use";
    return;
  }
  const size_t slot = static_cast<size_t>(outcome.slot);
  if (runner_->encode(track->place, inputs, slot, seconds) != Code::kOk) {
    outcome.has_failed = true;
    outcome.message = runner_->message();
    track->slots.release(outcome.slot);
    outcome.slot = -1;
    return;
  }
  track->keep_content(item, inputs, outcome.slot);
}

void Compute::fuse(const Active& active, Slots* results, Fused* outcome,
                   double* seconds) noexcept {
  outcome->slot = -1;
  outcome->message.clear();
  for (const auto& track : tracks_) {
    FusionPart& part = parts_[track->place];
    part = FusionPart();
    const Item* item = active.parts[track->place].choice->item;
    if (item == nullptr) {
      part.slot = stand_in(*track, active.sizes.data(), seconds);
      if (part.slot >= 0) continue;
      outcome->message = runner_->message();
      return;
    }
    if (item->features >= 0) {
      part.slot = item->features;
      continue;
    }
    part.inputs = track->build(*item, &outcome->message);
    if (part.inputs == nullptr) return;
  }
  const int slot = results->take();
  if (slot < 0) {
    outcome->message = "BackendError: all places for outputs are in use";
    return;
  }
  if (runner_->fuse(parts_.data(), static_cast<size_t>(slot), seconds) != Code::kOk) {
    outcome->message = runner_->message();
    results->release(slot);
    return;
  }
  outcome->slot = slot;
}

}  // namespace mmedge::runtime::stream
