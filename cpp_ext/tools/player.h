// Plays samples through a stream of libmmedge on a simulated clock, and writes its results.
#ifndef MMEDGE_TOOLS_PLAYER_H_
#define MMEDGE_TOOLS_PLAYER_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "mmedge/stream.h"
#include "recording/recording.h"
#include "result_lines.h"
#include "spec.h"

namespace mmedge::tools {

// What results are made for, and by when.
struct Trigger {
  std::string name;        // a modality or "any"; empty: `hz`
  double hz = 0;
  double deadline_ms = 0;  // 0: there is none
};

// The clock stands at 0 first, and moves from event to event. Stages take no time. Each function
// throws Error where the stream refuses something, or results cannot be written.
class Player {
 public:
  // `largest`: sizes of dimensions, as the stream's options have them. The manifest stays as long as
  // this.
  Player(mmedge_pipeline* pipeline, const runtime::Manifest& manifest, const Trigger& trigger,
         const std::map<std::string, int64_t>& largest);

  ResultLines& lines() { return *lines_; }

  // Pushes a value of a modality, by its place, at time `due`, once all before has happened.
  void push(size_t place, const Value& value, double due, double stamp);
  // Lets what is under way come to its end, and writes the last line. A timer has no end.
  void finish();

 private:
  // Lets all happen that is due now, and writes what came of it.
  void settle();
  // Moves the clock over a time in which nothing is due.
  void creep_to(double time);
  void advance_to(double time);
  // Lets what is due next happen, if that is by `limit`.
  bool step(double limit);

  struct Close {
    void operator()(mmedge_stream* stream) const { mmedge_stream_close(stream); }
  };

  const runtime::Manifest& manifest_;
  bool is_timer_;
  double now_ = 0;
  std::unique_ptr<mmedge_stream, Close> stream_;
  std::unique_ptr<ResultLines> lines_;
  std::vector<int64_t> pushed_;
};

}  // namespace mmedge::tools

#endif  // MMEDGE_TOOLS_PLAYER_H_
