// Special tokens around a text.
#ifndef MMEDGE_RUNTIME_TEXT_POST_PROCESSOR_H_
#define MMEDGE_RUNTIME_TEXT_POST_PROCESSOR_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "schema/json.h"

namespace mmedge::runtime {

struct PostProcessor {
  // `value` is the file's part. Throws Error(kBundle).
  explicit PostProcessor(const std::optional<JsonValue>& value);

  std::vector<uint32_t> before, after;
};

}  // namespace mmedge::runtime

#endif  // MMEDGE_RUNTIME_TEXT_POST_PROCESSOR_H_
