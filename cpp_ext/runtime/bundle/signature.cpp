// The checks of a signature, in the order of docs/reference/bundle.md, "Signature".
#include "bundle/signature.h"

#include <cinttypes>
#include <cstring>
#include <ctime>

#include "bundle/ed25519.h"
#include "bundle/paths.h"
#include "bundle/public_key.h"
#include "bundle/sha256.h"
#include "error.h"

namespace mmedge::runtime {
namespace {

// Behind the first key id, which alone is named: the message of a failed call has 511 bytes.
const char* others(size_t count, const char* words) { return count > 1 ? words : ""; }

std::vector<PublicKey> read_keys(const SignaturePolicy& policy) {
  std::vector<PublicKey> keys;
  for (const std::string& text : policy.trusted_keys) {
    keys.push_back(read_public_key(text, "trusted key " + std::to_string(keys.size())));
  }
  if (keys.empty() && policy.lowest_version != 0) {
    throw Error(Code::kInput,
                "lowest_version says nothing without trusted keys: without a key nobody knows who "
                "wrote the version");
  }
  return keys;
}

// Verifies each signature by one of the keys.
void verify(const std::vector<PublicKey>& keys, const std::string& library,
            const std::vector<uint8_t>& payload, std::vector<ReleaseSignature>* signatures,
            const std::string& where) {
  const std::vector<uint8_t> message = signed_bytes(payload);
  bool is_verified = false;
  for (ReleaseSignature& signature : *signatures) {
    for (const PublicKey& key : keys) {
      if (std::strcmp(key.id, signature.key_id) != 0) continue;
      if (!Ed25519(library).verify(signature.bytes, {message.data(), message.size()}, key.bytes)) {
        throw signature_error(where,
                              "the signature by key %s does not verify: the bundle is altered, or "
                              "was signed wrongly: copy it again, or sign it again",
                              key.id);
      }
      signature.verified = is_verified = true;
      break;
    }
  }
  if (is_verified) return;
  throw signature_error(where,
                        "no signature by a trusted key: it is signed by key %s%s, and trusted is key "
                        "%s%s; get the bundle from whom you trust, or give the signer's public key",
                        signatures->front().key_id, others(signatures->size(), " and others"),
                        keys.front().id, others(keys.size(), " or others"));
}

void check_release(const Release& release, const SignaturePolicy& policy,
                   const std::string& where) {
  if (release.version < policy.lowest_version) {
    throw signature_error(where,
                          "release of version %" PRId64 ", expected %" PRId64
                          " or higher (lowest_version): an old release was put back; install a newer "
                          "one",
                          release.version, policy.lowest_version);
  }
  if (release.expires < 0) return;
  const int64_t now = policy.now < 0 ? static_cast<int64_t>(std::time(nullptr)) : policy.now;
  if (now >= release.signed_at && now < release.expires) return;
  throw signature_error(
      where,
      "%s: signed at %" PRId64 ", expires at %" PRId64 ", and the clock of this device says %" PRId64
      " (seconds since 1970); %s",
      now >= release.expires ? "expired"
                             : "signed later than now, so whether it has expired cannot be told",
      release.signed_at, release.expires, now,
      now >= release.expires ? "install a newer release, or set the clock if it is wrong"
                             : "set the clock");
}

}  // namespace

Signature check_signature(Archive& archive, Bytes manifest, const SignaturePolicy& policy) {
  const std::vector<PublicKey> keys = read_keys(policy);
  Signature result;
  result.is_checked = !keys.empty();
  const std::string where = archive.path() + ": " + kSignatureFile + ": ";
  const auto file = archive.sizes().find(kSignatureFile);
  if (file == archive.sizes().end()) {
    if (!result.is_checked) return result;
    throw signature_error(where,
                          "there is none: the bundle is not signed, and it has to be by key %s%s; sign "
                          "it (mmedge sign), or get it from whom you trust",
                          keys.front().id, others(keys.size(), " or others"));
  }
  if (file->second > kMaxSignatureBytes) {
    throw signature_error(where, "%" PRIu64 " bytes, expected at most %zu; copy the bundle again, or "
                                 "sign it again",
                          file->second, kMaxSignatureBytes);
  }
  Envelope envelope = read_envelope(archive.read(kSignatureFile), where);
  if (result.is_checked) {
    verify(keys, policy.library, envelope.payload, &envelope.signatures, where);
  }
  result.release =
      read_release({envelope.payload.data(), envelope.payload.size()}, where + "release statement: ");
  result.signatures = std::move(envelope.signatures);
  if (const std::string digest = sha256_hexadecimal(manifest); digest != result.release.manifest) {
    throw signature_error(where,
                          "signed was a manifest.json of SHA-256 %s, got one of %s: another bundle, or "
                          "an altered one; copy it again, or remove manifest.sig and sign it again",
                          result.release.manifest, digest.c_str());
  }
  if (result.is_checked) check_release(result.release, policy, where);
  return result;
}

}  // namespace mmedge::runtime
