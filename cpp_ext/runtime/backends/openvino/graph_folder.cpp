// A private folder of temporary files.
#include "graph_folder.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "../../error.h"

namespace mmedge::runtime::openvino {
namespace {

// Where temporary files may be; no environment variable is read.
constexpr const char* kParents[] = {"/tmp", "/var/tmp", "/dev/shm"};

[[noreturn]] void fail(const std::string& path) {
  throw Error(Code::kBundle, path + " cannot be written: " + std::strerror(errno) +
                                 "; a graph of a zip is copied there for OpenVINO: make room, or "
                                 "unpack the bundle and open the folder");
}

}  // namespace

GraphFolder::GraphFolder(const std::string& name, const Bytes& graph,
                         const std::map<std::string, Bytes>& weights) {
  for (const char* parent : kParents) {
    folder_ = std::string(parent) + "/mmedge-XXXXXX";
    if (mkdtemp(folder_.data()) != nullptr) break;
    folder_.clear();
  }
  path_ = folder_ + "/" + name;
  if (folder_.empty()) fail("a folder in /tmp, /var/tmp or /dev/shm");
  try {
    write(name, graph);
    for (const auto& [file, bytes] : weights) write(file, bytes);
  } catch (...) {
    remove();
    throw;
  }
}

GraphFolder::~GraphFolder() { remove(); }

void GraphFolder::write(const std::string& name, const Bytes& bytes) {
  for (size_t slash = name.find('/'); slash != std::string::npos; slash = name.find('/', slash + 1)) {
    const std::string folder = folder_ + "/" + name.substr(0, slash);
    if (mkdir(folder.c_str(), 0700) == 0) {
      made_.push_back(folder + "/");
    } else if (errno != EEXIST) {
      fail(folder);
    }
  }
  const std::string path = folder_ + "/" + name;
  const int file = open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (file < 0) fail(path);
  made_.push_back(path);
  for (size_t at = 0; at < bytes.size;) {
    const ssize_t count = ::write(file, bytes.data + at, bytes.size - at);
    if (count > 0) {
      at += static_cast<size_t>(count);
    } else if (count == 0 || errno != EINTR) {
      const int error = count == 0 ? ENOSPC : errno;
      close(file);
      errno = error;
      fail(path);
    }
  }
  if (close(file) != 0) fail(path);
}

void GraphFolder::remove() noexcept {
  if (folder_.empty()) return;
  // What is in a folder before it.
  for (auto path = made_.rbegin(); path != made_.rend(); ++path) {
    path->back() == '/' ? rmdir(path->c_str()) : unlink(path->c_str());
  }
  rmdir(folder_.c_str());
  folder_.clear();
}

}  // namespace mmedge::runtime::openvino
