// Whose bundles a tool opens: the options --key and --lowest-version.
#ifndef MMEDGE_TOOLS_TRUST_H_
#define MMEDGE_TOOLS_TRUST_H_

#include <cstdint>
#include <string>
#include <vector>

#include "mmedge/mmedge.hpp"

namespace mmedge::tools {

class Trust {
 public:
  // For a tool's help.
  static constexpr const char* kHelp =
      "  --key FILE          refuse what this public key (PEM) has not signed; may be given again for\n"
      "                      keys of which any will do\n"
      "  --lowest-version N  refuse a release of a lower version; needs --key\n";

  // Whether `option` is one of these.
  static bool has(const std::string& option) {
    return option == "--key" || option == "--lowest-version";
  }
  // Takes its value; false where that is none.
  bool take(const std::string& option, const std::string& value);

  // As mmedge::Bundle::open(), with what was taken. Reads the keys.
  Result<Bundle> open(const std::string& path) const;

 private:
  std::vector<std::string> keys_;  // paths
  int64_t lowest_version_ = 0;
};

}  // namespace mmedge::tools

#endif  // MMEDGE_TOOLS_TRUST_H_
