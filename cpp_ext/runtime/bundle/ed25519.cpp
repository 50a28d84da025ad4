// Looks up the few functions of libsodium or OpenSSL that verify a signature.
#include "bundle/ed25519.h"

#include <dlfcn.h>

#include "backends/shared_library.h"
#include "bundle/public_key.h"

// As libsodium's sodium.h declares them.
using SodiumInit = int();
using SodiumVerify = int(const unsigned char* signature, const unsigned char* message,
                         unsigned long long length, const unsigned char* key);
#ifdef MMEDGE_SODIUM
extern "C" SodiumInit sodium_init;
extern "C" SodiumVerify crypto_sign_ed25519_verify_detached;
#endif

namespace mmedge::runtime {
namespace {

constexpr const char* kBelow[] = {"", "/lib", nullptr};
constexpr const char* kSystem[] = {"libsodium.so.26", "libsodium.so.23", "libcrypto.so.3",
                                   "libcrypto.so.1.1", nullptr};
constexpr const char* kNone[] = {nullptr};
constexpr LibraryPlaces kPlaces = {"libsodium (or OpenSSL's libcrypto)", "libsodium.so", kBelow,
                                   "lib", kSystem, kNone};

constexpr const char* kSodium[] = {"sodium_init", "crypto_sign_ed25519_verify_detached", nullptr};
enum { kInit, kVerifyDetached };

constexpr const char* kOpenSsl[] = {"EVP_PKEY_new_raw_public_key",
                                    "EVP_PKEY_free",
                                    "EVP_MD_CTX_new",
                                    "EVP_MD_CTX_free",
                                    "EVP_DigestVerifyInit",
                                    "EVP_DigestVerify",
                                    "ERR_set_mark",
                                    "ERR_pop_to_mark",
                                    nullptr};
enum { kNewKey, kFreeKey, kNewContext, kFreeContext, kBegin, kVerify, kSetMark, kPopToMark };
// As openssl/evp.h declares them; handles are opaque.
using NewKey = void*(int type, void* engine, const unsigned char* key, size_t length);
using NewContext = void*();
using Free = void(void* handle);
using Begin = int(void* context, void** pkey_context, const void* digest, void* engine, void* key);
using Mark = int();
using Verify = int(void* context, const unsigned char* signature, size_t signature_length,
                   const unsigned char* message, size_t length);
constexpr int kTypeEd25519 = 1087;  // EVP_PKEY_ED25519, the number of its OID in OpenSSL

template <class Function>
Function* as(void* address) {
  return reinterpret_cast<Function*>(address);
}

// Whether all functions of these names are there.
bool find_all(void* handle, const char* const* names, void** functions) {
  for (; *names != nullptr; ++names, ++functions) {
    *functions = dlsym(handle, *names);
    if (*functions == nullptr) return false;
  }
  return true;
}

}  // namespace

Ed25519::Ed25519(const std::string& location) {
#ifdef MMEDGE_SODIUM
  if (location.empty()) {
    is_sodium_ = true;
    name_ = "libsodium";
    functions_[kInit] = reinterpret_cast<void*>(&sodium_init);
    functions_[kVerifyDetached] = reinterpret_cast<void*>(&crypto_sign_ed25519_verify_detached);
  }
#endif
  if (functions_[0] == nullptr) {
    void* handle = nullptr;
    try {
      handle = open_library(kPlaces, location, &name_);
    } catch (const Error& error) {
      throw signature_error(error.what(), "%s",
                            location.empty() ? ", for example by apt-get install libsodium23" : "");
    }
    is_sodium_ = find_all(handle, kSodium, functions_);
    if (!is_sodium_ && !find_all(handle, kOpenSsl, functions_)) {
      throw signature_error(name_, ": it lacks functions of libsodium, and of OpenSSL 1.1.1; give "
                                   "the path of libsodium or of libcrypto");
    }
  }
  if (is_sodium_ && as<SodiumInit>(functions_[kInit])() < 0) {
    throw signature_error(name_, ": sodium_init() failed");
  }
}

bool Ed25519::verify(const uint8_t* signature, Bytes message, const uint8_t* key) const {
  if (has_small_order(signature)) return false;
  if (is_sodium_) {
    return as<SodiumVerify>(functions_[kVerifyDetached])(signature, message.data, message.size,
                                                         key) == 0;
  }
  // The application may use the same copy of OpenSSL: its list of errors stays as it was.
  as<Mark>(functions_[kSetMark])();
  void* handle = as<NewKey>(functions_[kNewKey])(kTypeEd25519, nullptr, key, 32);
  void* context = as<NewContext>(functions_[kNewContext])();
  bool is_ready = false, is_good = false;
  if (handle != nullptr && context != nullptr) {
    is_ready = as<Begin>(functions_[kBegin])(context, nullptr, nullptr, nullptr, handle) == 1;
    is_good = is_ready && as<Verify>(functions_[kVerify])(context, signature, 64, message.data,
                                                          message.size) == 1;
  }
  as<Free>(functions_[kFreeContext])(context);
  as<Free>(functions_[kFreeKey])(handle);
  as<Mark>(functions_[kPopToMark])();
  if (!is_ready) throw signature_error(name_, ": it cannot verify Ed25519 signatures");
  return is_good;
}

}  // namespace mmedge::runtime
