// The manifest of a bundle before it is parsed, and its list of files against those that are there.
#ifndef MMEDGE_RUNTIME_BUNDLE_MANIFEST_BYTES_H_
#define MMEDGE_RUNTIME_BUNDLE_MANIFEST_BYTES_H_

#include <map>
#include <string>

#include "bundle/archive.h"
#include "tensor.h"

namespace mmedge::runtime {

// What manifest.sha256 holds: the digest of `manifest` as sha256sum writes it.
std::string manifest_digest(Bytes manifest);

// The bytes of manifest.json, after they were compared with manifest.sha256. Only a bundle whose
// manifest states the oldest version, or none that is a number, may lack that file. Throws Error(kBundle): there is no manifest, it is too large, or it is altered.
Bytes read_manifest_bytes(Archive& archive);

// Makes sure that the archive holds the files that a manifest lists (name to digest), and no other.
// Throws Error(kBundle).
void check_listing(const Archive& archive, const std::map<std::string, std::string>& files);

}  // namespace mmedge::runtime

#endif  // MMEDGE_RUNTIME_BUNDLE_MANIFEST_BYTES_H_
