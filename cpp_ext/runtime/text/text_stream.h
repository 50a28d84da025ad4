// Text of tokens as they come: mmedge/execution/detokenize.py.
#ifndef MMEDGE_RUNTIME_TEXT_TEXT_STREAM_H_
#define MMEDGE_RUNTIME_TEXT_TEXT_STREAM_H_

#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "text/text_tokenizer.h"

namespace mmedge::runtime {

// The text of one row of tokens. A token may end within a character: the text ends before one that is
// not complete, and goes on when it is.
class TextStream {
 public:
  // Sets memory aside for rows of up to `tokens` tokens whose text is never complete.
  TextStream(std::shared_ptr<const TextTokenizer> tokenizer, size_t tokens);

  // Begins another row.
  void reset() noexcept { size_ = characters_ = 0; }
  // Tokens that are decoded again with each one.
  size_t size() const noexcept { return size_; }
  // What a token adds to the text; with `is_last` also what is not complete. The piece lies here until
  // the next call. kFull: more tokens without a complete text than memory was set aside for.
  TextFault add(int64_t token, bool is_last, std::string_view* piece) noexcept;
  // What is not complete: no token follows.
  TextFault end(std::string_view* piece) noexcept;

 private:
  TextFault advance(bool is_last, std::string_view* piece) noexcept;

  std::shared_ptr<const TextTokenizer> tokenizer_;
  TextTokenizer::Work work_;
  std::vector<int64_t> window_;
  size_t size_ = 0;        // tokens in the window
  size_t characters_ = 0;  // of its text that were given
  std::vector<char> piece_;
};

}  // namespace mmedge::runtime

#endif  // MMEDGE_RUNTIME_TEXT_TEXT_STREAM_H_
