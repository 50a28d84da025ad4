// One modality in a stream: what has come, what is being encoded, what is ready.
#ifndef MMEDGE_RUNTIME_STREAM_MODALITY_STATE_H_
#define MMEDGE_RUNTIME_STREAM_MODALITY_STATE_H_

#include <memory>
#include <optional>
#include <vector>

#include "stream/history.h"
#include "stream/jumps.h"
#include "stream/latency_predictor.h"
#include "stream/layout.h"
#include "stream/options.h"
#include "stream/presence.h"
#include "stream/ring.h"
#include "stream/sample.h"
#include "stream/slots.h"
#include "stream/source_clock.h"
#include "stream/state_sequence.h"

namespace mmedge::runtime::stream {

// What stands for a modality: an item, or null for its stand-in; and why it is absent.
struct Choice {
  Item* item = nullptr;
  Text absent;             // empty: it is present
  bool stands_in = false;  // the item, within its age, replaces one that could not be encoded
  Text note;               // what a reader should know of a modality that is present
};

// Outcome of an encoding.
struct Encoded {
  bool has_failed = false;
  bool is_skipped = false;  // the content was that of the one before
  int slot = -1;
  Text message;
};

// Holdings and presence of one modality: mmedge/stream/modality_state.py. All it needs is set aside
// when it is made; afterwards nothing is allocated.
class ModalityState {
 public:
  // `has_state`: its encoder takes every value, once and in order. `jumps` are those of the stream's
  // time. Throws Error, std::bad_alloc.
  ModalityState(const ModalityLayout& layout, size_t dimensions, size_t place, bool has_encoder,
                bool has_state, bool is_lazy, const Jumps& jumps, const StreamOptions& options);

  const size_t place;      // in the manifest
  const bool required;
  const bool repeats;      // its last good value stands in for it
  const bool has_encoder;
  const bool lazy;         // encoded at the trigger and not on arrival
  // Farthest in seconds that what is used may lie from the trigger's time; none: any.
  std::optional<double> limit;
  // Seconds that a trigger waits for what its policy asks for.
  double wait = 0;
  SampleAccounting ledger;
  std::optional<SampleAccounting> windows;
  int64_t encodes = 0, skipped = 0, errors = 0, jumps = 0;
  Text last_error;
  // Message of the newest run of the encoder where that failed; empty: it gave features.
  Text encoder_error;
  double started = 0;  // when the encoding under way was begun
  LatencyPredictor encoding;
  Item* ready = nullptr;  // newest item whose features are there
  Presence sensor;
  Slots slots;            // of features
  Encoded outcome;        // of the encoding under way
  std::optional<StateSequence> sequence;  // of its encoder's states; none: it has none
  // The number of the first jump of the stream's time since the trigger at work came.
  int64_t first_jump = 0;

  const ModalityLayout& layout() const noexcept { return layout_; }
  size_t most_windows() const noexcept { return most_windows_; }
  size_t most_samples() const noexcept { return items_.most_samples(); }

  // Accounts of items: who holds one keeps its samples, and its window, from being dropped.
  void hold(Item* item) noexcept;
  void release(Item* item, DropReason reason) noexcept;
  void condemn(Item* item, DropReason reason) noexcept;
  void use(Item* item) noexcept;

  // Seconds by which its source's clock was set back, and is behind since.
  double behind() const noexcept { return clock_.lag(); }
  // Why a sample of this stamp is refused whatever it holds.
  DropReason stamp_fault(double t, double now) const noexcept;
  // A sample to fill and receive, pinned once; null: there is no room. The other is for one that is
  // surely refused.
  Sample* take_sample() noexcept;
  void fill(Sample* sample, const TensorView* values, const int64_t* sizes) const noexcept {
    pool_.fill(sample, values, sizes);
  }
  Sample* make_passing(const TensorView* values, const int64_t* sizes) noexcept {
    return pool_.passing(values, sizes);
  }
  // Takes in a sample, or drops it; what may trigger is in arrived(), oldest first. `fault` says
  // why it is bad, and `lying` that this is about its content.
  void receive(Sample* sample, DropReason fault, bool lying) noexcept;
  const std::vector<Item*>& arrived() const noexcept { return arrived_; }
  // Begins as if nothing had come; `problem` is why it is absent until something does.
  void forget(DropReason reason, const char* problem) noexcept;
  // Lets go of everything; nothing comes any more.
  void close() noexcept;

  // Takes an item whose encoding has not begun out of the queue: no trigger needs it any more.
  void withdraw(Item* item, DropReason reason) noexcept;
  // Sees to it that an item that a trigger waits for is encoded.
  void submit(Item* item) noexcept;
  // The item to encode now; null while there is none or one is being encoded.
  Item* next_job(double now) noexcept;
  // Inputs of an item, in memory that stays until the next call; null: they cannot be made, and
  // `message` says why.
  const TensorView* build(const Item& item, Text* message) noexcept;
  // Where the features of the last content that was encoded are, if it was the same; else -1.
  int slot_of_same(const TensorView* inputs) const noexcept;
  // Notes the content of an encoding, as build() gave it, and where its features are.
  void keep_content(const Item& item, const TensorView* inputs, int slot) noexcept;
  // Ends an encoding. True: the states that it left are to be kept.
  bool finish(Item* item, double now) noexcept;
  void fail(Item* item) noexcept;
  // Goes on timing what is under way after a jump of the time, in seconds.
  void follow_clock(double ahead) noexcept;

  // How old what is used for the trigger at work is at its time `t`, in seconds.
  double age(const Item& item, double t) const noexcept { return t - item.t + lead(item); }
  // For a lazy modality: what stands for it at a trigger's time.
  void choose(double t, Choice* choice) noexcept;
  bool is_settled(double t) const noexcept { return !history_ || history_->is_settled(t); }
  // The newest sample's item if it would do at time `t` but is still being encoded.
  Item* unready(double t) noexcept;
  // When the first item that would do at time `t` is expected to be encoded; none: none is under way.
  std::optional<double> due(double t, double now) noexcept;
  double expected_end(const Item* item, double now) const noexcept;
  // From when on the encoder must be taken to hang.
  double overdue(double now) const noexcept;
  bool matches_times() const noexcept { return history_.has_value(); }
  // The newest encoded item where it would do at time `t` in place of one that is not.
  Item* older(double t) noexcept;
  // What may stand in after a failed encoding: the newest encoded item within a stated age.
  Item* last_good(double t) noexcept;
  // Whether it is absent at time `t` if `item` is what there is; says why.
  bool is_absent(const Item* item, double t, bool is_trigger, Text* why) const noexcept;
  // Adds what a result with outputs that uses an item should say of its encoder's state.
  void state_note(const Item& item, Text* note) noexcept {
    if (sequence && item.turn) sequence->tell(*item.turn, note);
  }
  // What a result that uses an older sample should say of the newest.
  void newest_note(Text* note) const noexcept;
  // Whether a result at this moment would do without it; says why.
  bool is_missing(double now, Text* why) noexcept;
  // Whether what is held of it does not count, however young it is; says why.
  bool is_distrusted(Text* why) const noexcept;

 private:
  Item* make_item(Sample* sample) noexcept;
  Item* make_item(const Pick& pick, double t) noexcept;
  void refuse(Sample* sample, DropReason reason) noexcept;
  void accept(Sample* sample) noexcept;
  void cut_windows(Sample* sample) noexcept;
  void insert(Sample* sample) noexcept;
  void restart(Sample* sample) noexcept;
  void clear(DropReason reason, const Text& why, const SourceClock* keep) noexcept;
  void release_all(const std::vector<Sample*>& gone, DropReason reason) noexcept;
  void replace_ready(Item* item, DropReason reason) noexcept;
  void replace_newest(bool by_arrived, DropReason reason) noexcept;
  void enqueue(Item* item) noexcept;
  // How many were dropped.
  int64_t drop_queue(DropReason reason, bool with_pinned) noexcept;
  // Drops the oldest of more than `most` items that wait for an encoder with state; how many. No
  // trigger waits for one of them: one that waits is of the newest, or has it pinned.
  int64_t trim_queue(size_t most) noexcept;
  // Notes values that its encoder's state will not take.
  void miss(int64_t count, DropReason reason) noexcept {
    if (sequence) sequence->miss(count, reason);
  }
  void begin_window_anew(const Text& why, DropReason reason) noexcept;
  // Seconds that the clock was set ahead by after the trigger came and before an item did.
  double lead(const Item& item) const noexcept;
  void dequeue(Item* item, DropReason reason) noexcept;
  double begun(double now) const noexcept { return running_ == nullptr ? now : started; }
  void add_problem(Text* text) const noexcept;
  Item* newest_item() noexcept;

  const ModalityLayout& layout_;
  const Jumps& jumps_;
  size_t dimensions_, depth_;
  size_t most_windows_, most_chunks_;
  SamplePool pool_;
  ItemPool items_;
  SourceClock clock_;
  std::optional<History> history_;
  std::optional<Ring> ring_;
  std::vector<size_t> row_dimensions_;  // sizes that a window has and its chunks have not
  std::vector<Item*> newest_;  // of a lazy modality, what came with the newest sample
  std::vector<Item*> queue_, arrived_;
  Item* running_ = nullptr;
  int64_t epoch_ = 0;
  DropReason ended_by_ = DropReason::kNone;  // why the last epoch ended
  // Two places for inputs that are made: what was encoded last stays while the next are made.
  std::vector<uint8_t> built_memory_;
  std::vector<TensorView> built_[2];
  size_t build_to_ = 0;
  // Content of the last run of the encoder: of a sample that is pinned, or in built_.
  const TensorView* content_ = nullptr;
  Sample* content_sample_ = nullptr;
  int content_slot_ = -1;
};

}  // namespace mmedge::runtime::stream

#endif  // MMEDGE_RUNTIME_STREAM_MODALITY_STATE_H_
