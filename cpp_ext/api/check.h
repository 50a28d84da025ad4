// The rules of mmedge/kernels.h, checked.
#ifndef MMEDGE_API_CHECK_H_
#define MMEDGE_API_CHECK_H_

#include <cstddef>

#include "mmedge/kernels.h"

namespace mmedge {

// MMEDGE_OK where `call` obeys the rules for every device; what one device supports is not looked at.
mmedge_status check(const mmedge_segattn* call);

// MMEDGE_OK where a number of bytes can be written.
mmedge_status check_result(const size_t* bytes);

}  // namespace mmedge

#endif  // MMEDGE_API_CHECK_H_
