// The checks that every bundle passes, in the order of mmedge/bundle/load.py.
#include "bundle/bundle.h"

#include <exception>
#include <set>

#include "bundle/digests.h"
#include "bundle/manifest_bytes.h"
#include "bundle/sha256.h"
#include "error.h"
#include "schema/manifest.h"
#include "schema/tokenizer_rules.h"

namespace mmedge::runtime {
namespace {

constexpr uint64_t kMaxTokenizerBytes = uint64_t{128} << 20;
constexpr const char* kSamples = "samples.safetensors";

void check_tokenizers(Archive& archive, const Manifest& manifest) {
  std::set<std::string> files;
  for (const Modality& modality : manifest.modalities) {
    if (modality.tokenizer) files.insert(modality.tokenizer->file);
  }
  if (const auto* loop = std::get_if<GenerateLoop>(&manifest.loop); loop && loop->tokenizer) {
    files.insert(*loop->tokenizer);
  }
  for (const std::string& name : files) {
    const std::string source = archive.path() + ": " + name;
    if (const uint64_t size = archive.sizes().at(name); size > kMaxTokenizerBytes) {
      throw Error(Code::kBundle, source + ": " + std::to_string(size) + " bytes, expected at most " +
                                     std::to_string(kMaxTokenizerBytes));
    }
    check_tokenizer(archive.read(name), source);
  }
}

}  // namespace

std::shared_ptr<Bundle> Bundle::open(const std::string& path, const SignaturePolicy& policy) {
  std::shared_ptr<Bundle> bundle(new Bundle);
  bundle->archive_ = Archive::open(path);
  Archive& archive = *bundle->archive_;
  bundle->manifest_bytes_ = read_manifest_bytes(archive, policy, &bundle->signature_);
  bundle->digest_ = sha256_hexadecimal(bundle->manifest_bytes());
  bundle->manifest_ = manifest_from_json(bundle->manifest_bytes(), archive.path() + ": manifest.json");
  const Manifest& manifest = bundle->manifest_;
  check_listing(archive, manifest.files);
  // Graphs are checked before files are hashed, which takes longer; of an altered file it is said that
  // it is altered, whatever else was noticed.
  std::exception_ptr fault;
  try {
    bundle->graphs_ = check_graphs(
        manifest, archive.sizes(), [&](const std::string& name) { return archive.read(name); },
        archive.path());
    check_tokenizers(archive, manifest);
  } catch (const Error&) {
    fault = std::current_exception();
  }
  check_digests(archive, manifest.files);
  if (fault) std::rethrow_exception(fault);
  return bundle;
}

std::shared_ptr<const Samples> Bundle::samples() {
  const std::lock_guard<std::mutex> held(lock_);
  if (samples_ == nullptr) {
    if (manifest_.files.count(kSamples) == 0) {
      samples_ = std::make_shared<const Samples>();
    } else {
      samples_ = std::make_shared<const Samples>(
          read_samples(archive_->read(kSamples), manifest_, path() + ": " + kSamples));
    }
  }
  return samples_;
}

void Bundle::verify() {
  check_digests(*archive_, manifest_.files);
  samples();
  for (const auto& [output, file] : manifest_.labels) {
    labels_from_json(archive_->read(file), path() + ": " + file);
  }
}

}  // namespace mmedge::runtime
