// What went wrong in a call, in memory that is there already: calls throw and allocate nothing.
#ifndef MMEDGE_RUNTIME_EXECUTION_CALL_ERROR_H_
#define MMEDGE_RUNTIME_EXECUTION_CALL_ERROR_H_

#include "error.h"

namespace mmedge::runtime {

struct CallError {
  Code code = Code::kOk;
  char text[512] = {};

  // Sets both, as printf formats the text, and returns the code. A longer text is cut.
  Code set(Code new_code, const char* format, ...) noexcept __attribute__((format(printf, 3, 4)));
};

}  // namespace mmedge::runtime

#endif  // MMEDGE_RUNTIME_EXECUTION_CALL_ERROR_H_
