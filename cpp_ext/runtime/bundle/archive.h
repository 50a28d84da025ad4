// The files of a bundle, of a directory or a zip alike: mmedge/bundle/archive.py in C++.
#ifndef MMEDGE_RUNTIME_BUNDLE_ARCHIVE_H_
#define MMEDGE_RUNTIME_BUNDLE_ARCHIVE_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include "error.h"
#include "tensor.h"

namespace mmedge::runtime {

// Named files that were listed, and whose names were checked, when it was opened. A directory is
// read through its files, each of which must still be the one that was listed; a zip is mapped and
// its entries are read in place, and nothing is unpacked. All functions may be called by several
// threads at once.
class Archive {
 public:
  // Opens the directory or zip at `path` and lists it. `path` itself may be a link; it is resolved
  // once, here. Throws Error(kBundle): nothing readable is there, or its listing breaks a rule of
  // docs/reference/bundle.md, "Layout".
  static std::unique_ptr<Archive> open(const std::string& path);

  virtual ~Archive() = default;
  Archive(const Archive&) = delete;
  Archive& operator=(const Archive&) = delete;

  // Where it lies, without links.
  const std::string& path() const { return path_; }
  // Bytes of each file by name.
  const std::map<std::string, uint64_t>& sizes() const { return sizes_; }
  virtual bool zipped() const = 0;

  // The file's bytes, mapped and not copied; valid as long as the archive. Throws Error(kBundle):
  // there is none, or it changed since it was listed.
  virtual Bytes read(const std::string& name) = 0;
  // The file's SHA-256 in lower-case hexadecimal. It maps nothing and leaves nothing in memory.
  // Throws as `read`.
  virtual std::string digest(const std::string& name) = 0;
  // Path of the file on disk, for a library that opens it by itself. Throws as `read`, and of
  // every file of a zip: it has none.
  virtual std::string file(const std::string& name) = 0;
  // Makes sure that what lies at `path` is still what was opened. Throws Error(kBundle) where it
  // was changed, replaced or removed.
  virtual void check_unchanged() = 0;

 protected:
  explicit Archive(std::string path) : path_(std::move(path)) {}

  // An error that begins with the archive's path; a text as printf makes it.
  [[gnu::format(printf, 2, 3)]] Error refusal(const char* format, ...) const;

  std::string path_;
  std::map<std::string, uint64_t> sizes_;
};

}  // namespace mmedge::runtime

#endif  // MMEDGE_RUNTIME_BUNDLE_ARCHIVE_H_
