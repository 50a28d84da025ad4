// The forms of names.
#include "schema/names.h"

#include <algorithm>

namespace mmedge::runtime {
namespace {

bool is_alphanumeric(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

// Letters, digits, '_' and the characters of `more`.
bool consists_of(std::string_view text, std::string_view more) {
  return std::all_of(text.begin(), text.end(), [&](char c) {
    return is_alphanumeric(c) || c == '_' || more.find(c) != std::string_view::npos;
  });
}

bool begins_like_a_name(std::string_view text) {
  return !text.empty() && (is_alphanumeric(text[0]) || text[0] == '_');
}

}  // namespace

bool is_name(std::string_view text) {
  return text.size() <= 64 && begins_like_a_name(text) && consists_of(text, ".-");
}

bool is_tensor_name(std::string_view text) {
  return !text.empty() && text.size() <= 200 && consists_of(text, "./:-");
}

bool is_digest(std::string_view text) {
  return text.size() == 64 && std::all_of(text.begin(), text.end(), [](char c) {
           return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
         });
}

}  // namespace mmedge::runtime
