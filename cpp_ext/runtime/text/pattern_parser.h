// Makes a Pattern of its text.
#ifndef MMEDGE_RUNTIME_TEXT_PATTERN_PARSER_H_
#define MMEDGE_RUNTIME_TEXT_PATTERN_PARSER_H_

#include <string>
#include <string_view>
#include <vector>

#include "text/pattern.h"

namespace mmedge::runtime {

class PatternParser {
 public:
  PatternParser(std::string_view text, const std::string& where, Pattern* pattern);

  // Throws Error(kBundle).
  void parse();

 private:
  struct Flags {
    bool ignores_case = false, dot_takes_all = false;
  };
  struct Escape {
    bool is_set = false;
    uint32_t character = 0;
    CodeSet set;
  };

  [[noreturn]] void refuse(const std::string& what) const;
  uint32_t peek(size_t ahead = 0) const {
    return at_ + ahead < text_.size() ? text_[at_ + ahead] : kEndOfCharacters;
  }
  uint32_t take();
  bool take(char c);
  PatternGroup read_alternatives(Flags flags);
  void read_item(Flags flags, PatternSequence* sequence);
  PatternItem read_group(Flags flags);
  void read_times(PatternItem* item);
  bool read_edge(PatternItem* item);
  Escape read_escape(bool in_class);
  uint32_t read_hexadecimal(size_t least, size_t most);
  CodeSet read_class(Flags flags);
  CodeSet read_bracket();
  CodeSet read_property(bool is_negated);
  CodeSet named(const std::string& name) const;
  PatternItem make_set(CodeSet set);
  CodeSet with_other_case(const CodeSet& set) const;
  PatternItem make_character(uint32_t c, Flags flags, const PatternSequence& before);

  std::vector<uint32_t> text_;
  size_t at_ = 0;
  std::string shown_;
  const std::string& where_;
  Pattern* pattern_;
};

}  // namespace mmedge::runtime

#endif  // MMEDGE_RUNTIME_TEXT_PATTERN_PARSER_H_
