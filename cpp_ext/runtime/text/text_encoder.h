// The token inputs of one modality for a text: mmedge/execution/text.py.
#ifndef MMEDGE_RUNTIME_TEXT_TEXT_ENCODER_H_
#define MMEDGE_RUNTIME_TEXT_TEXT_ENCODER_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "execution/call_error.h"
#include "execution/inputs.h"
#include "spec.h"
#include "tensor.h"
#include "text/text_tokenizer.h"

namespace mmedge::runtime {

// Several threads may use one, each with memory of its own.
class TextEncoder {
 public:
  // Memory of one caller.
  struct Work {
    TextTokenizer::Work tokenizer;
    std::vector<uint8_t> ids, mask;
    size_t length = 0;  // tokens that there is room for
    NamedTensor tensors[2];
    CallError error;
  };

  // `modality` has a tokenizer, and `inputs` are those of its network; both outlive this. Throws
  // Error(kBundle): the file cuts a text to less than its own special tokens.
  TextEncoder(std::shared_ptr<const TextTokenizer> tokenizer, const Modality& modality,
              const Inputs& inputs);

  // Sets memory aside for texts of so many characters.
  void reserve(size_t characters, Work* work) const;

  // Ids, and the mask where there is one, of a text: `work->tensors`, [1, tokens] each, which lie in
  // `work` until the next call. `is_cut`: the tokenizer has cut the text. kInput: it is too long, has
  // no tokens, or is no UTF-8; kNotWarm: it is longer than what memory was set aside for. The words
  // are in `work->error`.
  Code encode(std::string_view text, Work* work, size_t* count, bool* is_cut) const noexcept;

 private:
  Code check(std::string_view text, Work* work) const noexcept;
  Code fail(TextFault fault, std::string_view text, Work* work) const noexcept;
  int64_t padded(int64_t tokens) const noexcept;  // -1: more than 63 bits

  std::shared_ptr<const TextTokenizer> tokenizer_;
  std::string file_, ids_name_, mask_name_;  // no mask: empty
  DType ids_dtype_ = DType::kInt64, mask_dtype_ = DType::kInt64;
  int64_t fixed_ = -1;   // length of the token axis; -1: dynamic
  int64_t least_ = 0, multiple_ = 1;
  int64_t most_ = -1;    // of a dynamic axis; -1: any
  bool has_overflow_ = false;  // the multiple has more than 63 bits
};

}  // namespace mmedge::runtime

#endif  // MMEDGE_RUNTIME_TEXT_TEXT_ENCODER_H_
