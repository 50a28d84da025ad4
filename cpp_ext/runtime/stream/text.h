// Short texts in memory of their own: what results and counters say, without allocation.
#ifndef MMEDGE_RUNTIME_STREAM_TEXT_H_
#define MMEDGE_RUNTIME_STREAM_TEXT_H_

#include <cstdint>
#include <cstring>
#include <string_view>

namespace mmedge::runtime::stream {

// A text that is cut where it is full. Empty means: nothing is said.
class Text {
 public:
  static constexpr size_t kCapacity = 510;

  Text() noexcept = default;
  Text(std::string_view text) noexcept { add(text); }  // NOLINT(google-explicit-constructor)
  Text(const char* text) noexcept { add(text); }       // NOLINT(google-explicit-constructor)
  Text(const Text& other) noexcept { add(other.view()); }
  Text& operator=(const Text& other) noexcept {
    size_ = other.size_;
    if (this != &other) std::memcpy(data_, other.data_, size_);
    return *this;
  }

  bool empty() const noexcept { return size_ == 0; }
  std::string_view view() const noexcept { return {data_, size_}; }
  void clear() noexcept { size_ = 0; }

  Text& add(std::string_view text) noexcept;
  Text& add(const char* text) noexcept { return add(std::string_view(text)); }
  Text& add(const Text& text) noexcept { return add(text.view()); }
  // Six significant digits, as "%.6g" has them in any locale.
  Text& add_number(double value) noexcept;
  Text& add_whole(int64_t value) noexcept;

 private:
  uint16_t size_ = 0;
  char data_[kCapacity];
};

}  // namespace mmedge::runtime::stream

#endif  // MMEDGE_RUNTIME_STREAM_TEXT_H_
