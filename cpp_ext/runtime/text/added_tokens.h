// Tokens that are taken out of a text before it is split.
#ifndef MMEDGE_RUNTIME_TEXT_ADDED_TOKENS_H_
#define MMEDGE_RUNTIME_TEXT_ADDED_TOKENS_H_

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "schema/json.h"
#include "text/code_set.h"
#include "text/model.h"
#include "text/normalizer.h"
#include "text/vocabulary.h"

namespace mmedge::runtime {

class AddedTokens {
 public:
  // `value` is the file's part. Throws Error(kBundle).
  AddedTokens(const std::optional<JsonValue>& value, const Model& model,
              const Normalizer& normalizer);

  // Calls `piece(begin, end)` for what is between tokens, and `token(id)` for each of them.
  // `is_normalized`: those that are looked for in a normalized text. Both return a TextFault.
  template <class Piece, class Token>
  TextFault split(std::string_view text, bool is_normalized, Piece piece, Token token) const noexcept {
    size_t done = 0;
    Match match;
    TextFault fault = TextFault::kNone;
    for (size_t at = 0; find(text, is_normalized, &at, done, &match);) {
      if (done < match.begin) fault = piece(done, match.begin);
      if (fault == TextFault::kNone) fault = token(match.id);
      if (fault != TextFault::kNone) return fault;
      done = match.end;
    }
    return done < text.size() ? piece(done, text.size()) : fault;
  }

  // What an id of an added token reads as; false where it is none.
  bool token(uint32_t id, std::string_view* text) const noexcept;
  bool is_special(std::string_view text) const noexcept { return special_.find(text) >= 0; }

 private:
  struct Token {
    uint32_t id;
    std::string text;
    bool single_word, lstrip, rstrip;
  };
  struct Match {
    size_t begin, end;
    uint32_t id;
  };

  bool find(std::string_view text, bool is_normalized, size_t* at, size_t done,
            Match* match) const noexcept;

  std::vector<Token> tokens_;
  Vocabulary texts_[2];  // places in tokens_, of those that are not normalized and those that are
  std::unique_ptr<PrefixTable> prefixes_[2];
  std::vector<std::pair<uint32_t, uint32_t>> by_id_;  // with the place in tokens_, sorted
  Vocabulary special_;
  CodeSet spaces_, word_;
};

}  // namespace mmedge::runtime

#endif  // MMEDGE_RUNTIME_TEXT_ADDED_TOKENS_H_
