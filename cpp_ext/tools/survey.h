// What a stream has to know of a recording's samples before the first.
#ifndef MMEDGE_TOOLS_SURVEY_H_
#define MMEDGE_TOOLS_SURVEY_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "recording/recording.h"
#include "spec.h"

namespace mmedge::tools {

// Looks at each sample once. Nothing is kept of a sample but sizes and counts.
class Survey {
 public:
  // `places`: of the recording's modalities in the manifest. All stay as long as this.
  Survey(const Recording& recording, const runtime::Manifest& manifest,
         const std::vector<size_t>& places);

  void look(const Recorded& sample);

  // Throws Error(kInput): there are texts, which streams of libmmedge do not take.
  void check_texts(int64_t samples) const;
  // `stated`, and sizes for other dimensions of which the bundle states no largest.
  std::map<std::string, int64_t> largest(const std::map<std::string, int64_t>& stated) const;

 private:
  const Recording& recording_;
  const runtime::Manifest& manifest_;
  const std::vector<size_t>& places_;
  std::map<std::string, runtime::TensorSpec> specs_;
  std::map<std::string, int64_t> texts_;  // by modality
  std::map<std::string, int64_t> sizes_;  // the largest, by dimension
};

}  // namespace mmedge::tools

#endif  // MMEDGE_TOOLS_SURVEY_H_
