// Matching by trying one way after another, as the order of the pattern has it.
#include "text/pattern.h"

#include <algorithm>

#include "text/pattern_parser.h"
#include "text/text_buffer.h"

namespace mmedge::runtime {

Pattern::Pattern(std::string_view pattern, bool is_regex, const std::string& where) {
  if (is_regex) {
    PatternParser(pattern, where, this).parse();
    return;
  }
  PatternSequence& sequence = alternatives_.emplace_back();
  for (size_t at = 0; at < pattern.size();) {
    sequence.emplace_back().value = read_character(pattern, &at);
  }
}

bool Pattern::search(std::string_view text, size_t from, size_t* begin,
                     size_t* end) const noexcept {
  for (size_t at = from;;) {
    if (match_group(alternatives_, text, at, nullptr, end)) {
      *begin = at;
      return true;
    }
    if (at >= text.size()) return false;
    read_character(text, &at);
  }
}

bool Pattern::match_group(const PatternGroup& group, std::string_view text, size_t at,
                          const Rest* rest, size_t* stop) const noexcept {
  for (const PatternSequence& sequence : group) {
    if (match(sequence.data(), sequence.data() + sequence.size(), text, at, rest, stop)) return true;
  }
  return false;
}

bool Pattern::match(const PatternItem* item, const PatternItem* end, std::string_view text,
                    size_t at, const Rest* rest, size_t* stop) const noexcept {
  for (; item != end; ++item) {
    switch (item->kind) {
      case PatternItem::kCharacter:
      case PatternItem::kSet:
        if (item->least == 1 && item->most == 1) {
          if (!takes(*item, text, &at)) return false;
          continue;
        }
        return match_repeated(item, end, text, at, rest, stop);
      case PatternItem::kAhead:
      case PatternItem::kNotAhead: {
        size_t ignored = 0;
        const bool is_there = match_group(groups_[item->value], text, at, nullptr, &ignored);
        if (item->least > 0 && is_there != (item->kind == PatternItem::kAhead)) return false;
        continue;
      }
      case PatternItem::kGroup: {
        const PatternGroup& group = groups_[item->value];
        const Rest after{item + 1, end, rest};
        if (item->most == 0) continue;
        if (item->least == 0 && item->mode == PatternItem::kPossessive) {
          match_group(group, text, at, nullptr, &at);
          continue;
        }
        if (item->least == 0 && item->mode == PatternItem::kLazy) {
          return match(item + 1, end, text, at, rest, stop) ||
                 match_group(group, text, at, &after, stop);
        }
        if (match_group(group, text, at, &after, stop)) return true;
        if (item->least > 0) return false;
        continue;
      }
      default:
        if (!holds(*item, text, at)) return false;
    }
  }
  if (rest != nullptr) return match(rest->item, rest->end, text, at, rest->next, stop);
  *stop = at;
  return true;
}

bool Pattern::match_repeated(const PatternItem* item, const PatternItem* end, std::string_view text,
                             size_t at, const Rest* rest, size_t* stop) const noexcept {
  uint32_t count = 0;
  const uint32_t first = item->mode == PatternItem::kLazy ? item->least : item->most;
  while (count < first && takes(*item, text, &at)) ++count;
  if (count < item->least) return false;
  if (item->mode == PatternItem::kPossessive) return match(item + 1, end, text, at, rest, stop);
  while (true) {
    if (match(item + 1, end, text, at, rest, stop)) return true;
    if (item->mode == PatternItem::kLazy) {
      if (count == item->most || !takes(*item, text, &at)) return false;
      ++count;
      continue;
    }
    if (count == item->least) return false;
    at = character_before(text, at);
    --count;
  }
}

bool Pattern::takes(const PatternItem& item, std::string_view text, size_t* at) const noexcept {
  if (*at >= text.size()) return false;
  size_t after = *at;
  const uint32_t c = read_character(text, &after);
  if (item.kind == PatternItem::kSet ? !sets_[item.value].has(c) : c != item.value) return false;
  *at = after;
  return true;
}

bool Pattern::holds(const PatternItem& item, std::string_view text, size_t at) const noexcept {
  const bool is_end = at == text.size();
  switch (item.kind) {
    case PatternItem::kLineBegin: return at == 0 || (!is_end && text[at - 1] == '\n');
    case PatternItem::kLineEnd: return is_end || text[at] == '\n';
    case PatternItem::kTextBegin: return at == 0;
    case PatternItem::kTextEnd: return is_end;
    case PatternItem::kLastLineEnd: return is_end || (at + 1 == text.size() && text[at] == '\n');
    default: break;
  }
  size_t before = at > 0 ? character_before(text, at) : 0, after = at;
  const bool is_word = at > 0 && word_.has(read_character(text, &before));
  const bool next_is_word = !is_end && word_.has(read_character(text, &after));
  return (is_word != next_is_word) == (item.kind == PatternItem::kWordEdge);
}

bool PatternMatches::next(size_t* begin, size_t* end) noexcept {
  while (from_ <= text_.size()) {
    if (!pattern_.search(text_, from_, begin, end)) {
      from_ = text_.size() + 1;
      return false;
    }
    if (*begin == *end && has_last_ && last_ == *end) {
      // As the library: from where it searched, a character further.
      if (from_ >= text_.size()) ++from_;
      else read_character(text_, &from_);
      continue;
    }
    from_ = last_ = *end;
    has_last_ = true;
    return true;
  }
  return false;
}

}  // namespace mmedge::runtime
