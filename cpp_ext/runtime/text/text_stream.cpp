// A window of tokens, decoded again with each one.
#include "text/text_stream.h"

#include <algorithm>
#include <cstring>

#include "schema/utf8.h"
#include "text/text_buffer.h"

namespace mmedge::runtime {
namespace {

// Tokens after which old ones are decoded no more, and how many of them stay: what a token reads as
// depends on those before it.
constexpr size_t kWindow = 48, kContext = 16;
// What stands for bytes that are no character, yet or ever.
constexpr std::string_view kReplacement = "\xef\xbf\xbd";

}  // namespace

TextStream::TextStream(std::shared_ptr<const TextTokenizer> tokenizer, size_t tokens)
    : tokenizer_(std::move(tokenizer)), window_(std::max(tokens, kWindow)) {
  tokenizer_->reserve_tokens(window_.size(), &work_);
  piece_.resize(work_.decoder.lists[0].texts.room());
}

TextFault TextStream::add(int64_t token, bool is_last, std::string_view* piece) noexcept {
  *piece = {};
  if (size_ == window_.size()) return TextFault::kFull;
  window_[size_++] = token;
  return advance(is_last, piece);
}

TextFault TextStream::end(std::string_view* piece) noexcept {
  *piece = {};
  return size_ > 0 ? advance(true, piece) : TextFault::kNone;
}

TextFault TextStream::advance(bool is_last, std::string_view* piece) noexcept {
  std::string_view text;
  const TextFault fault = tokenizer_->decode(window_.data(), size_, &work_, &text);
  if (fault != TextFault::kNone) return fault;
  std::string_view complete = text;
  while (!is_last && complete.size() >= kReplacement.size() &&
         complete.substr(complete.size() - kReplacement.size()) == kReplacement) {
    complete.remove_suffix(kReplacement.size());
  }
  size_t at = 0, count = 0;
  while (at < complete.size() && count < characters_) {
    read_character(complete, &at);
    ++count;
  }
  const std::string_view fresh = complete.substr(at);
  if (fresh.size() > piece_.size()) return TextFault::kFull;
  if (!fresh.empty()) std::memcpy(piece_.data(), fresh.data(), fresh.size());
  *piece = {piece_.data(), fresh.size()};
  characters_ = std::max(characters_, count + count_characters(fresh));
  if (size_ >= kWindow && complete.size() == text.size()) {
    std::copy(window_.begin() + static_cast<std::ptrdiff_t>(size_ - kContext),
              window_.begin() + static_cast<std::ptrdiff_t>(size_), window_.begin());
    size_ = kContext;
    const TextFault again = tokenizer_->decode(window_.data(), size_, &work_, &text);
    if (again != TextFault::kNone) return again;
    characters_ = count_characters(text);
  }
  return TextFault::kNone;
}

}  // namespace mmedge::runtime
