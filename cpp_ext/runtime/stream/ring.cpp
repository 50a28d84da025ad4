// Windows over chunks of rows.
#include "stream/ring.h"

#include <algorithm>
#include <cstring>

#include "stream/sanity.h"
#include "stream/source_clock.h"

namespace mmedge::runtime::stream {
namespace {

// While there is nothing to compare with, chunks this many seconds apart do not belong together.
constexpr double kFirstInterval = 1.0;
// Seconds by which chunks without a stated rate may come late: their stamps are often the times of
// their arrival.
constexpr double kJitter = 0.02;

}  // namespace

Ring::Ring(const ModalityLayout& layout, size_t chunks)
    : layout_(layout),
      length_(layout.policy.length),
      hop_(layout.policy.hop),
      least_((layout.policy.length + layout.policy.hop - 1) / layout.policy.hop *
             layout.policy.hop),
      most_chunks_(chunks) {
  const Policy& policy = layout.policy;
  const Modality& modality = *layout.modality;
  if (policy.max_gap_ms) max_gap_ = *policy.max_gap_ms / 1000.0;
  if (policy.rate_hz) {
    row_ = 1.0 / *policy.rate_hz;
  } else if (modality.sample_rate_hz) {
    row_ = 1.0 / static_cast<double>(*modality.sample_rate_hz);
  }
  first_interval_ = std::max(kFirstInterval, modality.rate_hz ? 1.5 / *modality.rate_hz : 0.0);
  chunks_.reserve(chunks);
  gone_.reserve(chunks);
}

int64_t Ring::count(const Sample& sample) const noexcept {
  return sample.values[0].shape[layout_.inputs[0].row_axis];
}

double Ring::time(const Sample& sample, int64_t row) const noexcept {
  if (!row_) return sample.t;
  return sample.t - static_cast<double>(count(sample) - 1 - row) * *row_;
}

void Ring::set_newest(Sample* sample) noexcept {
  // It is compared with after windows are done with it.
  if (sample != nullptr) ++sample->pins;
  if (newest_ != nullptr) --newest_->pins;
  newest_ = sample;
}

bool Ring::has_gap(const Sample& sample, Text* why) noexcept {
  if (newest_ == nullptr) return false;
  const int64_t whole_rows = count(sample);
  const double rows = static_cast<double>(whole_rows), interval = sample.t - newest_->t;
  double row = row_.value_or(0.0), jitter = 0.0;
  if (!row_) {
    double earlier[kIntervals];
    const size_t known = interval_count_;
    std::copy(intervals_, intervals_ + known, earlier);
    intervals_[next_interval_] = interval / rows;
    next_interval_ = (next_interval_ + 1) % kIntervals;
    interval_count_ = std::min(interval_count_ + 1, kIntervals);
    if (known == 0) {
      if (interval <= first_interval_ + kSlack) return false;
      why->add_number(interval)
          .add(" s lie between the first two chunks, more than ")
          .add_number(first_interval_)
          .add(" s; state the rows' rate (Window(rate_hz=)) if chunks come this slowly");
      return true;
    }
    double* median = earlier + (known - 1) / 2;
    std::nth_element(earlier, median, earlier + known);
    row = *median;
    jitter = kJitter;
  }
  const double max_gap =
      max_gap_ ? *max_gap_
               : std::max(0.5 * row * static_cast<double>(std::min(whole_rows, count(*newest_))),
                          jitter);
  if (interval - rows * row <= max_gap + kSlack) return false;
  why->add_number(interval)
      .add(" s lie between two chunks, but ")
      .add_whole(whole_rows)
      .add(" rows take ")
      .add_number(rows * row)
      .add(" s and ")
      .add_number(max_gap)
      .add(" s may be missing");
  return true;
}

void Ring::add(Sample* sample) noexcept {
  const int64_t start = rows_;
  rows_ += count(*sample);
  chunks_.push_back({start, rows_, sample});
  set_newest(sample);
  const int64_t last = rows_ / hop_ * hop_;
  const int64_t first = std::max(end_ + hop_, least_);
  const int64_t ends = first > last ? 0 : (last - first) / hop_ + 1;
  left_out_ = std::max<int64_t>(0, ends - kMostWindows);
  windows_ = ends - left_out_;
  first_end_ = first + left_out_ * hop_;
  end_ = last;
}

bool Ring::make_window(int64_t number, Item* item, size_t most_samples) const noexcept {
  const int64_t end = first_end_ + number * hop_, start = end - length_;
  item->build = Item::Build::kRows;
  item->number = number;
  item->count = 0;
  for (const Chunk& chunk : chunks_) {
    if (chunk.begin >= end || chunk.end <= start) continue;
    if (item->count == most_samples) return false;
    const int64_t first = std::max<int64_t>(start - chunk.begin, 0);
    const int64_t stop = std::min(end, chunk.end) - chunk.begin;
    // Chunks that come faster than their rate overlap in time: the oldest and newest of all.
    const double oldest = time(*chunk.sample, first), newest = time(*chunk.sample, stop - 1);
    if (item->count == 0) {
      item->first_row = first;
      item->t = oldest;
      item->end = newest;
    }
    item->t = std::min(item->t, oldest);
    item->end = std::max(item->end, newest);
    item->last_row = stop;
    item->samples[item->count++] = chunk.sample;
  }
  return true;
}

void Ring::drop_unreachable() noexcept {
  gone_.clear();
  const int64_t first_row = std::max(end_ + hop_, least_) - length_;
  size_t count = 0;
  while (count < chunks_.size() && chunks_[count].end <= first_row) {
    gone_.push_back(chunks_[count++].sample);
  }
  chunks_.erase(chunks_.begin(), chunks_.begin() + static_cast<std::ptrdiff_t>(count));
}

bool Ring::repeats(const Sample& sample) const noexcept {
  const size_t inputs = layout_.inputs.size();
  const auto is_same = [&](const Sample& chunk) {
    return chunk.t == sample.t && has_same_content(chunk.values, sample.values, inputs);
  };
  for (const Chunk& chunk : chunks_) {
    if (is_same(*chunk.sample)) return true;
  }
  return newest_ != nullptr && is_same(*newest_);
}

void Ring::clear(const Text& why) noexcept {
  gone_.clear();
  for (const Chunk& chunk : chunks_) gone_.push_back(chunk.sample);
  chunks_.clear();
  set_newest(nullptr);
  rows_ = end_ = 0;
  why_ = why;
}

bool Ring::is_filling(Text* how_far) const noexcept {
  if (end_ >= length_) return false;
  how_far->add("filling (").add_whole(rows_).add(" of ").add_whole(least_).add(" rows)");
  if (!why_.empty()) how_far->add("; began anew: ").add(why_);
  return true;
}

void Ring::join(const Item& window, TensorView* inputs) const noexcept {
  for (size_t k = 0; k < layout_.inputs.size(); ++k) {
    const InputLayout& layout = layout_.inputs[k];
    const size_t axis = layout.row_axis;
    TensorView& joined = inputs[k];
    void* memory = joined.data;
    joined = window.samples[0]->values[k];
    joined.data = memory;
    joined.shape[axis] = length_;
    size_t outer = 1, row_bytes = item_size(joined.dtype);
    for (size_t i = 0; i < axis; ++i) outer *= static_cast<size_t>(joined.shape[i]);
    for (size_t i = axis + 1; i < joined.rank; ++i) {
      row_bytes *= static_cast<size_t>(joined.shape[i]);
    }
    uint8_t* to = static_cast<uint8_t*>(memory);
    const size_t stride = static_cast<size_t>(length_) * row_bytes;
    size_t offset = 0;
    for (size_t i = 0; i < window.count; ++i) {
      const TensorView& chunk = window.samples[i]->values[k];
      const int64_t rows = chunk.shape[axis];
      const int64_t first = i == 0 ? window.first_row : 0;
      const int64_t stop = i + 1 == window.count ? window.last_row : rows;
      const size_t bytes = static_cast<size_t>(stop - first) * row_bytes;
      const uint8_t* from =
          static_cast<const uint8_t*>(chunk.data) + static_cast<size_t>(first) * row_bytes;
      for (size_t block = 0; block < outer && bytes; ++block) {
        std::memcpy(to + block * stride + offset, from, bytes);
        from += static_cast<size_t>(rows) * row_bytes;
      }
      offset += bytes;
    }
  }
}

}  // namespace mmedge::runtime::stream
