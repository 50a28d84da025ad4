// The manifest of a bundle before it is parsed, and its list of files against those that are there.
#ifndef MMEDGE_RUNTIME_BUNDLE_MANIFEST_BYTES_H_
#define MMEDGE_RUNTIME_BUNDLE_MANIFEST_BYTES_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include "bundle/archive.h"
#include "tensor.h"

namespace mmedge::runtime {

// What manifest.sha256 holds: the digest of `manifest` as sha256sum writes it.
std::string manifest_digest(Bytes manifest);

// The bytes of manifest.json, after they were compared with manifest.sha256. Only a bundle whose
// manifest states the oldest version may lack that file: `stated_version` gives the version that a
// manifest says it has, without reading the rest; nothing where it says none that is a number.
// Throws Error(kBundle): there is no manifest, it is too large, or it is altered.
Bytes read_manifest_bytes(Archive& archive, std::optional<int64_t> (*stated_version)(Bytes));

// Makes sure that the archive holds the files that a manifest lists (name to digest), and no other.
// Throws Error(kBundle).
void check_listing(const Archive& archive, const std::map<std::string, std::string>& files);

}  // namespace mmedge::runtime

#endif  // MMEDGE_RUNTIME_BUNDLE_MANIFEST_BYTES_H_
