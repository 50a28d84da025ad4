// Reads public keys, and refuses those under which anybody can sign.
#include "bundle/public_key.h"

#include <cstring>
#include <vector>

#include "bundle/paths.h"
#include "bundle/sha256.h"
#include "error.h"
#include "schema/base64.h"

namespace mmedge::runtime {
namespace {

constexpr std::string_view kBegin = "-----BEGIN PUBLIC KEY-----";
constexpr std::string_view kEnd = "-----END PUBLIC KEY-----";

// A SubjectPublicKeyInfo in DER that holds 32 bytes of a key of Ed25519: RFC 8410, sections 3 and 4.
constexpr uint8_t kHead[] = {0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00};

// Every y, in little-endian bytes of at most 255 bits, of a point whose order divides 8: 0, 1, p - 1,
// the same as p and p + 1, and the two of order 8; p is 2^255 - 19. The bit above is the sign of x.
struct SmallOrder {
  uint8_t first, middle, last;  // the middle 30 bytes are alike
};
constexpr SmallOrder kSmallOrder[] = {{0x00, 0x00, 0x00},
                                      {0x01, 0x00, 0x00},
                                      {0xec, 0xff, 0x7f},
                                      {0xed, 0xff, 0x7f},
                                      {0xee, 0xff, 0x7f}};
constexpr uint8_t kOrder8[][32] = {
    {0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0,
     0xd5, 0xdf, 0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05},
    {0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f,
     0x2a, 0x20, 0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a}};

// White space of ASCII as Python's pattern \s has it.
bool is_space(char c) { return (c >= '\t' && c <= '\r') || (c >= 0x1c && c <= ' '); }

// Takes white space; whether there was any.
bool take_space(std::string_view* text) {
  const size_t size = text->size();
  while (!text->empty() && is_space(text->front())) text->remove_prefix(1);
  return text->size() != size;
}

bool take(std::string_view* text, std::string_view word) {
  if (text->substr(0, word.size()) != word) return false;
  text->remove_prefix(word.size());
  return true;
}

// The DER in a PEM text; false where there is none.
bool read_pem(std::string_view text, std::vector<uint8_t>* der) {
  if (text.size() > kMaxText) return false;
  take_space(&text);
  if (!take(&text, kBegin) || !take_space(&text)) return false;
  std::string body;
  for (; !text.empty() && text.front() != '-'; text.remove_prefix(1)) {
    if (!is_space(text.front())) body += text.front();
  }
  if (!take(&text, kEnd)) return false;
  take_space(&text);
  return text.empty() && decode_base64(body, der);
}

}  // namespace

bool has_small_order(const uint8_t* point) noexcept {
  uint8_t y[32];
  std::memcpy(y, point, sizeof y);
  y[31] &= 0x7f;
  for (const uint8_t* each : {kOrder8[0], kOrder8[1]}) {
    if (std::memcmp(y, each, sizeof y) == 0) return true;
  }
  for (const SmallOrder& each : kSmallOrder) {
    bool is_same = y[0] == each.first && y[31] == each.last;
    for (size_t at = 1; at < 31; ++at) is_same &= y[at] == each.middle;
    if (is_same) return true;
  }
  return false;
}

PublicKey read_public_key(std::string_view text, const std::string& where) {
  const auto fault = [&where](const char* what) { return signature_error(where, ": %s", what); };
  if (text.find("PRIVATE KEY-----") != std::string_view::npos) {
    throw fault("a private key; give the public one (NAME.pub), and keep this one safe");
  }
  PublicKey key;
  std::vector<uint8_t> der;
  if (!read_pem(text, &der) || der.size() != sizeof kHead + sizeof key.bytes ||
      std::memcmp(der.data(), kHead, sizeof kHead) != 0) {
    throw fault("expected one Ed25519 public key in PEM (BEGIN PUBLIC KEY), such as mmedge keygen "
                "writes to NAME.pub");
  }
  std::memcpy(key.bytes, der.data() + sizeof kHead, sizeof key.bytes);
  if (has_small_order(key.bytes)) {
    throw fault("a public key of small order, by which nearly anything would verify; make a new one "
                "with mmedge keygen");
  }
  bool is_large = (key.bytes[31] & 0x7f) == 0x7f && key.bytes[0] >= kSmallOrder[3].first;
  for (size_t at = 1; at < 31; ++at) is_large &= key.bytes[at] == 0xff;
  if (is_large) {  // p or more
    throw fault("a public key that is not in the one form that RFC 8032 gives it; make a new one "
                "with mmedge keygen");
  }
  std::strcpy(key.id, sha256_hexadecimal({key.bytes, sizeof key.bytes}).c_str());
  return key;
}

}  // namespace mmedge::runtime
