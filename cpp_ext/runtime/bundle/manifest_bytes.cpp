// Reads a manifest's bytes and compares listings: mmedge/bundle/load.py in C++.
#include "bundle/manifest_bytes.h"

#include <utility>
#include <vector>

#include "bundle/paths.h"
#include "bundle/sha256.h"
#include "schema/manifest.h"
#include "spec.h"

namespace mmedge::runtime {

namespace {

void refuse_files(const Archive& archive, const char* fault,
                  const std::vector<std::string>& names) {
  if (names.empty()) return;
  const std::string more =
      names.size() > 1 ? " and " + std::to_string(names.size() - 1) + " more" : "";
  throw Error(Code::kBundle, archive.path() + ": " + fault + " " + names.front() + more +
                                 "; copy or export the bundle again");
}

}  // namespace

std::string manifest_digest(Bytes manifest) {
  return sha256_hexadecimal(manifest) + "  " + kManifestFile + "\n";
}

std::vector<uint8_t> read_manifest_bytes(Archive& archive, const SignaturePolicy& policy,
                                         Signature* signature) {
  const std::string where = archive.path() + ": ";
  const auto manifest = archive.sizes().find(kManifestFile);
  if (manifest == archive.sizes().end()) {
    throw Error(Code::kBundle, where + "no " + kManifestFile + ", so this is no bundle");
  }
  if (manifest->second > kMaxManifestBytes) {
    throw Error(Code::kBundle, where + kManifestFile + " of " + std::to_string(manifest->second) +
                                   " bytes, expected at most " + std::to_string(kMaxManifestBytes));
  }
  const Bytes file = archive.read(kManifestFile);
  std::vector<uint8_t> copy(file.begin(), file.end());
  const Bytes data{copy.data(), copy.size()};
  const auto digest = archive.sizes().find(kDigestFile);
  if (digest != archive.sizes().end()) {
    if (digest->second >= kMaxText || archive.read(kDigestFile).text() != manifest_digest(data)) {
      throw Error(Code::kBundle, where + kManifestFile + " is altered: its SHA-256 is not the one "
                                     "in " + kDigestFile + "; copy or export the bundle again");
    }
  }
  Signature checked = check_signature(archive, data, policy);
  if (signature != nullptr) *signature = std::move(checked);
  // Parsed from here on.
  if (digest != archive.sizes().end()) return copy;
  // The oldest version had none.
  const int64_t version = stated_version(data).value_or(kOldestVersion);
  if (version > kOldestVersion && version <= kSchemaVersion) {
    throw Error(Code::kBundle, where + "no " + kDigestFile + ", which a bundle of this version "
                                   "has; copy or export the bundle again");
  }
  return copy;
}

void check_listing(const Archive& archive, const std::map<std::string, std::string>& files) {
  std::vector<std::string> missing, extra;
  for (const auto& [name, digest] : files) {
    if (archive.sizes().count(name) == 0) missing.push_back(name);
  }
  for (const auto& [name, size] : archive.sizes()) {
    if (files.count(name) == 0 && !is_outside_of_list(name)) extra.push_back(name);
  }
  // A manifest that lists itself asks for what no list may hold.
  for (const char* name : {kManifestFile, kDigestFile, kSignatureFile}) {
    if (files.count(name) != 0 && archive.sizes().count(name) != 0) missing.push_back(name);
  }
  refuse_files(archive, "missing file", missing);
  refuse_files(archive, "extra file, not listed in the manifest:", extra);
}

}  // namespace mmedge::runtime
