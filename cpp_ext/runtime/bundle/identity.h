// What tells a file from another in its place, or from itself before it was written to.
#ifndef MMEDGE_RUNTIME_BUNDLE_IDENTITY_H_
#define MMEDGE_RUNTIME_BUNDLE_IDENTITY_H_

#include <sys/stat.h>

#include <cstdint>

namespace mmedge::runtime {

// A file that was exchanged or written to has another one. The kernel alone sets the change time,
// so restoring the modification time hides nothing.
struct Identity {
  uint64_t device = 0;
  uint64_t inode = 0;
  uint64_t size = 0;
  int64_t modified[2] = {};  // seconds, nanoseconds
  int64_t changed[2] = {};

  Identity() = default;
  explicit Identity(const struct stat& status);
  bool operator==(const Identity& other) const;
  bool operator!=(const Identity& other) const { return !(*this == other); }
};

// Whether fewer bytes are stored than the file has. Compressed file systems store fewer too, so
// has_hole asks once more.
bool may_have_hole(const struct stat& status);
// Whether an open file claims more bytes than are stored: reading it would cost its claim.
bool has_hole(int fd, const struct stat& status);

}  // namespace mmedge::runtime

#endif  // MMEDGE_RUNTIME_BUNDLE_IDENTITY_H_
