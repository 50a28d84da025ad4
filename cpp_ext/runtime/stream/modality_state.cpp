// One modality in a stream: samples that come, and what is kept of them.
#include "stream/modality_state.h"

#include <algorithm>

#include "stream/interpolation.h"
#include "stream/sanity.h"

namespace mmedge::runtime::stream {
namespace {

// Samples, beside those in a history, that are held at a time without windows: newest, queue,
// encoder, ready, triggers that wait and work (two samples each), contents that are compared with.
constexpr size_t kSpareSamples = 14, kSpareItems = 40, kSpareSlots = 10;

size_t windows_of_chunk(const ModalityLayout& layout) {
  if (!layout.has_rows) return 1;
  const int64_t most = layout.most_rows / layout.policy.hop + 2;
  return static_cast<size_t>(std::min(most, kMostWindows));
}

size_t chunks_of(const ModalityLayout& layout) {
  return layout.has_rows ? static_cast<size_t>(layout.policy.chunks) : 0;
}

// Items that wait for an encoder with state.
size_t queue_of(bool has_state, const StreamOptions& options) {
  return has_state ? static_cast<size_t>(options.depth) + 1 : 0;
}

size_t samples_of(const ModalityLayout& layout, bool has_state, const StreamOptions& options) {
  if (layout.has_rows) return chunks_of(layout) + 3;
  const size_t depth = layout.policy.matches_times() ? static_cast<size_t>(options.depth) + 1 : 0;
  return queue_of(has_state, options) + depth + kSpareSamples * (depth ? 2 : 1);
}

size_t most_samples_of_item(const ModalityLayout& layout) {
  if (!layout.has_rows) return 2;
  return static_cast<size_t>(std::min(layout.policy.length, layout.policy.chunks + 3));
}

}  // namespace

ModalityState::ModalityState(const ModalityLayout& layout, size_t dimensions, size_t at,
                             bool encoder, bool has_state, bool is_lazy, const Jumps& jumps,
                             const StreamOptions& options)
    : place(at),
      required(layout.modality->required),
      repeats(layout.modality->absent == Absent::kLast && !layout.modality->required),
      has_encoder(encoder),
      lazy(is_lazy),
      sensor(layout.modality->required, options.recover_after),
      slots(encoder ? kSpareSlots + windows_of_chunk(layout) : 0),
      layout_(layout),
      jumps_(jumps),
      dimensions_(dimensions),
      depth_(static_cast<size_t>(options.depth)),
      most_windows_(windows_of_chunk(layout)),
      most_chunks_(chunks_of(layout)),
      pool_(layout, dimensions, samples_of(layout, has_state, options)),
      items_(dimensions,
             kSpareItems + 2 * windows_of_chunk(layout) + queue_of(has_state, options),
             most_samples_of_item(layout)),
      clock_({}, 0.0) {
  const Policy& policy = layout.policy;
  if (has_state) {
    const auto after = options.reset_after.find(layout.modality->name);
    sequence.emplace(after == options.reset_after.end() ? std::nullopt
                                                        : std::optional<double>(after->second));
  }
  std::optional<double> limit_ms = layout.modality->max_age_ms;
  if (policy.max_age_ms && policy.kind != Policy::Kind::kLatest &&
      policy.kind != Policy::Kind::kExact) {
    limit_ms = policy.max_age_ms;
  }
  if (limit_ms) limit = *limit_ms / 1000.0;
  clock_ = SourceClock(limit, options.future);
  if (policy.matches_times()) {
    history_.emplace(layout, limit, static_cast<size_t>(options.depth));
  } else if (layout.has_rows) {
    ring_.emplace(layout, most_chunks_ + 3);
    windows.emplace();
    for (const InputLayout& input : layout.inputs) {
      const int dimension = input.dimensions[input.row_axis];
      if (dimension >= 0) row_dimensions_.push_back(static_cast<size_t>(dimension));
    }
  }
  if (!layout.has_rows) wait = policy.wait_ms / 1000.0;
  newest_.reserve(most_windows_);
  arrived_.reserve(most_windows_);
  queue_.reserve(kSpareItems + 2 * most_windows_ + queue_of(has_state, options));
  if (!history_ && !ring_) return;
  size_t bytes = 0;
  for (const InputLayout& input : layout.inputs) bytes += align_up(input.window_bytes);
  built_memory_.resize(2 * bytes + 64);
  uint8_t* memory = built_memory_.data();
  memory += align_up(reinterpret_cast<uintptr_t>(memory)) - reinterpret_cast<uintptr_t>(memory);
  for (std::vector<TensorView>& views : built_) {
    for (const InputLayout& input : layout.inputs) {
      TensorView view;
      view.data = memory;
      views.push_back(view);
      memory += align_up(input.window_bytes);
    }
  }
}

// Accounts of items.

void ModalityState::hold(Item* item) noexcept {
  for (size_t i = 0; i < item->count; ++i) ++item->samples[i]->holders;
  if (windows) ++item->holders;
  ++item->refs;
}

void ModalityState::release(Item* item, DropReason reason) noexcept {
  for (size_t i = 0; i < item->count; ++i) ledger.release(item->samples[i], reason);
  if (windows) windows->release(item, reason);
  if (--item->refs == 0) {
    slots.release(item->features);
    item->features = -1;
  }
}

void ModalityState::condemn(Item* item, DropReason reason) noexcept {
  for (size_t i = 0; i < item->count; ++i) {
    if (item->samples[i]->fate == DropReason::kNone) item->samples[i]->fate = reason;
  }
  if (windows && item->fate == DropReason::kNone) item->fate = reason;
}

void ModalityState::use(Item* item) noexcept {
  for (size_t i = 0; i < item->count; ++i) ledger.use(item->samples[i]);
  if (windows) windows->use(item);
}

// What comes in.

DropReason ModalityState::stamp_fault(double t, double now) const noexcept {
  const DropReason fault = clock_.fault(t, now);
  if (fault == DropReason::kNone && history_ && history_->has(t)) {
    // Of a clock that was set back, stamps may come again.
    return clock_.is_set_back(t, now) ? DropReason::kNone : DropReason::kDuplicate;
  }
  return fault;
}

Sample* ModalityState::take_sample() noexcept {
  return ring_ && ring_->is_full() ? nullptr : pool_.take();
}

void ModalityState::receive(Sample* sample, DropReason fault, bool lying) noexcept {
  arrived_.clear();
  if (fault != DropReason::kNone) {
    if (fault != DropReason::kDuplicate) sensor.note_problem(drop_reason_name(fault), lying);
    if (!lying) clock_.suspect(sample->t, sample->arrival);
    refuse(sample, fault);
    return;
  }
  if (!clock_.newest() || sample->t > *clock_.newest()) {
    clock_.accept(sample->t, sample->arrival);
    accept(sample);
    return;
  }
  if (clock_.is_set_back(sample->t, sample->arrival)) {
    restart(sample);
    return;
  }
  clock_.suspect(sample->t, sample->arrival);
  if (!history_) {
    refuse(sample, DropReason::kOutOfOrder);
  } else if (history_->is_useful(sample->t)) {
    insert(sample);
  } else {
    refuse(sample, DropReason::kLate);
  }
}

void ModalityState::refuse(Sample* sample, DropReason reason) noexcept {
  if (ring_ && !ring_->repeats(*sample)) {
    // A window over the gap would join what was not one after the other.
    Text why("a chunk was dropped as ");
    begin_window_anew(why.add(drop_reason_name(reason)), reason);
  } else if (!ring_ && reason != DropReason::kDuplicate) {
    miss(1, reason);
  }
  ledger.drop(sample, reason);
  if (reason != DropReason::kDuplicate) sensor.refusal = reason;
}

void ModalityState::begin_window_anew(const Text& why, DropReason reason) noexcept {
  ring_->clear(why);
  release_all(ring_->gone(), DropReason::kGap);
  // How many windows the rows would have made, nobody can tell.
  miss(1, reason);
}

Item* ModalityState::make_item(Sample* sample) noexcept {
  Item* item = items_.make();
  if (item == nullptr) return nullptr;
  item->samples[0] = sample;
  item->count = 1;
  item->t = item->end = sample->t;
  std::copy(sample->sizes, sample->sizes + dimensions_, item->sizes);
  item->epoch = epoch_;
  return item;
}

Item* ModalityState::make_item(const Pick& pick, double t) noexcept {
  Item* item = make_item(pick.before);
  if (item == nullptr || pick.after == nullptr) return item;
  item->build = Item::Build::kBlend;
  item->samples[1] = pick.after;
  item->count = 2;
  item->end = pick.after->t;
  item->weight = (t - pick.before->t) / (pick.after->t - pick.before->t);
  item->asked_t = t;
  return item;
}

void ModalityState::accept(Sample* sample) noexcept {
  if (history_) {
    insert(sample);
    if (Item* item = make_item(sample)) arrived_.push_back(item);
    return;
  }
  sensor.note_good();
  if (ring_) {
    cut_windows(sample);
  } else if (Item* item = make_item(sample)) {
    arrived_.push_back(item);
  }
  if (!arrived_.empty() && lazy) {
    replace_newest(true, DropReason::kSuperseded);
  } else if (!arrived_.empty()) {
    if (!sequence) drop_queue(DropReason::kSuperseded, false);
    for (Item* item : arrived_) enqueue(item);
    if (sequence) miss(trim_queue(std::max(depth_, arrived_.size())), DropReason::kQueueFull);
  }
  // Not before the windows that they are part of are held.
  if (ring_) {
    ring_->drop_unreachable();
    release_all(ring_->gone(), DropReason::kSuperseded);
  }
}

void ModalityState::cut_windows(Sample* sample) noexcept {
  Text why;
  if (ring_->has_gap(*sample, &why)) begin_window_anew(why, DropReason::kGap);
  ++sample->holders;
  ring_->add(sample);
  windows->skip(ring_->left_out(), DropReason::kQueueFull);
  miss(ring_->left_out(), DropReason::kQueueFull);
  for (int64_t number = 0; number < ring_->windows(); ++number) {
    Item* item = items_.make();
    if (item == nullptr || !ring_->make_window(number, item, items_.most_samples())) {
      windows->skip(1, DropReason::kQueueFull);
      miss(1, DropReason::kQueueFull);
      continue;
    }
    std::copy(sample->sizes, sample->sizes + dimensions_, item->sizes);
    for (size_t dimension : row_dimensions_) item->sizes[dimension] = layout_.policy.length;
    item->epoch = epoch_;
    windows->take();
    arrived_.push_back(item);
  }
}

void ModalityState::insert(Sample* sample) noexcept {
  sensor.note_good();
  ++sample->holders;
  Sample* oldest = history_->insert(sample);
  if (oldest != nullptr) ledger.release(oldest, DropReason::kQueueFull);
}

void ModalityState::restart(Sample* sample) noexcept {
  ++jumps;
  miss(drop_queue(DropReason::kClockJump, false), DropReason::kClockJump);
  clear(DropReason::kClockJump, "its source's clock was set back", &clock_);
  if (sequence) sequence->jump();
  clock_.restart(sample->t, sample->arrival);
  accept(sample);
}

void ModalityState::clear(DropReason reason, const Text& why, const SourceClock* keep) noexcept {
  drop_queue(reason, false);
  replace_newest(false, reason);
  replace_ready(nullptr, reason);
  if (history_) {
    history_->clear(keep);
    release_all(history_->gone(), reason);
  }
  if (ring_) {
    ring_->clear(why);
    release_all(ring_->gone(), reason);
  }
  clock_.clear();
  ++epoch_;
  ended_by_ = reason;
}

void ModalityState::forget(DropReason reason, const char* problem) noexcept {
  drop_queue(reason, true);
  Text why("the stream was told to forget (");
  clear(reason, why.add(drop_reason_name(reason)).add(")"), nullptr);
  if (sequence) sequence->restart();
  encoder_error.clear();
  sensor.begin(problem);
}

void ModalityState::close() noexcept {
  drop_queue(DropReason::kClosed, true);
  if (running_ != nullptr) release(running_, DropReason::kClosed);
  running_ = nullptr;
  clear(DropReason::kClosed, "the stream was closed", nullptr);
}

void ModalityState::release_all(const std::vector<Sample*>& gone, DropReason reason) noexcept {
  for (Sample* sample : gone) ledger.release(sample, reason);
}

void ModalityState::replace_ready(Item* item, DropReason reason) noexcept {
  if (item != nullptr) hold(item);
  if (ready != nullptr) release(ready, reason);
  ready = item;
}

void ModalityState::replace_newest(bool by_arrived, DropReason reason) noexcept {
  if (by_arrived) {
    for (Item* item : arrived_) hold(item);
  }
  for (Item* item : newest_) release(item, reason);
  newest_.clear();
  if (by_arrived) newest_.insert(newest_.end(), arrived_.begin(), arrived_.end());
}

// The encoder.

void ModalityState::enqueue(Item* item) noexcept {
  hold(item);
  item->progress = Progress::kQueued;
  queue_.push_back(item);
}

int64_t ModalityState::drop_queue(DropReason reason, bool with_pinned) noexcept {
  int64_t count = 0;
  for (size_t i = 0; i < queue_.size();) {
    if (with_pinned || !queue_[i]->pinned) {
      dequeue(queue_[i], reason);
      ++count;
    } else {
      ++i;
    }
  }
  return count;
}

int64_t ModalityState::trim_queue(size_t most) noexcept {
  size_t surplus = queue_.size() > most ? queue_.size() - most : 0;
  int64_t count = 0;
  for (size_t i = 0; i < queue_.size() && surplus > 0;) {
    if (queue_[i]->pinned) {
      ++i;
      continue;
    }
    dequeue(queue_[i], DropReason::kQueueFull);
    --surplus;
    ++count;
  }
  return count;
}

void ModalityState::dequeue(Item* item, DropReason reason) noexcept {
  queue_.erase(std::find(queue_.begin(), queue_.end(), item));
  item->progress = Progress::kNew;
  release(item, reason);
}

void ModalityState::withdraw(Item* item, DropReason reason) noexcept {
  // An encoder with state takes it all the same.
  if (sequence) return;
  if (std::find(queue_.begin(), queue_.end(), item) != queue_.end()) dequeue(item, reason);
}

void ModalityState::submit(Item* item) noexcept {
  item->pinned = true;
  if (!has_encoder) {
    item->progress = Progress::kReady;
  } else if (item->progress == Progress::kNew) {
    enqueue(item);
  }
}

Item* ModalityState::next_job(double now) noexcept {
  if (running_ != nullptr || queue_.empty()) return nullptr;
  running_ = queue_.front();
  queue_.erase(queue_.begin());
  running_->progress = Progress::kRunning;
  if (sequence) running_->turn = sequence->begin(running_->end);
  started = now;
  return running_;
}

const TensorView* ModalityState::build(const Item& item, Text* message) noexcept {
  if (item.build == Item::Build::kValue) return item.samples[0]->values;
  std::vector<TensorView>& views = built_[build_to_];
  if (item.build == Item::Build::kRows) {
    ring_->join(item, views.data());
    return views.data();
  }
  for (size_t k = 0; k < layout_.inputs.size(); ++k) {
    const TensorView& before = item.samples[0]->values[k];
    void* memory = views[k].data;
    views[k] = before;
    views[k].data = memory;
    const InputLayout& input = layout_.inputs[k];
    if (!blend(before, item.samples[1]->values[k], item.weight, input.quaternions, input.angles,
               views[k], message)) {
      return nullptr;
    }
  }
  return views.data();
}

int ModalityState::slot_of_same(const TensorView* inputs) const noexcept {
  if (content_ == nullptr || !has_same_content(inputs, content_, layout_.inputs.size())) return -1;
  return content_slot_;
}

void ModalityState::keep_content(const Item& item, const TensorView* inputs, int slot) noexcept {
  Sample* sample = item.build == Item::Build::kValue ? item.samples[0] : nullptr;
  if (sample != nullptr) {
    ++sample->pins;
  } else {
    build_to_ = 1 - build_to_;
  }
  if (content_sample_ != nullptr) --content_sample_->pins;
  content_sample_ = sample;
  content_ = inputs;
  slots.hold(slot);
  slots.release(content_slot_);
  content_slot_ = slot;
}

void ModalityState::follow_clock(double ahead) noexcept {
  started += ahead;
  if (sequence) sequence->follow_clock(ahead);
}

bool ModalityState::finish(Item* item, double now) noexcept {
  running_ = nullptr;
  const bool is_kept = sequence && sequence->finish(*item->turn);
  // Whether a result uses its features or not, those after it depend on it.
  if (is_kept) use(item);
  item->features = outcome.slot;
  outcome.slot = -1;
  item->progress = Progress::kReady;
  encoder_error.clear();
  if (outcome.is_skipped) {
    ++skipped;
  } else {
    ++encodes;
    encoding.observe(now - started);
  }
  if (item->epoch == epoch_) replace_ready(item, DropReason::kSuperseded);
  // Of this epoch it is held as ready now, and the reason has no effect.
  release(item, ended_by_);
  return is_kept;
}

void ModalityState::fail(Item* item) noexcept {
  running_ = nullptr;
  item->progress = Progress::kFailed;
  item->error = outcome.message;
  ++errors;
  last_error = outcome.message;
  if (sequence) sequence->fail(*item->turn, DropReason::kEncoderError);
  if (item->epoch == epoch_) {
    encoder_error = outcome.message;
    sensor.note_problem(Text("encoder_error: ").add(outcome.message), false);
  }
  if (item->count == 1) {
    condemn(item, DropReason::kEncoderError);
    const auto found = std::find(newest_.begin(), newest_.end(), item);
    if (found != newest_.end()) {
      newest_.erase(found);
      release(item, DropReason::kEncoderError);
    }
    if (history_ && history_->discard(item->samples[0])) {
      ledger.release(item->samples[0], DropReason::kEncoderError);
    }
  }
  release(item, DropReason::kEncoderError);
}

}  // namespace mmedge::runtime::stream
