// Public keys of Ed25519 (RFC 8032) as they are given: PEM (RFC 7468, RFC 8410).
#ifndef MMEDGE_RUNTIME_BUNDLE_PUBLIC_KEY_H_
#define MMEDGE_RUNTIME_BUNDLE_PUBLIC_KEY_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "bundle/release.h"

namespace mmedge::runtime {

struct PublicKey {
  uint8_t bytes[32];
  HexDigest id;  // of the bytes
};

// Reads the PEM text of one key. `where` begins the message. Throws Error(kSignature): it is no such
// text, the key is a point of small order, under which anybody can sign,
// or it has another form than RFC 8032 gives it.
PublicKey read_public_key(std::string_view text, const std::string& where);

// Whether 32 bytes stand for a point of the curve whose order is 8 or less, in whatever encoding.
// OpenSSL takes such keys, libsodium does not.
bool has_small_order(const uint8_t* point) noexcept;

}  // namespace mmedge::runtime

#endif  // MMEDGE_RUNTIME_BUNDLE_PUBLIC_KEY_H_
