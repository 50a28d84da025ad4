// Notes sizes and texts.
#include "survey.h"

#include <algorithm>

#include "execution/inputs.h"
#include "recording/sample.h"

namespace mmedge::tools {

namespace rt = mmedge::runtime;

Survey::Survey(const Recording& recording, const rt::Manifest& manifest,
               const std::vector<size_t>& places)
    : recording_(recording), manifest_(manifest), places_(places) {
  for (const rt::TensorSpec& spec : rt::call_inputs(manifest)) specs_.emplace(spec.name, spec);
}

void Survey::look(const Recorded& sample) {
  const rt::Modality& modality = manifest_.modalities[places_[sample.modality]];
  if (sample.value.is_text) {
    ++texts_[modality.name];
    return;
  }
  for (const auto& [name, view] : sample.value.tensors) {
    const auto found = specs_.find(name.empty() ? modality.inputs[0] : name);
    if (found == specs_.end() || found->second.shape.size() != view.rank) continue;
    for (size_t axis = 0; axis < view.rank; ++axis) {
      const rt::Axis& size = found->second.shape[axis];
      if (size.is_dynamic()) {
        int64_t& most = sizes_[size.dimension];
        most = std::max(most, view.shape[axis]);
      }
    }
  }
}

void Survey::check_texts(int64_t samples) const {
  if (texts_.empty()) return;
  std::string counts;
  for (const auto& [name, count] : texts_) {
    counts += (counts.empty() ? "" : ", ") + std::to_string(count) + " of '" + name + "'";
  }
  throw refusal(recording_.name,
                       "of " + std::to_string(samples) + " samples are texts: " + counts +
                           "; streams of libmmedge take token ids, so record these, or play the "
                           "recording with mmedge replay --simulated");
}

std::map<std::string, int64_t> Survey::largest(
    const std::map<std::string, int64_t>& stated) const {
  std::map<std::string, int64_t> largest = stated;
  for (const auto& [name, dimension] : rt::call_dimensions(manifest_)) {
    if (dimension.max) continue;
    const auto seen = sizes_.find(name);
    const int64_t most = seen == sizes_.end() ? 0 : seen->second;
    largest.emplace(name, std::max({most, dimension.opt, dimension.min}));
  }
  return largest;
}

}  // namespace mmedge::tools
