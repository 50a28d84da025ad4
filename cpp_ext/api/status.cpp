// The text behind mmedge_last_error().
#include "status.h"

#include <cstdarg>
#include <cstdio>

namespace mmedge {
namespace {

thread_local char message[512];

}  // namespace

mmedge_status fail(mmedge_status status, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(message, sizeof message, format, arguments);
  va_end(arguments);
  return status;
}

}  // namespace mmedge

const char* mmedge_last_error(void) { return mmedge::message; }

int mmedge_abi_version(void) { return MMEDGE_ABI_VERSION; }
