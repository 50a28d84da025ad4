// Results of a stream as lines of JSON, the same to the byte as those of `mmedge replay --simulated`
// (mmedge/bench/result_lines.py). docs/howto/record.md says what a line holds.
#ifndef MMEDGE_TOOLS_RESULT_LINES_H_
#define MMEDGE_TOOLS_RESULT_LINES_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "mmedge/stream.h"
#include "recording/json_text.h"

namespace mmedge::tools {

// What is played, for the first line.
struct Played {
  std::string bundle, digest, recording, variant, plan;
  std::string trigger;               // a modality or "any"; empty: `trigger_hz`
  double trigger_hz = 0;
  std::optional<double> deadline_ms;
  std::optional<double> origin;      // the first arrival; none: there is no sample
  std::string missing;
};

// Writes lines of a stream to stdout. Each throws Error(kBackend) where a call of the stream fails.
class ResultLines {
 public:
  // `modalities` are the bundle's, `outputs` the names of the network's outputs. The stream stays as
  // long as this.
  ResultLines(mmedge_stream* stream, std::vector<std::string> modalities,
              std::vector<std::string> outputs);

  void write_first(const Played& played);
  // Takes all results that there are, and writes a line for each.
  void write_results();
  // `pushed`: samples by modality.
  void write_last(const std::vector<int64_t>& pushed);

 private:
  using Drops = std::map<std::string, uint64_t>;  // by reason, without zeros

  void add_result(const mmedge_result& result, JsonText* line);
  void add_modality(int32_t index, JsonText* line);
  // Notes on fusion stages with state, and why a loop ended.
  void add_stages(JsonText* line);
  void add_finish(JsonText* line);
  void add_output(const std::string& name, JsonText* line);
  // Samples that were dropped since it was called last.
  void add_new_drops(JsonText* line);
  Drops drops(const std::string& modality) const;
  void write(const JsonText& line);

  mmedge_stream* stream_;
  std::vector<std::string> modalities_, outputs_;
  std::vector<Drops> told_;
  std::vector<uint64_t> told_in_all_;
};

// Throws Error(kBackend) with the library's words unless the call succeeded.
void check(mmedge_status status);

}  // namespace mmedge::tools

#endif  // MMEDGE_TOOLS_RESULT_LINES_H_
