// What the operating system and the backends say of this machine.
#include "device.h"

#include <dlfcn.h>
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

std::vector<Gpu> find_gpus() {
  // cuDeviceGetAttribute's keys for the compute capability, from the driver API's cuda.h.
  constexpr int kMajor = 75, kMinor = 76;
  std::vector<Gpu> gpus;
  void* driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (driver == nullptr) return gpus;
  const auto init = reinterpret_cast<int (*)(unsigned)>(dlsym(driver, "cuInit"));
  const auto count_of = reinterpret_cast<int (*)(int*)>(dlsym(driver, "cuDeviceGetCount"));
  const auto device_of = reinterpret_cast<int (*)(int*, int)>(dlsym(driver, "cuDeviceGet"));
  const auto name_of =
      reinterpret_cast<int (*)(char*, int, int)>(dlsym(driver, "cuDeviceGetName"));
  const auto attribute_of =
      reinterpret_cast<int (*)(int*, int, int)>(dlsym(driver, "cuDeviceGetAttribute"));
  if (!init || !count_of || !device_of || !name_of || !attribute_of) return gpus;
  int count = 0;
  if (init(0) != 0 || count_of(&count) != 0) return gpus;
  for (int index = 0; index < count; ++index) {
    int device = 0, major = 0, minor = 0;
    char name[256] = {};
    device_of(&device, index);
    name_of(name, sizeof name, device);
    attribute_of(&major, kMajor, device);
    attribute_of(&minor, kMinor, device);
    gpus.push_back({name, "sm_" + std::to_string(major) + std::to_string(minor)});
  }
  return gpus;
}

Device probe(const Backends& backends, const Manifest* manifest) {
  const auto is_named = [&](const std::string& backend) {
    return manifest == nullptr ||
           std::any_of(manifest->variants.begin(), manifest->variants.end(),
                       [&](const Variant& variant) { return variant.backend == backend; });
  };
  Device device;
  const std::vector<Gpu> gpus = find_gpus();
  device.name = gpus.empty() ? cpu_model() : gpus.front().name;
  device.cores = usable_cores();
  const auto add_target = [&](const std::string& target) {
    auto& targets = device.targets;
    if (std::find(targets.begin(), targets.end(), target) == targets.end()) {
      targets.push_back(target);
    }
  };
  add_target("cpu");
  if (gpus.empty()) {
    device.missing["cuda"] = "no NVIDIA GPU: the driver library offers none to this process";
  }
  for (const char* name : {"tensorrt", "tensorrt_rtx"}) {
    device.missing[name] = std::string("libmmedge has no backend ") + name +
                           "; bring one by mmedge_load_options.backends (mmedge/backend.h)";
  }
  for (const Backend& backend : backends.all()) {
    if (backend.name != "ort" && !is_named(backend.name)) continue;
    device.missing.erase(backend.name);
    const auto missing = backend.missing(backend.context.get());
    device.missing.insert(missing.begin(), missing.end());
    if (missing.count(backend.name) != 0) continue;
    device.backends.push_back(backend.name);
    // Variants that need one version of a library name its distribution.
    std::string library = backend.name == "ort" ? "onnxruntime" : backend.name;
    std::replace(library.begin(), library.end(), '_', '-');
    device.libraries[library] = backend.version(backend.context.get());
    for (const std::string& target : backend.targets(backend.context.get())) {
      if (target != "cuda" || !gpus.empty() || backend.of_application) add_target(target);
    }
  }
  for (const Gpu& gpu : gpus) add_target(gpu.sm);
  return device;
}

}  // namespace mmedge::runtime
