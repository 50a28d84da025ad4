// The forms of patterns that a bundle may hold, of which schema/patterns.cpp has the grammar.
#include "text/pattern_parser.h"

#include <algorithm>

#include "error.h"
#include "schema/read.h"
#include "text/text_buffer.h"

namespace mmedge::runtime {
namespace {

constexpr uint32_t kMany = UINT32_MAX;

bool is_ascii_letter(uint32_t c) { return (c | 32) >= 'a' && (c | 32) <= 'z'; }

}  // namespace

PatternParser::PatternParser(std::string_view text, const std::string& where, Pattern* pattern)
    : shown_(show(text)), where_(where), pattern_(pattern) {
  for (size_t at = 0; at < text.size();) text_.push_back(read_character(text, &at));
}

void PatternParser::parse() {
  pattern_->alternatives_ = read_alternatives(Flags());
  if (at_ != text_.size()) refuse("an unmatched ')'");
}

void PatternParser::refuse(const std::string& what) const {
  throw Error(Code::kBundle, where_ + ": libmmedge does not know " + what + " in the pattern " +
                                 shown_ + "; pass token ids, or save a tokenizer without it");
}

uint32_t PatternParser::take() {
  if (at_ >= text_.size()) refuse("what is unfinished");
  return text_[at_++];
}

bool PatternParser::take(char c) {
  if (peek() != static_cast<uint8_t>(c)) return false;
  ++at_;
  return true;
}

PatternGroup PatternParser::read_alternatives(Flags flags) {
  PatternGroup group;
  do {
    PatternSequence sequence;
    while (at_ < text_.size() && peek() != '|' && peek() != ')') read_item(flags, &sequence);
    group.push_back(std::move(sequence));
  } while (take('|'));
  return group;
}

void PatternParser::read_item(Flags flags, PatternSequence* sequence) {
  PatternItem item;
  if (take('^')) {
    item.kind = PatternItem::kLineBegin;
  } else if (take('$')) {
    item.kind = PatternItem::kLineEnd;
  } else if (take('.')) {
    item = make_set(flags.dot_takes_all ? CodeSet({0, kEndOfCharacters})
                                        : CodeSet({0, '\n', '\n' + 1, kEndOfCharacters}));
  } else if (take('(')) {
    item = read_group(flags);
  } else if (take('[')) {
    item = make_set(read_class(flags));
  } else if (peek() == '\\') {
    if (!read_edge(&item)) {
      Escape escape = read_escape(false);
      if (!escape.is_set) {
        item = make_character(escape.character, flags, *sequence);
      } else {
        item = make_set(flags.ignores_case ? with_other_case(escape.set) : std::move(escape.set));
      }
    }
  } else {
    item = make_character(take(), flags, *sequence);
  }
  read_times(&item);
  sequence->push_back(item);
}

PatternItem PatternParser::read_group(Flags flags) {
  PatternItem item;
  item.kind = PatternItem::kGroup;
  if (take('?')) {
    if (take('=')) {
      item.kind = PatternItem::kAhead;
    } else if (take('!')) {
      item.kind = PatternItem::kNotAhead;
    } else {
      bool is_on = true;
      while (!take(':')) {
        const uint32_t c = take();
        if (c == '-') is_on = false;
        else if (c == 'i') flags.ignores_case = is_on;
        else if (c == 'm') flags.dot_takes_all = is_on;
        else if (c != 'x' || is_on) refuse("the option x");
      }
    }
  }
  PatternGroup group = read_alternatives(flags);
  if (!take(')')) refuse("a group without an end");
  item.value = static_cast<uint32_t>(pattern_->groups_.size());
  pattern_->groups_.push_back(std::move(group));
  return item;
}

void PatternParser::read_times(PatternItem* item) {
  const uint32_t sign = peek();
  if (sign == '*' || sign == '+' || sign == '?') {
    ++at_;
    item->least = sign == '+' ? 1 : 0;
    item->most = sign == '?' ? 1 : kMany;
    item->mode = take('?') ? PatternItem::kLazy
                           : take('+') ? PatternItem::kPossessive : PatternItem::kGreedy;
    return;
  }
  if (sign != '{') return;
  ++at_;
  uint32_t bounds[2] = {0, kMany};
  int count = 0;
  bool has_second = false;
  for (;; ++count) {
    bool has_digits = false;
    uint32_t value = 0;
    while (peek() >= '0' && peek() <= '9') {
      value = value * 10 + (take() - '0');
      has_digits = true;
    }
    if (has_digits) bounds[count] = value;
    has_second = count == 1 && has_digits;
    if (count == 1 || !take(',')) break;
  }
  if (!take('}')) refuse("a repetition of this form");
  if (count == 0) bounds[1] = bounds[0];
  item->least = bounds[0];
  item->most = count == 0 || has_second ? bounds[1] : kMany;
  if (!take('?')) return;
  if (count == 1) {
    item->mode = PatternItem::kLazy;
    return;
  }
  // Of a fixed number: that many, or none.
  const PatternItem inner = *item;
  *item = PatternItem();
  item->kind = PatternItem::kGroup;
  item->least = 0;
  item->value = static_cast<uint32_t>(pattern_->groups_.size());
  pattern_->groups_.push_back({{inner}});
}

bool PatternParser::read_edge(PatternItem* item) {
  switch (peek(1)) {
    case 'b': item->kind = PatternItem::kWordEdge; break;
    case 'B': item->kind = PatternItem::kNoWordEdge; break;
    case 'A': item->kind = PatternItem::kTextBegin; break;
    case 'z': item->kind = PatternItem::kTextEnd; break;
    case 'Z': item->kind = PatternItem::kLastLineEnd; break;
    default: return false;
  }
  if (pattern_->word_.empty()) pattern_->word_ = unicode_set(UnicodeSet::kWord);
  at_ += 2;
  return true;
}

PatternParser::Escape PatternParser::read_escape(bool in_class) {
  ++at_;
  Escape escape;
  const uint32_t kind = take();
  const auto set = [&](CodeSet made) {
    escape.is_set = true;
    escape.set = std::move(made);
  };
  switch (kind) {
    case 'p': set(read_property(false)); break;
    case 'P': set(read_property(true)); break;
    case 's': set(space_set()); break;
    case 'S': set(~space_set()); break;
    case 'd': set(named("nd")); break;
    case 'D': set(~named("nd")); break;
    case 'w':
    case 'W': {
      const CodeSet word = unicode_set(in_class ? UnicodeSet::kClassWord : UnicodeSet::kWord);
      set(kind == 'w' ? word : ~word);
      break;
    }
    case 'h': set(named("xdigit")); break;
    case 'H': set(~named("xdigit")); break;
    case 'r': escape.character = '\r'; break;
    case 'n': escape.character = '\n'; break;
    case 't': escape.character = '\t'; break;
    case 'f': escape.character = '\f'; break;
    case 'v': escape.character = '\v'; break;
    case 'a': escape.character = 7; break;
    case 'e': escape.character = 27; break;
    case 'u': escape.character = read_hexadecimal(4, 4); break;
    case 'x':
      if (take('{')) {
        escape.character = read_hexadecimal(1, 6);
        if (!take('}')) refuse("an escape of this form");
      } else {
        escape.character = read_hexadecimal(2, 2);
        if (escape.character > 127) refuse("a single byte of a character");
      }
      break;
    case 'b':
      if (!in_class) refuse("an escape of this form");
      escape.character = 8;
      break;
    default:
      if (kind < 128 && (is_ascii_letter(kind) || (kind >= '0' && kind <= '9'))) {
        refuse("an escape of this form");
      }
      escape.character = kind;
  }
  return escape;
}

uint32_t PatternParser::read_hexadecimal(size_t least, size_t most) {
  uint32_t value = 0;
  size_t count = 0;
  for (; count < most; ++count) {
    const uint32_t c = peek(), letter = c | 32;
    if (c >= '0' && c <= '9') value = value * 16 + (c - '0');
    else if (letter >= 'a' && letter <= 'f') value = value * 16 + (letter - 'a' + 10);
    else break;
    ++at_;
  }
  if (count < least || value >= kEndOfCharacters) refuse("a character of this number");
  return value;
}

CodeSet PatternParser::read_property(bool is_negated) {
  if (!take('{')) refuse("a property of this form");
  if (take('^')) is_negated = !is_negated;
  std::string name;
  for (uint32_t c = take(); c != '}'; c = take()) name.push_back(static_cast<char>(c));
  const CodeSet set = named(name);
  return is_negated ? ~set : set;
}

CodeSet PatternParser::named(const std::string& name) const {
  CodeSet set;
  if (!property_set(name, &set)) refuse("the property " + show(name));
  return set;
}

// Behind "[:".
CodeSet PatternParser::read_bracket() {
  const bool is_negated = take('^');
  std::string name;
  for (uint32_t c = take(); c != ':'; c = take()) name.push_back(static_cast<char>(c));
  if (!take(']')) refuse("a class of this form");
  // Of brackets it has symbols too, as Oniguruma has it.
  const CodeSet set = name == "punct" ? named("p") | named("s") : named(name);
  return is_negated ? ~set : set;
}

// Behind "[".
CodeSet PatternParser::read_class(Flags flags) {
  const bool is_negated = take('^');
  CodeSet all, part;  // what stood before the last "&&", and what follows it
  bool has_all = false, is_begin = true;
  while (true) {
    if (peek() == ']' && !is_begin) break;
    is_begin = false;
    if (peek() == '[') {
      ++at_;
      part = part | (take(':') ? read_bracket() : read_class(flags));
      continue;
    }
    if (peek() == '&' && peek(1) == '&') {
      at_ += 2;
      all = has_all ? all & part : part;
      has_all = true;
      part = CodeSet();
      continue;
    }
    Escape first;
    if (peek() == '\\') first = read_escape(true);
    else first.character = take();
    if (first.is_set) {
      part = part | first.set;
      continue;
    }
    uint32_t last = first.character;
    if (peek() == '-' && peek(1) != ']' && peek(1) != '[' && !(peek(1) == '&' && peek(2) == '&')) {
      ++at_;
      Escape second;
      if (peek() == '\\') second = read_escape(true);
      else second.character = take();
      if (second.is_set || second.character < last) refuse("a range of this form");
      last = second.character;
    }
    if (flags.ignores_case && last > 127) refuse("(?i: with other letters than A to Z");
    part = part | CodeSet({first.character, last + 1});
  }
  ++at_;
  if (has_all) part = all & part;
  if (flags.ignores_case) part = with_other_case(part);
  return is_negated ? ~part : part;
}

PatternItem PatternParser::make_set(CodeSet set) {
  PatternItem item;
  item.kind = PatternItem::kSet;
  item.value = static_cast<uint32_t>(pattern_->sets_.size());
  pattern_->sets_.push_back(std::move(set));
  return item;
}

// K has three forms (k, K and the Kelvin sign), and s (s, S and the long one).
CodeSet PatternParser::with_other_case(const CodeSet& set) const {
  const bool has_all = set.has(0xe9) && set.has(0xc9);
  if (!has_all && (set.has(0xe9) || set.has(0xc9))) refuse("(?i: with other letters than A to Z");
  CodeSet result = set;
  for (uint32_t c = 'a'; c <= 'z'; ++c) {
    const uint32_t extra = c == 's' ? 0x17f : c == 'k' ? 0x212a : c;
    if (!set.has(c) && !set.has(c - 32) && !set.has(extra)) continue;
    result = result | CodeSet({c, c + 1}) | CodeSet({c - 32, c - 31}) | CodeSet({extra, extra + 1});
  }
  return result;
}

PatternItem PatternParser::make_character(uint32_t c, Flags flags, const PatternSequence& before) {
  PatternItem item;
  item.value = c;
  if (!flags.ignores_case) return item;
  if (c > 127) refuse("(?i: with other letters than A to Z");
  if (!is_ascii_letter(c)) return item;
  // Ligatures and the sharp s match two letters.
  if (!before.empty() && before.back().kind == PatternItem::kSet) {
    const CodeSet& set = pattern_->sets_[before.back().value];
    const uint32_t letter = c | 32;
    const auto is_single = [&](uint32_t l) { return set.has(l) && !set.has(l + 1) && !set.has(l - 1); };
    if ((is_single('s') && (letter == 's' || letter == 't')) ||
        (is_single('f') && (letter == 'f' || letter == 'i' || letter == 'l'))) {
      refuse("(?i: with ss, st, ff, fi or fl");
    }
  }
  return make_set(with_other_case(CodeSet({c, c + 1})));
}

}  // namespace mmedge::runtime
