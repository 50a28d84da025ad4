// What manifest.sig holds: a release statement and signatures of it, docs/reference/bundle.md,
// "Signature".
#ifndef MMEDGE_RUNTIME_BUNDLE_RELEASE_H_
#define MMEDGE_RUNTIME_BUNDLE_RELEASE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "error.h"
#include "tensor.h"

namespace mmedge::runtime {

// Most bytes of manifest.sig, and most signatures in it.
constexpr size_t kMaxSignatureBytes = size_t{16} << 10;
constexpr size_t kMaxSignatures = 16;

// A SHA-256 in lower-case hexadecimal, and a null character. Plain data keeps the library small.
using HexDigest = char[65];

// What is signed of a bundle. Times are seconds since 1970 in UTC.
struct Release {
  HexDigest manifest = {};  // of manifest.json
  int64_t version = 0;
  int64_t signed_at = 0;
  int64_t expires = -1;  // -1: never
};

struct ReleaseSignature {
  HexDigest key_id;  // of the 32 bytes of the public key
  uint8_t bytes[64];
  bool verified;  // by a trusted key
};

// The DSSE envelope.
struct Envelope {
  std::vector<uint8_t> payload;
  std::vector<ReleaseSignature> signatures;
};

// An error of a signature: `where`, and a text as printf makes it.
[[gnu::format(printf, 2, 3)]] Error signature_error(const std::string& where, const char* format,
                                                    ...);

// Read the one form of bytes that an envelope and a statement have; any other is refused. `where`
// begins the message. They take time in proportion to the bytes. Throw Error(kSignature).
Envelope read_envelope(Bytes data, const std::string& where);
Release read_release(Bytes payload, const std::string& where);

// What signatures are over: DSSE's pre-authentication encoding of the payload and its type.
std::vector<uint8_t> signed_bytes(const std::vector<uint8_t>& payload);

}  // namespace mmedge::runtime

#endif  // MMEDGE_RUNTIME_BUNDLE_RELEASE_H_
