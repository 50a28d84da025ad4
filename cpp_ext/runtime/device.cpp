// What the operating system and the backends say of this machine.
#include "device.h"

#include <sys/utsname.h>

#include <algorithm>
#include <cstdio>
#include <cstring>

#include "backends/cores.h"

namespace mmedge::runtime {

std::string cpu_model() {
  std::string text;
  if (std::FILE* file = std::fopen("/proc/cpuinfo", "re")) {
    char part[4096];
    // The first processors' lines; those of many cores say the same again.
    for (size_t count; text.size() < (1 << 16) && (count = std::fread(part, 1, sizeof part, file));) {
      text.append(part, count);
    }
    std::fclose(file);
  }
  for (const char* key : {"model name", "Model", "Hardware"}) {
    for (size_t at = 0; at < text.size();) {
      const size_t end = std::min(text.find('\n', at), text.size());
      const size_t colon = text.find(':', at);
      if (text.compare(at, std::strlen(key), key) == 0 && colon < end) {
        const size_t begin = text.find_first_not_of(" \t", colon + 1);
        const size_t last = text.find_last_not_of(" \t\r", end - 1);
        if (begin < end && last != std::string::npos) return text.substr(begin, last - begin + 1);
      }
      at = end + 1;
    }
  }
  utsname system;
  return uname(&system) == 0 ? system.machine : "unknown processor";
}

Device probe(const Backends& backends) {
  Device device;
  device.name = cpu_model();
  device.cores = usable_cores();
  device.targets = {"cpu"};
  for (const Backend& backend : backends.all()) {
    const auto missing = backend.missing(backend.context.get());
    if (missing.count(backend.name) == 0) {
      device.backends.push_back(backend.name);
      device.libraries[backend.name] = backend.version(backend.context.get());
      for (const std::string& target : backend.targets(backend.context.get())) {
        auto& targets = device.targets;
        if (std::find(targets.begin(), targets.end(), target) == targets.end()) {
          targets.push_back(target);
        }
      }
    }
    device.missing.insert(missing.begin(), missing.end());
  }
  return device;
}

}  // namespace mmedge::runtime
