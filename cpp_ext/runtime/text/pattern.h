// Regular expressions of tokenizers: those that schema/patterns.h allows, as Oniguruma reads them.
#ifndef MMEDGE_RUNTIME_TEXT_PATTERN_H_
#define MMEDGE_RUNTIME_TEXT_PATTERN_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "text/code_set.h"

namespace mmedge::runtime {

// What a pattern looks for at one place.
struct PatternItem {
  enum Kind : uint8_t {
    kCharacter,
    kSet,
    kGroup,
    kAhead,
    kNotAhead,
    kLineBegin,
    kLineEnd,
    kTextBegin,
    kTextEnd,
    kLastLineEnd,
    kWordEdge,
    kNoWordEdge,
  };
  enum Mode : uint8_t { kGreedy, kLazy, kPossessive };

  Kind kind = kCharacter;
  Mode mode = kGreedy;
  uint32_t value = 0;  // the character, or the place of the set or group
  uint32_t least = 1, most = 1;
};

using PatternSequence = std::vector<PatternItem>;
using PatternGroup = std::vector<PatternSequence>;  // alternatives, the first one first

class Pattern {
 public:
  Pattern() = default;
  // `where` is its place in the file. Throws Error(kBundle): it uses what this library does not know;
  // the text says what.
  Pattern(std::string_view pattern, bool is_regex, const std::string& where);

  // The first match from `from` on. Nothing is allocated; the depth of calls goes with the parts of
  // the pattern that may match in several ways, of which a sequence has few.
  bool search(std::string_view text, size_t from, size_t* begin, size_t* end) const noexcept;

 private:
  friend class PatternParser;
  struct Rest {
    const PatternItem* item;
    const PatternItem* end;
    const Rest* next;
  };

  bool match_group(const PatternGroup& group, std::string_view text, size_t at, const Rest* rest,
                   size_t* stop) const noexcept;
  bool match(const PatternItem* item, const PatternItem* end, std::string_view text, size_t at,
             const Rest* rest, size_t* stop) const noexcept;
  bool match_repeated(const PatternItem* item, const PatternItem* end, std::string_view text,
                      size_t at, const Rest* rest, size_t* stop) const noexcept;
  bool takes(const PatternItem& item, std::string_view text, size_t* at) const noexcept;
  bool holds(const PatternItem& item, std::string_view text, size_t at) const noexcept;

  PatternGroup alternatives_;
  std::vector<PatternGroup> groups_;
  std::vector<CodeSet> sets_;
  CodeSet word_;  // where edges of words are looked for
};

// Matches of a pattern in a text, one after another, and what is between them; as the library finds
// them, an empty one does not follow another match at once.
class PatternMatches {
 public:
  PatternMatches(const Pattern& pattern, std::string_view text) : pattern_(pattern), text_(text) {}

  // The next one; false where there is none.
  bool next(size_t* begin, size_t* end) noexcept;

 private:
  const Pattern& pattern_;
  std::string_view text_;
  size_t from_ = 0, last_ = 0;
  bool has_last_ = false;
};

}  // namespace mmedge::runtime

#endif  // MMEDGE_RUNTIME_TEXT_PATTERN_H_
