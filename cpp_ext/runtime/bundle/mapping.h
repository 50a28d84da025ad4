// A file's bytes in memory, read-only, for as long as the mapping lives.
#ifndef MMEDGE_RUNTIME_BUNDLE_MAPPING_H_
#define MMEDGE_RUNTIME_BUNDLE_MAPPING_H_

#include "tensor.h"

namespace mmedge::runtime {

class Mapping {
 public:
  Mapping() = default;
  // Maps the first `size` bytes of an open file, which may be closed afterwards. Where the system
  // refuses, valid() is false and errno says why. No bytes: nothing is mapped.
  Mapping(int fd, size_t size);
  Mapping(Mapping&& other) noexcept;
  Mapping& operator=(Mapping&& other) noexcept;
  ~Mapping();

  bool valid() const { return valid_; }
  Bytes bytes() const { return bytes_; }
  // Takes a part that was read out of this process's resident memory. It stays readable.
  void forget(Bytes part) const noexcept;

 private:
  Bytes bytes_;
  bool valid_ = false;
};

}  // namespace mmedge::runtime

#endif  // MMEDGE_RUNTIME_BUNDLE_MAPPING_H_
