// Compares the files of a bundle with the digests that its manifest states.
#ifndef MMEDGE_RUNTIME_BUNDLE_DIGESTS_H_
#define MMEDGE_RUNTIME_BUNDLE_DIGESTS_H_

#include <map>
#include <string>

#include "bundle/archive.h"

namespace mmedge::runtime {

// Hashes every file of `files` (name to SHA-256 in lower-case hexadecimal) and compares. Large
// files are hashed by up to three threads more, which have ended when it returns or throws.
// Throws Error(kBundle): a file is missing, altered, or changed while it was read.
void check_digests(Archive& archive, const std::map<std::string, std::string>& files);

}  // namespace mmedge::runtime

#endif  // MMEDGE_RUNTIME_BUNDLE_DIGESTS_H_
