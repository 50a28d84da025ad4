// Added tokens: their ids, and where they are in a text.
#include "text/added_tokens.h"

#include "error.h"
#include "schema/utf8.h"
#include "text/component_fields.h"

namespace mmedge::runtime {

AddedTokens::AddedTokens(const std::optional<JsonValue>& value, const Model& model,
                         const Normalizer& normalizer)
    : spaces_(space_set()), word_(unicode_set(UnicodeSet::kRustWord)) {
  if (value && !value->is(JsonKind::kList)) {
    throw Error(Code::kBundle, "$.added_tokens: expected a list; export the bundle again");
  }
  Vocabulary seen;  // by content, with the id
  int64_t largest = -1;
  const size_t count = value ? value->size() : 0;
  JsonValue item = count > 0 ? value->first() : JsonValue();
  for (size_t i = 0; i < count; ++i) {
    const ComponentFields fields{item, "$.added_tokens[" + std::to_string(i) + "]"};
    if (i + 1 < count) item = item.next();
    if (!fields.value.is(JsonKind::kObject)) fields.refuse("id", "an added token");
    const std::string content = fields.text("content");
    fields.count("id");
    Token token{0, content, fields.flag("single_word"), fields.flag("lstrip"), fields.flag("rstrip")};
    const bool is_normalized = fields.flag("normalized"), is_special = fields.flag("special");
    if (content.empty() || seen.find(content) >= 0) continue;
    // The library numbers them itself: as the model has it, or behind all others.
    int64_t id = model.vocabulary().find(content);
    if (id < 0) id = std::max<int64_t>(largest + 1, static_cast<int64_t>(model.size()));
    largest = std::max(largest, id);
    token.id = static_cast<uint32_t>(id);
    seen.add(content, token.id);
    std::string& text = token.text;
    if (is_normalized && !normalizer.empty()) {
      Normalizer::Work work;
      normalizer.reserve(count_characters(content), &work);
      TextView out;
      if (normalizer.apply({content, 0}, &work, &out) != TextFault::kNone) {
        fields.refuse("content", "a text that can be normalized");
      }
      text = out.text;
    }
    // Of several with one text, the first one counts.
    if (!text.empty() && texts_[is_normalized].find(text) < 0) {
      texts_[is_normalized].add(text, static_cast<uint32_t>(tokens_.size()));
    }
    by_id_.emplace_back(token.id, static_cast<uint32_t>(tokens_.size()));
    if (is_special) special_.add(content, token.id);
    tokens_.push_back(std::move(token));
  }
  std::make_heap(by_id_.begin(), by_id_.end());
  std::sort_heap(by_id_.begin(), by_id_.end());
  for (int i = 0; i < 2; ++i) {
    if (texts_[i].size() > 0) prefixes_[i] = std::make_unique<PrefixTable>(texts_[i]);
  }
}

bool AddedTokens::token(uint32_t id, std::string_view* text) const noexcept {
  const auto place = std::lower_bound(by_id_.begin(), by_id_.end(), std::make_pair(id, uint32_t{0}));
  if (place == by_id_.end() || place->first != id) return false;
  *text = tokens_[place->second].text;
  return true;
}

bool AddedTokens::find(std::string_view text, bool is_normalized, size_t* at, size_t done,
                       Match* match) const noexcept {
  const PrefixTable* prefixes = prefixes_[is_normalized].get();
  if (prefixes == nullptr) return false;
  const auto is_in = [&](const CodeSet& set, size_t place) {
    return set.has(read_character(text, &place));
  };
  while (*at < text.size()) {
    size_t bytes = 0;
    uint32_t place = 0;
    prefixes->find(text.substr(*at), [&](size_t length, uint32_t found) {
      bytes = length;
      place = found;
    });
    if (bytes == 0) {
      read_character(text, at);
      continue;
    }
    const Token& token = tokens_[place];
    size_t begin = *at, end = begin + bytes;
    *at = end;
    if (token.single_word && ((begin > 0 && is_in(word_, character_before(text, begin))) ||
                              (end < text.size() && is_in(word_, end)))) {
      continue;
    }
    while (token.lstrip && begin > done && is_in(spaces_, character_before(text, begin))) {
      begin = character_before(text, begin);
    }
    while (token.rstrip && end < text.size() && is_in(spaces_, end)) read_character(text, &end);
    *match = {begin, end, token.id};
    return true;
  }
  return false;
}

}  // namespace mmedge::runtime
