// The forms of regular expressions that a tokenizer file may hold.
//
// An alternative may hold two unlimited repetitions, and what follows the second must not be able
// to fail. One start of a search then takes time in proportion to the text.
#include "schema/patterns.h"

#include <algorithm>
#include <vector>

#include "schema/read.h"
#include "schema/utf8.h"

namespace mmedge::runtime {
namespace {

// Characters of a pattern, and alternatives of it and of one of its groups.
constexpr size_t kMaxPattern = 4096;
constexpr int kMaxAlternatives = 64, kMaxInGroup = 16;
// A repetition of up to this many is short; of more, it counts as unlimited.
constexpr int kShort = 4;
// Short repetitions, optional parts and groups with alternatives in one alternative.
constexpr int kMaxChoices = 3;
constexpr int kMany = 1 << 30;

bool is_digit(uint32_t c) { return c >= '0' && c <= '9'; }
bool is_alphanumeric(uint32_t c) {
  return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}
bool is_hex(uint32_t c) { return is_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F'); }
bool is_property(uint32_t c) { return is_alphanumeric(c) || c == '_' || c == ' '; }
bool is_flag(uint32_t c) { return c == 'i' || c == 'm' || c == 'x'; }

bool is_one_of(uint32_t c, const char* characters) {
  for (; *characters != '\0'; ++characters) {
    if (c == static_cast<uint8_t>(*characters)) return true;
  }
  return false;
}

class PatternReader {
 public:
  PatternReader(std::string_view text, const std::string& where) : text_(text), where_(where) {
    for (size_t at = 0; at < text.size();) pattern_.push_back(next_character(text, &at));
  }

  int read() {
    const int retrying = alternatives(false);
    if (at_ != pattern_.size()) fault("an unmatched ')'");
    return retrying;
  }

 private:
  struct Atom {
    bool branches;  // it has alternatives
    bool is_empty;  // it takes no character
  };
  struct Times {
    int least, most;
  };

  [[noreturn]] void fault(const std::string& what) const {
    throw Misfit(where_,
                 "a pattern of bounded time (at most two repetitions in an alternative, none in "
                 "groups; docs/reference/bundle.md)",
                 what + " at character " + std::to_string(at_) + " of " + show(text_));
  }

  // The character so far behind a place; 0x110000, which is none, behind the end.
  uint32_t peek(size_t ahead = 0) const {
    return pattern_.size() - at_ > ahead ? pattern_[at_ + ahead] : 0x110000;
  }

  bool take(char c) {
    if (peek() != static_cast<uint8_t>(c)) return false;
    ++at_;
    return true;
  }

  // Up to the end or the group's ')'; how many alternatives may retry.
  int alternatives(bool inside) {
    const int most = inside ? kMaxInGroup : kMaxAlternatives;
    int retrying = 0, count = 0;
    do {
      retrying += alternative(inside);
      if (++count > most) fault("more than " + std::to_string(most) + " alternatives");
    } while (take('|'));
    return retrying;
  }

  // Whether the alternative may be tried in many ways from one place.
  bool alternative(bool inside) {
    int unlimited = 0, choices = 0;
    bool grouped = false, retrying = false;
    while (at_ < pattern_.size() && !is_one_of(peek(), "|)")) {
      const bool group = peek() == '(';
      const Atom atom = read_atom(inside);
      const Times times = read_times(atom.is_empty);
      if (group && times.most > 1) fault("a repetition of a group");
      if (times.most > kShort && inside) fault("a repetition in a group");
      // Where this part can fail, what stands before it is tried again in each other way.
      if (times.least > 0 || atom.is_empty) {
        if (unlimited == 2) fault("what can fail after two repetitions");
        if (unlimited > 0 && (choices > 1 || grouped)) {
          fault("what can fail after a repetition and optional parts");
        }
        retrying = retrying || unlimited > 0 || choices > 1;
      }
      if (times.most > kShort) {
        if (++unlimited > 2) fault("a third repetition");
        continue;
      }
      choices += atom.branches || times.most != times.least;
      grouped = grouped || atom.branches;
      if (choices > kMaxChoices) {
        fault("more than " + std::to_string(kMaxChoices) + " optional parts");
      }
    }
    return retrying;
  }

  Atom read_atom(bool inside) {
    const uint32_t first = peek();
    if (first == '\\') {
      const uint32_t second = peek(1);
      at_ += escape_length();
      return {false, is_one_of(second, "bBAzZ")};
    }
    if (first == '[') {
      read_class();
      return {false, false};
    }
    if (first == '(') return {read_group(inside), false};
    if (is_one_of(first, "*+?{")) fault("a repetition of nothing");
    ++at_;
    return {false, first == '^' || first == '$'};
  }

  // Whether the group has alternatives.
  bool read_group(bool inside) {
    if (inside) fault("a group in a group");
    const size_t opening = opening_length();
    if (opening == 0 && peek(1) == '?') fault("a group of a kind that is not known");
    at_ += std::max<size_t>(opening, 1);
    const size_t begin = at_;
    alternatives(true);
    const bool branches =
        std::find(pattern_.begin() + begin, pattern_.begin() + at_, uint32_t{'|'}) !=
        pattern_.begin() + at_;
    if (!take(')')) fault("a group without an end");
    return branches;
  }

  // Length of "(?:", "(?=", "(?!" or "(?im-x:"; 0 where the group begins otherwise.
  size_t opening_length() const {
    if (peek(1) != '?') return 0;
    if (is_one_of(peek(2), "=!")) return 3;
    size_t length = 2 + run(2, 3, is_flag);
    if (peek(length) == '-') {
      const size_t off = run(length + 1, 3, is_flag);
      if (off == 0) return 0;
      length += 1 + off;
    }
    return peek(length) == ':' ? length + 1 : 0;
  }

  // How many characters of a kind follow from a place on, up to `most`.
  size_t run(size_t ahead, size_t most, bool (*is_kind)(uint32_t)) const {
    size_t count = 0;
    while (count < most && is_kind(peek(ahead + count))) ++count;
    return count;
  }

  // Length of the escape at the place, with its backslash.
  size_t escape_length() const {
    const uint32_t kind = peek(1);
    if ((kind == 'p' || kind == 'P') && peek(2) == '{') {
      const size_t begin = peek(3) == '^' ? 4 : 3;
      const size_t count = run(begin, 41, is_property);
      if (count >= 1 && count <= 40 && peek(begin + count) == '}') return begin + count + 1;
    } else if (kind == 'x') {
      const size_t count = peek(2) == '{' ? run(3, 7, is_hex) : 0;
      if (count >= 1 && count <= 6 && peek(3 + count) == '}') return 3 + count + 1;
      if (run(2, 2, is_hex) == 2) return 4;
    } else if (kind == 'u') {
      if (run(2, 4, is_hex) == 4) return 6;
    } else if (is_one_of(kind, "sSdDwWhHrntfvaebBAzZ")) {
      return 2;
    } else if (kind < 0x110000 && !is_alphanumeric(kind)) {
      return 2;
    }
    fault("an escape that is not known");
  }

  // Reads "[...]", with classes inside it.
  void read_class() {
    int depth = 1;
    ++at_;
    // A ']' that comes first is a character of the class.
    take('^');
    take(']');
    while (depth > 0) {
      if (at_ >= pattern_.size()) fault("a class without an end");
      const uint32_t c = peek();
      if (c == '\\') {
        at_ += escape_length();
        continue;
      }
      depth += (c == '[') - (c == ']');
      ++at_;
    }
  }

  int number(size_t ahead, size_t digits) const {
    int value = 0;
    for (size_t i = 0; i < digits; ++i) {
      value = value * 10 + static_cast<int>(peek(ahead + i) - '0');
    }
    return value;
  }

  // Reads "{n}", "{n,}", "{,m}" or "{n,m}" of up to 5 digits each; false where there is none. As
  // the digits of two numbers without a comma, 6 to 10 are those of the first, then others.
  bool read_braces(Times* times) {
    const size_t first = run(1, 5, is_digit);
    const bool comma = peek(1 + first) == ',';
    const size_t begin = 1 + first + comma;
    const size_t second = run(begin, 5, is_digit);
    if (peek(begin + second) != '}') return false;
    if (first == 0 && second == 0) fault("a repetition without a number");
    times->least = number(1, first);
    times->most = !comma ? times->least : second > 0 ? number(begin, second) : kMany;
    at_ += begin + second + 1;
    return true;
  }

  // Reads how often the part before may come.
  Times read_times(bool nothing) {
    Times times{0, 0};
    const uint32_t sign = peek();
    if (is_one_of(sign, "*+?")) {
      ++at_;
      times.least = sign == '+' ? 1 : 0;
      times.most = sign == '?' ? 1 : kMany;
      // Lazy or possessive: the same ways, in another order or fewer.
      if (!take('?')) take('+');
    } else if (sign == '{' && read_braces(&times)) {
      if (times.most < times.least || is_one_of(peek(), "+*")) {
        fault("a repetition of a repetition");
      }
      take('?');
    } else {
      return nothing ? Times{0, 1} : Times{1, 1};
    }
    if (is_one_of(peek(), "*+?{")) fault("a repetition of a repetition");
    if (nothing) fault("a repetition of what takes no character");
    return times;
  }

  std::string_view text_;
  const std::string& where_;
  std::vector<uint32_t> pattern_;
  size_t at_ = 0;
};

}  // namespace

int check_pattern(std::string_view pattern, const std::string& where) {
  const size_t characters = count_characters(pattern);
  if (characters > kMaxPattern) {
    throw Misfit(where, "at most " + std::to_string(kMaxPattern) + " characters",
                 std::to_string(characters));
  }
  return PatternReader(pattern, where).read();
}

}  // namespace mmedge::runtime
