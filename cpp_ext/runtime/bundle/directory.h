// A bundle as a directory tree of plain files: mmedge/bundle/directory.py in C++.
#ifndef MMEDGE_RUNTIME_BUNDLE_DIRECTORY_H_
#define MMEDGE_RUNTIME_BUNDLE_DIRECTORY_H_

#include <map>
#include <mutex>
#include <string>
#include <utility>

#include "bundle/archive.h"
#include "bundle/file_descriptor.h"
#include "bundle/identity.h"
#include "bundle/mapping.h"

namespace mmedge::runtime {

// Every file is opened from the root down without following links, and must be the very file that
// was listed: same inode, size and times. So what is read is what was digested, unless a process
// with the rights of this one's user writes into a file while it is mapped. A library that is
// given a path opens it by itself a moment after the check; only file permissions guard that.
class Directory final : public Archive {
 public:
  // Lists the directory at `path`, which has no links in it. Throws Error(kBundle).
  explicit Directory(const std::string& path);

  bool zipped() const override { return false; }
  Bytes read(const std::string& name) override;
  std::string digest(const std::string& name) override;
  std::string file(const std::string& name) override;
  void check_unchanged() override;

 private:
  using Inode = std::pair<uint64_t, uint64_t>;  // device, inode

  void list(FileDescriptor folder, const std::string& prefix, std::map<Inode, std::string>* names);
  void add(int folder, const std::string& entry, const std::string& name,
           const struct stat& status, std::map<Inode, std::string>* names);
  Inode root() const;
  FileDescriptor open_file(const std::string& name) const;
  void check_same(const std::string& name, int fd) const;
  Error change(const std::string& name, int error = 0) const;
  Error unreadable(const std::string& name, int error) const;

  Inode root_;
  std::map<std::string, Identity> identities_;
  std::mutex mutex_;  // of the next
  std::map<std::string, Mapping> mappings_;
};

}  // namespace mmedge::runtime

#endif  // MMEDGE_RUNTIME_BUNDLE_DIRECTORY_H_
