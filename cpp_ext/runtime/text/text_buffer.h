// Memory for a text that is being changed, set aside before.
#ifndef MMEDGE_RUNTIME_TEXT_TEXT_BUFFER_H_
#define MMEDGE_RUNTIME_TEXT_TEXT_BUFFER_H_

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>
#include <vector>

namespace mmedge::runtime {

// Bytes of a character in UTF-8.
constexpr size_t utf8_size(uint32_t c) { return c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4; }

// The character at `*at` of text that is known to be UTF-8; `*at` moves behind it.
inline uint32_t read_character(std::string_view text, size_t* at) noexcept {
  const auto byte = [&](size_t ahead) {
    return static_cast<uint32_t>(static_cast<uint8_t>(text[*at + ahead]));
  };
  const uint32_t first = byte(0);
  uint32_t c = first;
  if (first < 0x80) {
    *at += 1;
  } else if (first < 0xe0) {
    c = (first & 31) << 6 | (byte(1) & 63);
    *at += 2;
  } else if (first < 0xf0) {
    c = (first & 15) << 12 | (byte(1) & 63) << 6 | (byte(2) & 63);
    *at += 3;
  } else {
    c = (first & 7) << 18 | (byte(1) & 63) << 12 | (byte(2) & 63) << 6 | (byte(3) & 63);
    *at += 4;
  }
  return c;
}

// Where the character before `at` begins.
inline size_t character_before(std::string_view text, size_t at) noexcept {
  do {
    --at;
  } while ((static_cast<uint8_t>(text[at]) & 0xc0) == 0x80);
  return at;
}

// A text of a changing step: what it is, and how many of its first bytes come from the first
// character of the caller's text. The library's Metaspace asks for that.
struct TextView {
  std::string_view text;
  size_t first = 0;
};

// Text with room for so many bytes; what does not fit is left out, and is_full() says so.
class TextBuffer {
 public:
  void reserve(size_t bytes) {
    if (memory_.size() < bytes) memory_.resize(bytes);
  }
  size_t room() const noexcept { return memory_.size(); }

  void clear() noexcept {
    size_ = first_ = 0;
    is_full_ = false;
  }
  void put(uint32_t c) noexcept {
    if (memory_.size() - size_ < 4) {
      is_full_ = true;
      return;
    }
    char* to = memory_.data() + size_;
    const auto tail = [&](int shift) { return static_cast<char>(0x80 | (c >> shift & 63)); };
    switch (utf8_size(c)) {
      case 1: to[0] = static_cast<char>(c); break;
      case 2: to[0] = static_cast<char>(0xc0 | c >> 6), to[1] = tail(0); break;
      case 3:
        to[0] = static_cast<char>(0xe0 | c >> 12), to[1] = tail(6), to[2] = tail(0);
        break;
      default:
        to[0] = static_cast<char>(0xf0 | c >> 18), to[1] = tail(12), to[2] = tail(6),
        to[3] = tail(0);
    }
    size_ += utf8_size(c);
  }
  void put(std::string_view text) noexcept {
    if (memory_.size() - size_ < text.size()) {
      is_full_ = true;
      return;
    }
    if (!text.empty()) std::memcpy(memory_.data() + size_, text.data(), text.size());
    size_ += text.size();
  }
  // What has been put so far comes from the first character, if `is_first`.
  void mark_first(bool is_first) noexcept {
    if (is_first) first_ = size_;
  }

  // Says that what belongs here did not fit elsewhere.
  void fill() noexcept { is_full_ = true; }

  size_t size() const noexcept { return size_; }
  void cut(size_t size) noexcept { size_ = size; }
  // Leaves out what lies between two places.
  void drop(size_t begin, size_t end) noexcept {
    if (size_ > end) std::memmove(memory_.data() + begin, memory_.data() + end, size_ - end);
    size_ -= end - begin;
  }
  bool is_full() const noexcept { return is_full_; }
  std::string_view text() const noexcept { return {memory_.data(), size_}; }
  TextView view() const noexcept { return {text(), first_}; }

 private:
  std::vector<char> memory_;
  size_t size_ = 0, first_ = 0;
  bool is_full_ = false;
};

}  // namespace mmedge::runtime

#endif  // MMEDGE_RUNTIME_TEXT_TEXT_BUFFER_H_
