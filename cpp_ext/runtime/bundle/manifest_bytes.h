// The manifest of a bundle before it is parsed, and its list of files against those that are there.
#ifndef MMEDGE_RUNTIME_BUNDLE_MANIFEST_BYTES_H_
#define MMEDGE_RUNTIME_BUNDLE_MANIFEST_BYTES_H_

#include <map>
#include <string>
#include <vector>

#include "bundle/archive.h"
#include "bundle/signature.h"
#include "tensor.h"

namespace mmedge::runtime {

// What manifest.sha256 holds: the digest of `manifest` as sha256sum writes it.
std::string manifest_digest(Bytes manifest);

// A copy of manifest.json, so that what was verified is what is parsed, whoever may write to the
// file: after they were compared with manifest.sha256, and then manifest.sig was
// checked (`signature` gets what it says). Only a bundle whose manifest states the oldest version, or
// none that is a number, may lack manifest.sha256. Throws Error(kBundle): there is no manifest, it is
// too large, or it is altered; and as check_signature().
std::vector<uint8_t> read_manifest_bytes(Archive& archive, const SignaturePolicy& policy = {},
                                         Signature* signature = nullptr);

// Makes sure that the archive holds the files that a manifest lists (name to digest), and no other.
// Throws Error(kBundle).
void check_listing(const Archive& archive, const std::map<std::string, std::string>& files);

}  // namespace mmedge::runtime

#endif  // MMEDGE_RUNTIME_BUNDLE_MANIFEST_BYTES_H_
