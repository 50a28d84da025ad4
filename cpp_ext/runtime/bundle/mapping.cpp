// Maps files.
#include "bundle/mapping.h"

#include <sys/mman.h>
#include <unistd.h>

#include <utility>

namespace mmedge::runtime {

Mapping::Mapping(int fd, size_t size) {
  if (size > 0) {
    void* data = mmap(nullptr, size, PROT_READ, MAP_SHARED, fd, 0);
    if (data == MAP_FAILED) return;
    bytes_ = {static_cast<const uint8_t*>(data), size};
  }
  valid_ = true;
}

Mapping::Mapping(Mapping&& other) noexcept
    : bytes_(std::exchange(other.bytes_, Bytes{})), valid_(std::exchange(other.valid_, false)) {}

Mapping& Mapping::operator=(Mapping&& other) noexcept {
  std::swap(bytes_, other.bytes_);
  std::swap(valid_, other.valid_);
  return *this;
}

Mapping::~Mapping() {
  if (bytes_.size > 0) munmap(const_cast<uint8_t*>(bytes_.data), bytes_.size);
}

void Mapping::forget(Bytes part) const noexcept {
  // Whole pages inside the part: the ones at its ends also belong to its neighbors.
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const auto begin = (reinterpret_cast<uintptr_t>(part.data) + page - 1) / page * page;
  const auto end = reinterpret_cast<uintptr_t>(part.data + part.size) / page * page;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
}

}  // namespace mmedge::runtime
