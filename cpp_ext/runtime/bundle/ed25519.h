// Ed25519 (RFC 8032) by a library that is there when the program runs: libsodium or OpenSSL.
#ifndef MMEDGE_RUNTIME_BUNDLE_ED25519_H_
#define MMEDGE_RUNTIME_BUNDLE_ED25519_H_

#include <cstdint>
#include <string>

#include "tensor.h"

namespace mmedge::runtime {

// What verifies signatures. No header of the library is needed; it stays loaded until the process
// ends. Where MMEDGE_SODIUM is defined, libsodium is linked in, and is used unless a location is
// given.
class Ed25519 {
 public:
  // `location` is a file libsodium or libcrypto, or a folder that holds the former. Empty: libsodium
  // beside this code, or else the system's libsodium, or else its OpenSSL (1.1.1 or
  // later). Throws Error(kSignature): there is none.
  explicit Ed25519(const std::string& location);

  // Whether `signature`, of 64 bytes, is one of `message` under `key`, of 32 bytes that have no small
  // order. Both libraries decide alike: a signature whose point R has small order is refused here,
  // which libsodium does by itself and OpenSSL does not. Throws Error(kSignature): the library failed.
  bool verify(const uint8_t* signature, Bytes message, const uint8_t* key) const;

 private:
  // Addresses of functions by the places of their names in the source; of one library, all set.
  static constexpr int kMost = 8;
  void* functions_[kMost] = {};
  bool is_sodium_ = false;
  std::string name_;  // path of the library as the loader has it
};

}  // namespace mmedge::runtime

#endif  // MMEDGE_RUNTIME_BUNDLE_ED25519_H_
