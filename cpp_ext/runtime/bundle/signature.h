// Checks who released a bundle: its signature against keys that are trusted.
#ifndef MMEDGE_RUNTIME_BUNDLE_SIGNATURE_H_
#define MMEDGE_RUNTIME_BUNDLE_SIGNATURE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "bundle/archive.h"
#include "bundle/release.h"
#include "tensor.h"

namespace mmedge::runtime {

// What a bundle's signature has to be.
struct SignaturePolicy {
  std::vector<std::string> trusted_keys;  // PEM texts; none: nothing is verified
  int64_t lowest_version = 0;             // of the release; needs keys where it is not 0
  int64_t now = -1;                       // seconds since 1970 in UTC; -1: the system's clock
  std::string library;                    // Ed25519's constructor says which; empty: any
};

// What was found.
struct Signature {
  bool is_checked = false;  // whether keys were given, so that it was verified
  Release release;
  std::vector<ReleaseSignature> signatures;  // none: the bundle is unsigned, and there is no release
};

// Makes sure of a bundle's signature before anything of its manifest, of these bytes, is parsed.
// Throws Error(kSignature): it is malformed, of another manifest, or not as the policy wants it, a key
// is none, or no library can verify it; Error(kInput): a lowest version without keys.
Signature check_signature(Archive& archive, Bytes manifest, const SignaturePolicy& policy);

}  // namespace mmedge::runtime

#endif  // MMEDGE_RUNTIME_BUNDLE_SIGNATURE_H_
