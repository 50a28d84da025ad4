// Reads public keys, and opens bundles with them.
#include "trust.h"

#include <cstdio>
#include <cstdlib>

namespace mmedge::tools {
namespace {

// The text of a key's file; false: it cannot be read.
bool read_text(const std::string& path, std::string* text) {
  std::FILE* file = std::fopen(path.c_str(), "rb");
  if (file == nullptr) return false;
  char part[4097];  // more than any key has
  const size_t size = std::fread(part, 1, sizeof part, file);
  const bool is_read = std::ferror(file) == 0;
  std::fclose(file);
  text->assign(part, size);
  // C would take a null character for the end of the text: such a file is no key.
  if (text->find('\0') != std::string::npos) text->clear();
  return is_read;
}

}  // namespace

bool Trust::take(const std::string& option, const std::string& value) {
  if (option == "--key") {
    keys_.push_back(value);
    return true;
  }
  if (value.empty() || value.size() > 16 ||
      value.find_first_not_of("0123456789") != std::string::npos) {
    return false;
  }
  lowest_version_ = std::atoll(value.c_str());
  return true;
}

Result<Bundle> Trust::open(const std::string& path) const {
  std::vector<std::string> texts(keys_.size());
  std::vector<const char*> keys;
  for (size_t i = 0; i < keys_.size(); ++i) {
    if (!read_text(keys_[i], &texts[i])) {
      return Failure{MMEDGE_SIGNATURE_ERROR, keys_[i] + ": the public key cannot be read"};
    }
    keys.push_back(texts[i].c_str());
  }
  mmedge_open_options options = open_options();
  options.trusted_keys = keys.empty() ? nullptr : keys.data();
  options.trusted_key_count = static_cast<int32_t>(keys.size());
  options.lowest_version = lowest_version_;
  return Bundle::open(path, options);
}

}  // namespace mmedge::tools
