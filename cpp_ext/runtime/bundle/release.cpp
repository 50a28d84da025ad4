// Reads manifest.sig as the one text that its content has, letter by letter.
#include "bundle/release.h"

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <string_view>

#include "schema/base64.h"

namespace mmedge::runtime {
namespace {

#define MMEDGE_PAYLOAD_TYPE "application/vnd.mmedge.release+json"
constexpr char kHead[] = "{\"payloadType\":\"" MMEDGE_PAYLOAD_TYPE "\",\"payload\":\"";
constexpr char kPae[] = "DSSEv1 35 " MMEDGE_PAYLOAD_TYPE " %zu ";
static_assert(sizeof MMEDGE_PAYLOAD_TYPE == 36, "its length is written out above");
#undef MMEDGE_PAYLOAD_TYPE

constexpr int64_t kMaxInteger = (int64_t{1} << 53) - 1;

// A place in a text whose every part is known.
class Cursor {
 public:
  Cursor(Bytes data, const std::string& where) : text_(data.text()), where_(where) {}

  bool try_take(const char* word) {
    const size_t size = std::strlen(word);
    if (text_.compare(at_, size, word) != 0) return false;
    at_ += size;
    return true;
  }
  void take(const char* word) {
    if (!try_take(word)) refuse(word);
  }
  void take_base64(std::vector<uint8_t>* bytes) {
    const size_t end = std::min(text_.find('"', at_), text_.size());
    bool is_canonical = false;
    if (!decode_base64(text_.substr(at_, end - at_), bytes, &is_canonical) || !is_canonical) {
      refuse("base64 with padding, as an encoder writes it");
    }
    at_ = end;
  }
  void take_digest(HexDigest* digest) {
    const std::string_view text = text_.substr(at_, 64);
    if (text.size() != 64 || text.find_first_not_of("0123456789abcdef") != std::string_view::npos) {
      refuse("64 lower-case hexadecimal digits");
    }
    std::memcpy(*digest, text.data(), 64);
    (*digest)[64] = '\0';
    at_ += 64;
  }
  int64_t take_integer() {
    const size_t begin = at_;
    int64_t value = 0;
    while (at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9' && value <= kMaxInteger) {
      value = 10 * value + (text_[at_++] - '0');
    }
    const size_t digits = at_ - begin;
    if (digits == 0 || value > kMaxInteger || (digits > 1 && text_[begin] == '0')) {
      at_ = begin;
      refuse("an integer from 0 to 2^53 - 1");
    }
    return value;
  }
  // Takes the last word.
  void take_last(const char* word) {
    take(word);
    if (at_ != text_.size()) refuse("the end");
  }

  [[noreturn]] void refuse(const char* expected) const {
    throw signature_error(where_,
                          "not in the one form that it has: expected %s at byte %zu; copy the "
                          "bundle again, or sign it again",
                          expected, at_);
  }

 private:
  const std::string_view text_;
  const std::string& where_;
  size_t at_ = 0;
};

}  // namespace

Error signature_error(const std::string& where, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  const std::string text = message_text(format, arguments);
  va_end(arguments);
  return Error(Code::kSignature, where + text);
}

Envelope read_envelope(Bytes data, const std::string& where) {
  Envelope envelope;
  Cursor cursor(data, where);
  cursor.take(kHead);
  cursor.take_base64(&envelope.payload);
  cursor.take("\",\"signatures\":[");
  std::vector<uint8_t> bytes;
  do {
    if (envelope.signatures.size() == kMaxSignatures) cursor.refuse("at most 16 signatures");
    cursor.take("{\"keyid\":\"");
    ReleaseSignature signature;
    cursor.take_digest(&signature.key_id);
    for (const ReleaseSignature& other : envelope.signatures) {
      if (std::strcmp(other.key_id, signature.key_id) == 0) {
        cursor.refuse("a keyid that no signature before has, and that ends");
      }
    }
    cursor.take("\",\"sig\":\"");
    cursor.take_base64(&bytes);
    if (bytes.size() != sizeof signature.bytes) cursor.refuse("64 bytes in base64, which end");
    std::memcpy(signature.bytes, bytes.data(), bytes.size());
    signature.verified = false;
    envelope.signatures.push_back(signature);
    cursor.take("\"}");
  } while (cursor.try_take(","));
  cursor.take_last("]}\n");
  return envelope;
}

Release read_release(Bytes payload, const std::string& where) {
  Release release;
  Cursor cursor(payload, where);
  cursor.take("{\"manifest\":\"");
  cursor.take_digest(&release.manifest);
  cursor.take("\",\"version\":");
  release.version = cursor.take_integer();
  cursor.take(",\"signed\":");
  release.signed_at = cursor.take_integer();
  cursor.take(",\"expires\":");
  if (!cursor.try_take("null")) {
    release.expires = cursor.take_integer();
    if (release.expires <= release.signed_at) cursor.refuse("a time after signed, which ends");
  }
  cursor.take_last("}");
  return release;
}

std::vector<uint8_t> signed_bytes(const std::vector<uint8_t>& payload) {
  char head[80];
  const int size = std::snprintf(head, sizeof head, kPae, payload.size());
  std::vector<uint8_t> bytes(head, head + size);
  bytes.insert(bytes.end(), payload.begin(), payload.end());
  return bytes;
}

}  // namespace mmedge::runtime
