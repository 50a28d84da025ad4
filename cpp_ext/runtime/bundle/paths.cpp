// What paths a bundle may use: relative, joined by "/", parts of plain ASCII.
#include "bundle/paths.h"

namespace mmedge::runtime {

namespace {

bool is_letter(char c) { return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z'); }

bool may_start(char c) { return is_letter(c) || (c >= '0' && c <= '9') || c == '_'; }

bool is_safe(std::string_view part) {
  if (!may_start(part[0])) return false;
  for (char c : part) {
    if (!may_start(c) && c != '.' && c != '+' && c != '-') return false;
  }
  return true;
}

}  // namespace

bool is_outside_of_list(std::string_view name) {
  return name == kManifestFile || name == kDigestFile || name == kSignatureFile;
}

std::string path_fault(std::string_view path) {
  if (path.size() > kMaxPath) {
    return "path longer than " + std::to_string(kMaxPath) +
           " characters: " + quoted(path.substr(0, kMaxPath)) + "...";
  }
  const std::string name = quoted(path);
  if (!path.empty() && path[0] == '/') return "absolute path " + name;
  if (path.find('\\') != std::string_view::npos) return "backslash in path " + name;
  if (path.size() > 1 && is_letter(path[0]) && path[1] == ':') return "drive letter in path " + name;
  for (size_t begin = 0; begin <= path.size();) {
    const size_t slash = path.find('/', begin);
    const size_t end = slash == std::string_view::npos ? path.size() : slash;
    const std::string_view part = path.substr(begin, end - begin);
    if (part.empty()) return "empty part in path " + name;
    if (part == "." || part == "..") return quoted(part) + " in path " + name;
    if (!is_safe(part)) return "unsafe characters in path " + name;
    begin = end + 1;
  }
  return "";
}

std::string quoted(std::string_view text) {
  static constexpr char kHex[] = "0123456789abcdef";
  std::string result = "'";
  for (char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '\\' || c == '\'') {
      result += '\\';
      result += c;
    } else if (byte < 0x20 || byte > 0x7e) {
      result += "\\x";
      result += kHex[byte >> 4];
      result += kHex[byte & 15];
    } else {
      result += c;
    }
  }
  return result + "'";
}

}  // namespace mmedge::runtime
