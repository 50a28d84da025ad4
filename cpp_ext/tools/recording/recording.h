// Recordings of what sensors pushed: a folder, or one MCAP file (docs/reference/recording.md).
// mmedge/recording in C++.
//
// Files are mapped and read in order: a folder's chunks one at a time. Every rule of the format is
// checked, and time and memory are in proportion to what lies in the file.
#ifndef MMEDGE_TOOLS_RECORDING_RECORDING_H_
#define MMEDGE_TOOLS_RECORDING_RECORDING_H_

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tensor.h"

namespace mmedge::tools {

// What was pushed: an array for each input by its name, or the one array of a modality of one input
// under the empty name, or the UTF-8 bytes of a text.
struct Value {
  bool is_text = false;
  std::vector<std::pair<std::string, runtime::TensorView>> tensors;
};

// One sample: when it was measured, when it was pushed, both in seconds of the recorder's clock.
struct Recorded {
  size_t modality = 0;  // its place in the recording's
  double t = 0;
  double arrival = 0;
  Value value;  // views that are valid while the sample is handed out, and not written to
};

// Samples in the order of their arrivals.
class Recording {
 public:
  virtual ~Recording() = default;

  // Hands each sample to `take`, reading all anew. Throws Error(kInput): one cannot be read or
  // trusted; or whatever `take` throws.
  virtual void read(const std::function<void(const Recorded&)>& take) const = 0;

  std::string name;                     // the last part of its path
  std::string bundle;                   // name of the bundle for which it was recorded
  std::vector<std::string> modalities;  // that it may hold
  std::string missing;                  // what is missing, in words; empty: nothing is
};

// Opens a recording. Throws Error(kInput): nothing readable is there, or it is no recording of this
// version.
std::unique_ptr<Recording> open_recording(const std::string& path);

// The two forms; open_recording() tells them apart.
std::unique_ptr<Recording> open_folder(const std::string& path);
std::unique_ptr<Recording> open_mcap(const std::string& path);

}  // namespace mmedge::tools

#endif  // MMEDGE_TOOLS_RECORDING_RECORDING_H_
