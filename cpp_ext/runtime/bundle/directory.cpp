// Lists and opens the files of a bundle that is a directory.
#include "bundle/directory.h"

#include <dirent.h>
#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <system_error>
#include <vector>

#include "bundle/paths.h"
#include "bundle/sha256.h"

namespace mmedge::runtime {

namespace {

// Never waits for a device, never follows a link in the last part.
constexpr int kFolder = O_RDONLY | O_DIRECTORY | O_CLOEXEC;
constexpr int kSafely = O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC;

// Names in an open folder, sorted; false where the system refuses (errno).
bool entries_of(int fd, std::vector<std::string>* names) {
  FileDescriptor copy(fcntl(fd, F_DUPFD_CLOEXEC, 0));
  if (!copy) return false;
  DIR* entries = fdopendir(copy.get());
  if (entries == nullptr) return false;
  copy.release();
  errno = 0;
  while (const dirent* entry = readdir(entries)) {
    const std::string name = entry->d_name;
    if (name != "." && name != "..") names->push_back(name);
    errno = 0;
  }
  const int error = errno;
  closedir(entries);
  errno = error;
  std::sort(names->begin(), names->end());
  return error == 0;
}

}  // namespace

Directory::Directory(const std::string& path) : Archive(path) {
  struct stat status;
  // First: whatever else lies in a folder of the user's is no fault of it.
  if (lstat((path + "/" + kManifestFile).c_str(), &status) != 0) {
    throw Error(Code::kBundle,
                path + " is not a bundle: it holds no " + kManifestFile +
                    ". A bundle is the folder, or the one file NAME.mmedge, that mmedge export "
                    "wrote");
  }
  root_ = root();
  FileDescriptor folder(::open(path.c_str(), kFolder));
  if (!folder) throw unreadable("", errno);
  std::map<Inode, std::string> names;
  list(std::move(folder), "", &names);
}

void Directory::list(FileDescriptor folder, const std::string& prefix,
                     std::map<Inode, std::string>* names) {
  std::vector<std::string> entries;
  if (!entries_of(folder.get(), &entries)) throw unreadable(prefix, errno);
  std::vector<std::string> folders;
  for (const std::string& entry : entries) {
    const std::string name = prefix + entry;
    const std::string fault = path_fault(name);  // bounds the depth, too
    if (!fault.empty()) {
      throw refusal("%s: no bundle holds such a file, so this folder is not a bundle, or something "
                    "was added to it; copy or export the bundle again",
                    fault.c_str());
    }
    struct stat status;
    if (fstatat(folder.get(), entry.c_str(), &status, AT_SYMLINK_NOFOLLOW) != 0) {
      throw unreadable(name, errno);
    }
    if (S_ISDIR(status.st_mode)) {
      folders.push_back(entry);
    } else {
      add(folder.get(), entry, name, status, names);
    }
  }
  for (const std::string& entry : folders) {
    FileDescriptor child(openat(folder.get(), entry.c_str(), kFolder | kSafely));
    if (!child) throw unreadable(prefix + entry, errno);
    list(std::move(child), prefix + entry + "/", names);
  }
}

void Directory::add(int folder, const std::string& entry, const std::string& name,
                    const struct stat& status, std::map<Inode, std::string>* names) {
  if (S_ISLNK(status.st_mode)) {
    throw refusal("%s is a link; a bundle holds plain files, put a copy in its place", name.c_str());
  }
  if (!S_ISREG(status.st_mode)) {
    throw refusal("%s is a device, pipe or socket; a bundle holds plain files only", name.c_str());
  }
  const auto [first, is_new] = names->emplace(Inode{status.st_dev, status.st_ino}, name);
  if (!is_new) {
    throw refusal("%s and %s are one file (hard links), which costs more to read than to store; put a "
                  "copy in the place of each",
                  name.c_str(), first->second.c_str());
  }
  if (may_have_hole(status)) {
    FileDescriptor file(openat(folder, entry.c_str(), O_RDONLY | kSafely));
    if (!file) throw unreadable(name, errno);
    if (has_hole(file.get(), status)) {
      throw refusal("%s is sparse: %lld bytes, of which some are not stored; copy it with cp "
                    "--sparse=never",
                    name.c_str(), static_cast<long long>(status.st_size));
    }
  }
  if (sizes_.size() >= kMaxFiles + 3) {  // the manifest, its digest and its signature come on top
    throw refusal("more than %zu files; no bundle is", kMaxFiles);
  }
  identities_.emplace(name, Identity(status));
  sizes_.emplace(name, static_cast<uint64_t>(status.st_size));
}

Bytes Directory::read(const std::string& name) {
  const FileDescriptor file = open_file(name);
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto mapped = mappings_.find(name);
  if (mapped != mappings_.end()) return mapped->second.bytes();
  Mapping mapping(file.get(), static_cast<size_t>(sizes_.at(name)));
  if (!mapping.valid()) throw unreadable(name, errno);
  return mappings_.emplace(name, std::move(mapping)).first->second.bytes();
}

std::string Directory::digest(const std::string& name) {
  const FileDescriptor file = open_file(name);
  std::vector<uint8_t> buffer(size_t{1} << 16);
  Sha256 hash;
  for (;;) {
    const ssize_t got = ::read(file.get(), buffer.data(), buffer.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw unreadable(name, errno);
    if (got == 0) break;
    hash.update({buffer.data(), static_cast<size_t>(got)});
  }
  check_same(name, file.get());  // it may have been written to while it was read
  return hash.hexadecimal();
}

std::string Directory::file(const std::string& name) {
  open_file(name);
  return path_ + "/" + name;
}

void Directory::check_unchanged() {
  for (const auto& [name, identity] : identities_) open_file(name);
  if (root() != root_) {
    throw refusal("changed since the bundle was opened; open it again");
  }
}

Directory::Inode Directory::root() const {
  struct stat status;
  if (stat(path_.c_str(), &status) != 0) throw unreadable("", errno);
  return {status.st_dev, status.st_ino};
}

FileDescriptor Directory::open_file(const std::string& name) const {
  if (identities_.count(name) == 0) throw refusal("no file %s in the bundle", quoted(name).c_str());
  FileDescriptor at(::open(path_.c_str(), kFolder));
  for (size_t begin = 0; at;) {
    const size_t slash = name.find('/', begin);
    const bool is_last = slash == std::string::npos;
    const std::string part = name.substr(begin, is_last ? slash : slash - begin);
    at = FileDescriptor(
        openat(at.get(), part.c_str(), (is_last ? O_RDONLY : kFolder) | kSafely));
    if (is_last) break;
    begin = slash + 1;
  }
  if (!at) throw change(name, errno);
  check_same(name, at.get());
  return at;
}

void Directory::check_same(const std::string& name, int fd) const {
  struct stat status;
  if (fstat(fd, &status) != 0) throw change(name, errno);
  if (Identity(status) != identities_.at(name)) throw change(name);
}

Error Directory::change(const std::string& name, int error) const {
  if (error == 0) return refusal("%s changed since the bundle was opened; open it again", name.c_str());
  return refusal("%s changed since the bundle was opened: %s", name.c_str(),
                 std::generic_category().message(error).c_str());
}

Error Directory::unreadable(const std::string& name, int error) const {
  return refusal("%s%sthe bundle cannot be read: %s", name.c_str(), name.empty() ? "" : ": ",
                 std::generic_category().message(error).c_str());
}

}  // namespace mmedge::runtime
