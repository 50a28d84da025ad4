// What a stream hands out: results, and a snapshot of its health. mmedge/stream/result.py says what
// each field means; vectors are by modality, in the manifest's order.
#ifndef MMEDGE_RUNTIME_STREAM_RESULT_H_
#define MMEDGE_RUNTIME_STREAM_RESULT_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "stream/drop_reason.h"
#include "stream/text.h"

namespace mmedge::runtime::stream {

// One sample that went into a result: its number within its modality, from 0, and its stamp.
struct Used {
  int64_t seq = 0;
  double t = 0;
};

// What a result says of one modality.
struct ModalityResult {
  std::optional<double> age;  // none: a stand-in was used
  std::vector<Used> samples;
  Text absent;                // empty: it was present
  DropCounts dropped;
  Text note;
};

struct Result {
  bool has_outputs = false;
  int slot = -1;  // of the outputs, in the stage runner
  double t = 0, made = 0, latency = 0;
  std::vector<ModalityResult> modalities;
  bool fresh = false;
  std::optional<bool> met;
  Text reason;
  double lateness = 0;
  std::optional<double> outputs_t;
  int trigger = -1;  // the modality whose sample it was made for; -1: a tick
  std::vector<Text> stage_notes;  // of fusion stages with state, in the plan's order
};

struct ModalityHealth {
  int64_t pushed = 0, used = 0;
  DropCounts dropped;
  int64_t pending = 0;
  bool present = false;
  Text reason;
  int64_t encodes = 0, encodes_skipped = 0, errors = 0;
  Text last_error;
  int64_t clock_jumps = 0;
  int64_t windows = 0, windows_used = 0;
  DropCounts windows_dropped;
  int64_t windows_pending = 0;
  int64_t state_missed = 0, state_resets = 0;
};

struct Health {
  std::vector<ModalityHealth> modalities;
  int64_t triggers = 0, triggers_superseded = 0, triggers_closed = 0, triggers_pending = 0;
  int64_t results = 0, stale = 0, empty = 0, deadline_misses = 0, results_dropped = 0;
  std::optional<double> latency_p95;
  int64_t clock_jumps = 0, clock_glitches = 0;
  Text failure;  // why the stream ended by itself; empty: it did not
  int64_t state_resets = 0;
};

}  // namespace mmedge::runtime::stream

#endif  // MMEDGE_RUNTIME_STREAM_RESULT_H_
