// An open bundle whose every file was checked: mmedge/bundle/bundle.py and load.py.
#ifndef MMEDGE_RUNTIME_BUNDLE_BUNDLE_H_
#define MMEDGE_RUNTIME_BUNDLE_BUNDLE_H_

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "bundle/archive.h"
#include "bundle/onnx_file.h"
#include "bundle/samples.h"
#include "bundle/signature.h"
#include "spec.h"

namespace mmedge::runtime {

class Bundle {
 public:
  // Opens and checks, in this order: layout, signature, manifest, listing, digests, graphs, tokenizers.
  // Throws Error(kBundle): a rule is broken. The message names the bundle, the file and the rule. As
  // check_signature() of the signature.
  static std::shared_ptr<Bundle> open(const std::string& path, const SignaturePolicy& policy = {});

  const std::string& path() const { return archive_->path(); }
  const Manifest& manifest() const { return manifest_; }
  Bytes manifest_bytes() const { return {manifest_bytes_.data(), manifest_bytes_.size()}; }
  // SHA-256 of the manifest in lower-case hexadecimal.
  const std::string& digest() const { return digest_; }
  const Signature& signature() const { return signature_; }
  Archive& archive() { return *archive_; }
  const GraphFile& graph(const std::string& file) const { return graphs_.at(file); }
  // Null where the file was not checked as a graph: it is of a backend that reads something else.
  const GraphFile* find_graph(const std::string& file) const {
    const auto entry = graphs_.find(file);
    return entry == graphs_.end() ? nullptr : &entry->second;
  }

  // Golden samples and what else is stored with them; read once. Throws Error(kBundle): the file is
  // not what the manifest declares.
  std::shared_ptr<const Samples> samples();

  // Checks all that can be checked without running a network: digests again, golden samples, labels.
  // Throws Error(kBundle).
  void verify();

 private:
  Bundle() = default;

  std::unique_ptr<Archive> archive_;
  Manifest manifest_;
  std::vector<uint8_t> manifest_bytes_;
  std::string digest_;
  Signature signature_;
  std::map<std::string, GraphFile> graphs_;
  std::mutex lock_;  // of samples_
  std::shared_ptr<const Samples> samples_;
};

}  // namespace mmedge::runtime

#endif  // MMEDGE_RUNTIME_BUNDLE_BUNDLE_H_
