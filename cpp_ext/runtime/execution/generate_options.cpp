// Options of a call that generates: the caller's, checked, and else those of the bundle.
#include "execution/generate_options.h"

#include <algorithm>

namespace mmedge::runtime {
namespace {

Code check_whole(const char* name, int64_t value, int64_t least, int64_t most,
                 CallError* error) noexcept {
  if (least <= value && value <= most) return Code::kOk;
  return error->set(Code::kInput, "%s: expected a whole number from %lld to %lld, got %lld", name,
                    static_cast<long long>(least), static_cast<long long>(most),
                    static_cast<long long>(value));
}

Code check_number(const char* name, double value, double most, CallError* error) noexcept {
  if (0.0 <= value && value <= most) return Code::kOk;
  return error->set(Code::kInput, "%s: expected a number from 0 to %g, got %g", name, most, value);
}

}  // namespace

Code check_generate_options(const GenerateOptions& options, const GenerateLoop& loop, int64_t most,
                            CallError* error) noexcept {
  constexpr auto ok = Code::kOk;
  if (options.limit && check_whole("limit", *options.limit, 1, loop.limit, error) != ok) {
    return error->code;
  }
  if (options.stop) {
    for (size_t i = 0; i < options.stop->count; ++i) {
      if (check_whole("stop", options.stop->data[i], 0, most, error) != ok) return error->code;
    }
    if (options.stop->count > kMaxStops) {
      return error->set(Code::kInput, "stop: expected at most %zu tokens, got %zu", kMaxStops,
                        options.stop->count);
    }
  }
  if (options.temperature &&
      check_number("temperature", *options.temperature, 100.0, error) != ok) {
    return error->code;
  }
  if (options.top_k && check_whole("top_k", *options.top_k, 0, int64_t{1} << 31, error) != ok) {
    return error->code;
  }
  if (options.top_p) {
    if (check_number("top_p", *options.top_p, 1.0, error) != ok) return error->code;
    if (*options.top_p == 0.0) {
      return error->set(Code::kInput, "top_p: expected a number above 0, to 1, got 0");
    }
  }
  if (options.forced != nullptr && options.forced_rows > 0 && options.forced_count > 0) {
    const auto [low, high] = std::minmax_element(
        options.forced, options.forced + options.forced_rows * options.forced_count);
    if (*low < 0 || *high > most) {
      return error->set(Code::kInput, "forced: expected tokens from 0 to %lld, got %lld to %lld",
                        static_cast<long long>(most), static_cast<long long>(*low),
                        static_cast<long long>(*high));
    }
  }
  return ok;
}

}  // namespace mmedge::runtime
