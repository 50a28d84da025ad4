// Options of a call that generates: the caller's, checked, and else those of the bundle.
#ifndef MMEDGE_RUNTIME_EXECUTION_GENERATE_OPTIONS_H_
#define MMEDGE_RUNTIME_EXECUTION_GENERATE_OPTIONS_H_

#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>

#include "execution/call_error.h"
#include "spec.h"

namespace mmedge::runtime {

// Most tokens that may end a row.
constexpr size_t kMaxStops = 4096;

// Tokens that somebody else owns.
struct TokenList {
  const int64_t* data = nullptr;
  size_t count = 0;
};

// What a caller asks for; what is left out is what the bundle says.
struct GenerateOptions {
  std::optional<int64_t> limit;
  std::optional<TokenList> stop;
  std::optional<double> temperature;
  std::optional<int64_t> top_k;
  std::optional<double> top_p;
  uint64_t seed = 0;
  // The time after which no run begins.
  double deadline = std::numeric_limits<double>::infinity();
  // [forced_rows, forced_count]: what the first choices are, whatever the scores. Null: none. It
  // stays as it is until the run has ended.
  const int64_t* forced = nullptr;
  int64_t forced_rows = 0;
  int64_t forced_count = 0;
};

// Checks what a caller asks for; kInput where it is not within its limits. `most` is the largest
// token that can be chosen.
Code check_generate_options(const GenerateOptions& options, const GenerateLoop& loop, int64_t most,
                            CallError* error) noexcept;

}  // namespace mmedge::runtime

#endif  // MMEDGE_RUNTIME_EXECUTION_GENERATE_OPTIONS_H_
