// Short texts in memory of their own.
#include "stream/text.h"

#include <algorithm>
#include <charconv>

namespace mmedge::runtime::stream {

Text& Text::add(std::string_view text) noexcept {
  const size_t count = std::min(text.size(), kCapacity - size_);
  if (count) std::memcpy(data_ + size_, text.data(), count);
  size_ = static_cast<uint16_t>(size_ + count);
  return *this;
}

Text& Text::add_number(double value) noexcept {
  char digits[32];
  const auto end =
      std::to_chars(digits, digits + sizeof digits, value, std::chars_format::general, 6);
  return add({digits, static_cast<size_t>(end.ptr - digits)});
}

Text& Text::add_whole(int64_t value) noexcept {
  char digits[24];
  const auto end = std::to_chars(digits, digits + sizeof digits, value);
  return add({digits, static_cast<size_t>(end.ptr - digits)});
}

}  // namespace mmedge::runtime::stream
