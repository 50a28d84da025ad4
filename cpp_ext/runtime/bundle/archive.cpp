// Opens what lies at a path as a directory or as a zip.
#include "bundle/archive.h"

#include <dirent.h>
#include <stdlib.h>
#include <sys/stat.h>

#include <cerrno>
#include <system_error>

#include "bundle/directory.h"
#include "bundle/zipped.h"

namespace mmedge::runtime {

namespace {

// Without empty and "." parts, so that a file's path may end in "/": as Python's pathlib reads it.
std::string plain_path(const std::string& path) {
  std::string result;
  for (size_t begin = 0; begin <= path.size();) {
    const size_t slash = path.find('/', begin);
    const size_t end = slash == std::string::npos ? path.size() : slash;
    const std::string part = path.substr(begin, end - begin);
    if (!part.empty() && part != ".") {
      if (!result.empty() || path[0] == '/') result += '/';
      result += part;
    }
    begin = end + 1;
  }
  if (!result.empty()) return result;
  return !path.empty() && path[0] == '/' ? "/" : ".";
}

// What a command that was ended took away from `path` and did not put back, as mmedge/bundle/
// place.py names it; empty: nothing.
std::string left_behind(const std::string& path) {
  const size_t slash = path.rfind('/');
  std::string folder = slash == std::string::npos ? "." : path.substr(0, slash);
  if (folder.empty()) folder = "/";
  const std::string name = slash == std::string::npos ? path : path.substr(slash + 1);
  DIR* entries = opendir(folder.c_str());
  if (entries == nullptr) return "";
  std::string first;
  while (const dirent* entry = readdir(entries)) {
    const std::string staging = entry->d_name;
    if (staging.compare(0, name.size() + 2, "." + name + ".") != 0) continue;
    const std::string older = folder + "/" + staging + "/" + name + ".old";
    struct stat status;
    if (lstat(older.c_str(), &status) == 0 && (first.empty() || older < first)) first = older;
  }
  closedir(entries);
  return first;
}

}  // namespace

Error Archive::refusal(const char* format, ...) const {
  va_list arguments;
  va_start(arguments, format);
  const std::string fault = message_text(format, arguments);
  va_end(arguments);
  return Error(Code::kBundle, path_ + ": " + fault);
}

std::unique_ptr<Archive> Archive::open(const std::string& path) {
  const auto unreadable = [&path](const std::string& why) {
    return Error(Code::kBundle, path + ": the bundle cannot be read: " + why);
  };
  if (path.find('\0') != std::string::npos) {
    throw unreadable("a null character in the path");
  }
  const std::string plain = plain_path(path);
  char* resolved = realpath(plain.c_str(), nullptr);
  struct stat status = {};
  if (resolved == nullptr || stat(resolved, &status) != 0) {
    const int error = errno;
    free(resolved);
    if (error != ENOENT) throw unreadable(std::generic_category().message(error));
    const std::string older = left_behind(plain);
    std::string advice;
    if (!older.empty()) {
      advice = "; what a command that was ended took from there lies at " + older +
               ": move it back";
    }
    throw Error(Code::kBundle, path + ": no such file or folder" + advice);
  }
  const std::string real = resolved;
  free(resolved);
  if (S_ISDIR(status.st_mode)) return std::make_unique<Directory>(real);
  if (S_ISREG(status.st_mode)) return std::make_unique<Zipped>(real);
  throw Error(Code::kBundle,
              path + ": a bundle is a directory or a zip file, this is neither");
}

}  // namespace mmedge::runtime
