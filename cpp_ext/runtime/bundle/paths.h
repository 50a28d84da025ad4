// What paths a bundle may use, its fixed file names, and the limits of its files.
//
// mmedge/schema/names.py in C++; docs/reference/bundle.md, "Paths" and "Files".
#ifndef MMEDGE_RUNTIME_BUNDLE_PATHS_H_
#define MMEDGE_RUNTIME_BUNDLE_PATHS_H_

#include <cstddef>
#include <string>
#include <string_view>

namespace mmedge::runtime {

// The file that describes all others, its digest and its signature; golden samples with absent tokens.
inline constexpr char kManifestFile[] = "manifest.json";
inline constexpr char kDigestFile[] = "manifest.sha256";
inline constexpr char kSignatureFile[] = "manifest.sig";
inline constexpr char kSamplesFile[] = "samples.safetensors";

// Bytes of a manifest and of a labels file; files of a bundle; characters of a path and a text.
constexpr size_t kMaxManifestBytes = size_t{1} << 20;
constexpr size_t kMaxLabelsBytes = size_t{4} << 20;
constexpr size_t kMaxFiles = 4096;
constexpr size_t kMaxPath = 200;
constexpr size_t kMaxText = 4096;

// Whether a file's name is one that no list of a manifest holds: its own, its digest's, its
// signature's.
bool is_outside_of_list(std::string_view name);

// Why `path` may not name a file of a bundle; empty where it may.
std::string path_fault(std::string_view path);

// A text as an error message names it: in quotes, and with nothing that a terminal would act on.
std::string quoted(std::string_view text);

}  // namespace mmedge::runtime

#endif  // MMEDGE_RUNTIME_BUNDLE_PATHS_H_
