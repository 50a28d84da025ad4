// What went wrong in a call, in memory that is there already: calls throw and allocate nothing.
#include "execution/call_error.h"

#include <cstdarg>
#include <cstdio>

namespace mmedge::runtime {

Code CallError::set(Code new_code, const char* format, ...) noexcept {
  va_list arguments;
  va_start(arguments, format);
  if (std::vsnprintf(text, sizeof text, format, arguments) < 0) text[0] = '\0';
  va_end(arguments);
  return code = new_code;
}

}  // namespace mmedge::runtime
