// Backends that an application brings.
#ifndef MMEDGE_API_OWN_BACKEND_H_
#define MMEDGE_API_OWN_BACKEND_H_

#include "backends/backend.h"
#include "mmedge/backend.h"

namespace mmedge::api {

// The same as a backend of the runtime; the table may go, but not its `user`. Throws Error(kInput)
// where it has another size, or a name or a function is missing.
runtime::Backend make_own_backend(const mmedge_backend* table);

}  // namespace mmedge::api

#endif  // MMEDGE_API_OWN_BACKEND_H_
