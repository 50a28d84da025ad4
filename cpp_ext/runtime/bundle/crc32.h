// CRC-32 as zip has it (ISO 3309, reflected, polynomial 0xEDB88320).
#ifndef MMEDGE_RUNTIME_BUNDLE_CRC32_H_
#define MMEDGE_RUNTIME_BUNDLE_CRC32_H_

#include <cstdint>

#include "tensor.h"

namespace mmedge::runtime {

uint32_t crc32(Bytes bytes) noexcept;

}  // namespace mmedge::runtime

#endif  // MMEDGE_RUNTIME_BUNDLE_CRC32_H_
