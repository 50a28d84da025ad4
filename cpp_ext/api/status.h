// The text behind mmedge_last_error().
#ifndef MMEDGE_API_STATUS_H_
#define MMEDGE_API_STATUS_H_

#include "mmedge/kernels.h"

namespace mmedge {

// Keep a message, as printf makes it, for mmedge_last_error(); returns `status`.
[[gnu::format(printf, 2, 3)]] mmedge_status fail(mmedge_status status, const char* format, ...);

}  // namespace mmedge

#endif  // MMEDGE_API_STATUS_H_
