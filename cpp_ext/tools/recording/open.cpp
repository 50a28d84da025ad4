// Tells the forms of a recording apart.
#include <sys/stat.h>

#include <cerrno>
#include <system_error>

#include "recording/recording.h"
#include "recording/sample.h"

namespace mmedge::tools {
namespace {

// The last part of a path, as pathlib has it.
std::string last_part(std::string path) {
  for (;;) {
    while (path.size() > 1 && path.back() == '/') path.pop_back();
    const size_t slash = path.rfind('/');
    const std::string part = slash == std::string::npos ? path : path.substr(slash + 1);
    if (part != "." && !part.empty()) return part;
    if (slash == std::string::npos || slash == 0) return "";
    path.resize(slash);
  }
}

}  // namespace

std::unique_ptr<Recording> open_recording(const std::string& path) {
  struct stat status;
  if (stat(path.c_str(), &status) != 0) {
    if (errno == ENOENT || errno == ENOTDIR) {
      throw refusal(path, "no recording is there; make one with mmedge record");
    }
    throw refusal(path, "the recording cannot be read: " + std::generic_category().message(errno));
  }
  auto recording = S_ISDIR(status.st_mode) ? open_folder(path) : open_mcap(path);
  recording->name = last_part(path);
  return recording;
}

}  // namespace mmedge::tools
