// A tokenizer file: from text to ids, and back.
#ifndef MMEDGE_RUNTIME_TEXT_TEXT_TOKENIZER_H_
#define MMEDGE_RUNTIME_TEXT_TEXT_TOKENIZER_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "tensor.h"
#include "text/added_tokens.h"
#include "text/decoder.h"
#include "text/model.h"
#include "text/normalizer.h"
#include "text/post_processor.h"
#include "text/pre_tokenizer.h"

namespace mmedge::runtime {

// How a file pads. Absent fields count as these do.
struct TextPadding {
  int64_t id = 0;
  bool is_left = false;
  int64_t least = 0;     // of a `Fixed` strategy
  int64_t multiple = 1;
};

// At which length and on which side a file cuts.
struct TextCut {
  size_t length = 0, stride = 0;
  bool is_left = false;
};

// Several threads may use one, each with a work of its own.
class TextTokenizer {
 public:
  // Memory of one caller.
  struct Work {
    Normalizer::Work normalizer;
    PreTokenizer::Work pre_tokenizer;
    ModelWork model;
    IdBuffer ids;
    Decoder::Work decoder;
    size_t characters = 0, tokens = 0;  // that it has room for
  };

  // `data` is needed only here. Throws Error(kBundle): no file of the library, or one that uses what
  // this library does not know; `source` is what the message calls it.
  TextTokenizer(Bytes data, const std::string& source);

  const TextPadding& padding() const { return padding_; }
  const std::optional<TextCut>& cut() const { return cut_; }
  size_t special_count() const { return around_->before.size() + around_->after.size(); }

  // Sets memory aside for texts of so many characters.
  void reserve_text(size_t characters, Work* work) const;
  // Sets memory aside for the text of so many tokens.
  void reserve_tokens(size_t tokens, Work* work) const;

  // How many characters a text has once it is normalized.
  TextFault normalized_size(std::string_view text, Work* work, size_t* characters) const noexcept;
  // Ids of a text in UTF-8 into `work->ids`, with special tokens; `is_cut`: it was too long.
  TextFault encode(std::string_view text, Work* work, bool* is_cut) const noexcept;
  // The text of ids, without special tokens. It lies in `work` until the next call. Ids that are
  // there not are left out.
  TextFault decode(const int64_t* ids, size_t count, Work* work, std::string_view* text) const noexcept;

 private:
  TextFault encode_piece(std::string_view piece, bool is_first, Work* work) const noexcept;
  TextFault end(Work* work, bool* is_cut) const noexcept;

  std::unique_ptr<const Normalizer> normalizer_;
  std::unique_ptr<const PreTokenizer> pre_tokenizer_;
  std::unique_ptr<const Model> model_;
  std::unique_ptr<const AddedTokens> added_;
  std::unique_ptr<const PostProcessor> around_;
  std::unique_ptr<const Decoder> decoder_;
  std::optional<TextCut> cut_;
  TextPadding padding_;
};

}  // namespace mmedge::runtime

#endif  // MMEDGE_RUNTIME_TEXT_TEXT_TOKENIZER_H_
