// Looks for a library in the places where an engine's may be.
#include "shared_library.h"

#include <dirent.h>
#include <dlfcn.h>
#include <link.h>
#include <sys/stat.h>
#include <unistd.h>

#include <climits>
#include <cstdlib>
#include <vector>

#include "../error.h"

namespace mmedge::runtime {
namespace {

constexpr int kFlags = RTLD_NOW | RTLD_LOCAL;

[[noreturn]] void fail(const std::string& message) { throw Error(Code::kBackend, message); }

std::string last_error() {
  const char* error = dlerror();
  return error == nullptr ? "the loader gives no reason" : error;
}

bool is_folder(const std::string& path) {
  struct stat status;
  return stat(path.c_str(), &status) == 0 && S_ISDIR(status.st_mode);
}

// The numbers in what follows the name, such as ".1.32.0"; false where it is something else.
bool parse_suffix(const char* text, std::vector<long>* numbers) {
  numbers->clear();
  while (*text == '.') {
    char* end = nullptr;
    if (text[1] < '0' || text[1] > '9') return false;
    numbers->push_back(std::strtol(text + 1, &end, 10));
    text = end;
  }
  return *text == '\0';
}

// The library of the highest version in a folder; empty where there is none.
std::string find_in(const std::string& folder, const std::string& file) {
  DIR* entries = opendir(folder.c_str());
  if (entries == nullptr) return "";
  std::string best;
  std::vector<long> best_numbers, numbers;
  while (const dirent* entry = readdir(entries)) {
    const std::string name = entry->d_name;
    if (name.compare(0, file.size(), file) != 0) continue;
    if (!parse_suffix(name.c_str() + file.size(), &numbers)) continue;
    if (best.empty() || numbers > best_numbers) {
      best = name;
      best_numbers = numbers;
    }
  }
  closedir(entries);
  return best.empty() ? "" : folder + "/" + best;
}

// The folder of the library or program that this code is in.
std::string own_folder() {
  Dl_info info{};
  std::string path;
  if (dladdr(reinterpret_cast<const void*>(&own_folder), &info) != 0 && info.dli_fname != nullptr) {
    path = info.dli_fname;
  }
  if (path.empty() || path[0] != '/') {  // a program, by the name that it was called by
    char target[PATH_MAX];
    const ssize_t length = readlink("/proc/self/exe", target, sizeof target);
    if (length <= 0 || length == sizeof target) return "";
    path.assign(target, static_cast<size_t>(length));
  }
  return path.substr(0, path.rfind('/'));
}

// Of the system; null, and why there is none.
void* open_of_system(const LibraryPlaces& places, std::string* name, std::string* errors) {
  for (const char* const* system = places.system; *system != nullptr; ++system) {
    *name = *system;
    if (void* handle = dlopen(*system, kFlags)) return handle;
    *errors += "; " + last_error();
  }
  for (const char* const* folder = places.folders; *folder != nullptr; ++folder) {
    *name = find_in(*folder, places.file);
    if (name->empty()) continue;
    if (void* handle = dlopen(name->c_str(), kFlags)) return handle;
    *errors += "; " + last_error();
  }
  return nullptr;
}

}  // namespace

void* open_library(const LibraryPlaces& places, const std::string& location, std::string* name) {
  const std::string engine = places.engine;
  void* handle = nullptr;
  if (!location.empty()) {
    *name = location;
    if (is_folder(location)) {
      name->clear();
      for (const char* const* below = places.below; *below != nullptr && name->empty(); ++below) {
        *name = find_in(location + *below, places.file);
      }
      if (name->empty()) {
        fail("no " + engine + " in " + location + ": expected a file " + places.file +
             "* there, or in " + places.below_in_words + " below it; give the path of the library");
      }
    }
  } else {
    const std::string folder = own_folder();
    *name = folder.empty() ? "" : find_in(folder, places.file);
    if (name->empty()) {
      std::string errors;
      handle = open_of_system(places, name, &errors);
      if (handle == nullptr) {
        fail(engine + " is not here: no " + places.file + "* in " + folder + errors +
             "; install it, or give the path of the library");
      }
    }
  }
  if (handle == nullptr) handle = dlopen(name->c_str(), kFlags);
  if (handle == nullptr) {
    fail(engine + " cannot be loaded from " + *name + ": " + last_error());
  }
  link_map* map = nullptr;
  if (dlinfo(handle, RTLD_DI_LINKMAP, &map) == 0 && map->l_name[0] != '\0') *name = map->l_name;
  return handle;
}

}  // namespace mmedge::runtime
