// Samples, what encoders are given, and their account.
#include "stream/sample.h"

#include <algorithm>
#include <cstring>

namespace mmedge::runtime::stream {

bool Item::has_key_of(const Item& other) const noexcept {
  if (build != other.build) return false;
  switch (build) {
    case Build::kValue:
      return samples[0]->seq == other.samples[0]->seq;
    case Build::kBlend:
      return samples[0]->seq == other.samples[0]->seq && samples[1]->seq == other.samples[1]->seq &&
             asked_t == other.asked_t;
    case Build::kRows:
      return samples[count - 1]->seq == other.samples[other.count - 1]->seq &&
             number == other.number;
  }
  return false;
}

void SampleAccounting::skip(int64_t count, DropReason reason) noexcept {
  pushed += count;
  dropped[reason] += static_cast<uint64_t>(count);
}

void SampleAccounting::drop(Counted* sample, DropReason reason) noexcept {
  if (sample->is_settled) return;
  sample->is_settled = true;
  --pending;
  const DropReason why = sample->fate == DropReason::kNone ? reason : sample->fate;
  ++dropped[why];
  ++since_[why];
}

void SampleAccounting::release(Counted* sample, DropReason reason) noexcept {
  if (--sample->holders == 0) drop(sample, reason);
}

void SampleAccounting::use(Counted* sample) noexcept {
  if (sample->is_settled) return;
  sample->is_settled = true;
  --pending;
  ++used;
}

DropCounts SampleAccounting::since_last() noexcept {
  const DropCounts drops = since_;
  since_ = DropCounts();
  return drops;
}

SamplePool::SamplePool(const ModalityLayout& layout, size_t dimensions, size_t count)
    : layout_(layout), dimensions_(dimensions), samples_(count) {
  const size_t inputs = layout.inputs.size();
  views_.resize(count * inputs);
  sizes_.resize(count * dimensions);
  data_.resize(count * inputs);
  memory_.resize(count * layout.bytes + 64);
  uint8_t* at = memory_.data();
  at += align_up(reinterpret_cast<uintptr_t>(at)) - reinterpret_cast<uintptr_t>(at);
  for (size_t i = 0; i < count; ++i) {
    samples_[i].values = views_.data() + i * inputs;
    samples_[i].sizes = sizes_.data() + i * dimensions;
    for (size_t k = 0; k < inputs; ++k) {
      data_[i * inputs + k] = at;
      at += align_up(layout.inputs[k].bytes);
    }
  }
  passing_views_.resize(inputs);
  passing_sizes_.resize(dimensions);
  passing_.values = passing_views_.data();
  passing_.sizes = passing_sizes_.data();
}

Sample* SamplePool::take() noexcept {
  for (size_t tries = 0; tries < samples_.size(); ++tries) {
    Sample& sample = samples_[next_];
    next_ = (next_ + 1) % samples_.size();
    if (sample.holders > 0 || sample.pins > 0) continue;
    static_cast<Counted&>(sample) = Counted();
    ++sample.pins;
    return &sample;
  }
  return nullptr;
}

void SamplePool::fill(Sample* sample, const TensorView* values,
                      const int64_t* sizes) const noexcept {
  const size_t inputs = layout_.inputs.size();
  const size_t place = static_cast<size_t>(sample - samples_.data());
  for (size_t k = 0; k < inputs; ++k) {
    sample->values[k] = values[k];
    sample->values[k].data = data_[place * inputs + k];
    const size_t bytes = values[k].bytes();
    if (bytes) std::memcpy(sample->values[k].data, values[k].data, bytes);
  }
  std::copy(sizes, sizes + dimensions_, sample->sizes);
}

Sample* SamplePool::passing(const TensorView* values, const int64_t* sizes) noexcept {
  static_cast<Counted&>(passing_) = Counted();
  std::copy(values, values + layout_.inputs.size(), passing_.values);
  std::copy(sizes, sizes + dimensions_, passing_.sizes);
  return &passing_;
}

ItemPool::ItemPool(size_t dimensions, size_t count, size_t most_samples)
    : dimensions_(dimensions), most_samples_(most_samples) {
  items_.resize(count);
  samples_.resize(count * most_samples);
  sizes_.resize(count * dimensions);
  for (size_t i = 0; i < count; ++i) {
    items_[i].samples = samples_.data() + i * most_samples;
    items_[i].sizes = sizes_.data() + i * dimensions;
  }
}

Item* ItemPool::make() noexcept {
  for (size_t tries = 0; tries < items_.size(); ++tries) {
    Item& item = items_[next_];
    next_ = (next_ + 1) % items_.size();
    if (item.refs > 0 || item.pins > 0) continue;
    static_cast<Counted&>(item) = Counted();
    item.count = 0;
    item.build = Item::Build::kValue;
    item.weight = 0;
    item.first_row = item.last_row = item.number = 0;
    item.progress = Progress::kNew;
    item.pinned = false;
    item.features = -1;
    item.turn.reset();
    item.error.clear();
    return &item;
  }
  return nullptr;
}

}  // namespace mmedge::runtime::stream
