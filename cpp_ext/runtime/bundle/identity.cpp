// Identity of files, and holes in them.
#include "bundle/identity.h"

#include <unistd.h>

namespace mmedge::runtime {

Identity::Identity(const struct stat& status)
    : device(status.st_dev),
      inode(status.st_ino),
      size(static_cast<uint64_t>(status.st_size)),
      modified{status.st_mtim.tv_sec, status.st_mtim.tv_nsec},
      changed{status.st_ctim.tv_sec, status.st_ctim.tv_nsec} {}

bool Identity::operator==(const Identity& other) const {
  return device == other.device && inode == other.inode && size == other.size &&
         modified[0] == other.modified[0] && modified[1] == other.modified[1] &&
         changed[0] == other.changed[0] && changed[1] == other.changed[1];
}

bool may_have_hole(const struct stat& status) {
  constexpr int64_t kBlock = 512;  // of `stat`, whatever the file system's own are
  return int64_t{status.st_blocks} < (int64_t{status.st_size} + kBlock - 1) / kBlock;
}

bool has_hole(int fd, const struct stat& status) {
  if (!may_have_hole(status)) return false;
  const off_t hole_at = lseek(fd, 0, SEEK_HOLE);
  if (hole_at < 0 || lseek(fd, 0, SEEK_SET) < 0) return false;  // the file system does not say
  return hole_at < status.st_size;
}

}  // namespace mmedge::runtime
