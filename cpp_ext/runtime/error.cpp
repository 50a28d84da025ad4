// Texts of errors.
#include "error.h"

#include <cstdio>

namespace mmedge::runtime {

std::string message_text(const char* format, va_list arguments) {
  va_list again;
  va_copy(again, arguments);
  std::string text(static_cast<size_t>(std::vsnprintf(nullptr, 0, format, again)), '\0');
  va_end(again);
  std::vsnprintf(&text[0], text.size() + 1, format, arguments);
  return text;
}

}  // namespace mmedge::runtime
