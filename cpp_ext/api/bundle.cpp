// The functions of mmedge/mmedge.h that open a bundle and say who signed it.
#include <memory>
#include <string>

#include "bundle/bundle.h"
#include "handles.h"
#include "mmedge/mmedge.h"

using namespace mmedge::api;

extern "C" {

mmedge_status mmedge_bundle_open(const char* path, mmedge_bundle** bundle) {
  return mmedge_bundle_open_with(path, nullptr, bundle);
}

mmedge_status mmedge_bundle_open_with(const char* path, const mmedge_open_options* options,
                                      mmedge_bundle** bundle) {
  if (bundle == nullptr) return missing("bundle");
  *bundle = nullptr;
  if (path == nullptr) return missing("path");
  const mmedge_open_options defaults = MMEDGE_OPEN_OPTIONS;
  const mmedge_open_options& from = options != nullptr ? *options : defaults;
  if (!has_size(&from)) return wrong_size("options", &from);
  if (from.trusted_key_count < 0 || from.lowest_version < 0 || from.now < -1 ||
      (from.trusted_keys == nullptr) != (from.trusted_key_count == 0)) {
    return mmedge::fail(MMEDGE_INVALID,
                        "trusted_keys and their count contradict each other, or a number is negative");
  }
  return guard([&] {
    rt::SignaturePolicy policy;
    for (int32_t i = 0; i < from.trusted_key_count; ++i) {
      policy.trusted_keys.push_back(text_or_empty(from.trusted_keys[i]));
    }
    policy.lowest_version = from.lowest_version;
    policy.now = from.now;
    policy.library = text_or_empty(from.signature_library);
    auto handle = std::make_unique<mmedge_bundle>();
    handle->bundle = rt::Bundle::open(path, policy);
    *bundle = handle.release();
  });
}

mmedge_status mmedge_bundle_release(const mmedge_bundle* bundle, mmedge_release* release) {
  if (bundle == nullptr || release == nullptr) return missing("bundle or release");
  if (!has_size(release)) return wrong_size("release", release);
  const rt::Signature& signature = bundle->bundle->signature();
  release->verified = signature.is_checked ? MMEDGE_VERIFIED
                      : signature.signatures.empty() ? MMEDGE_UNSIGNED : MMEDGE_UNVERIFIED;
  release->version = signature.release.version;
  release->signed_at = signature.release.signed_at;
  release->expires = signature.release.expires;
  release->signatures = static_cast<int32_t>(signature.signatures.size());
  return MMEDGE_OK;
}

mmedge_status mmedge_bundle_signature(const mmedge_bundle* bundle, int32_t index,
                                      const char** key_id, int32_t* verified) {
  if (bundle == nullptr) return missing("bundle");
  const auto& signatures = bundle->bundle->signature().signatures;
  if (index < 0 || static_cast<size_t>(index) >= signatures.size()) {
    return no_index("signature", index, signatures.size());
  }
  const rt::ReleaseSignature& signature = signatures[static_cast<size_t>(index)];
  if (key_id != nullptr) *key_id = signature.key_id;
  if (verified != nullptr) *verified = signature.verified;
  return MMEDGE_OK;
}

void mmedge_bundle_close(mmedge_bundle* bundle) { delete bundle; }

const char* mmedge_bundle_digest(const mmedge_bundle* bundle) {
  return bundle == nullptr ? "" : bundle->bundle->digest().c_str();
}

const char* mmedge_bundle_manifest(const mmedge_bundle* bundle, size_t* size) {
  const rt::Bytes bytes = bundle == nullptr ? rt::Bytes{} : bundle->bundle->manifest_bytes();
  if (size != nullptr) *size = bytes.size;
  return bytes.text().data();
}

mmedge_status mmedge_bundle_verify(mmedge_bundle* bundle) {
  if (bundle == nullptr) return missing("bundle");
  return guard([&] { bundle->bundle->verify(); });
}

}  // extern "C"
