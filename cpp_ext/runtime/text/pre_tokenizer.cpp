// How each pre-tokenizer splits: docs/reference/bundle.md, "How a text becomes ids".
#include "text/pre_tokenizer.h"

#include <algorithm>

#include "error.h"
#include "text/component_fields.h"

namespace mmedge::runtime {
namespace {

// How ByteLevel splits.
constexpr char kGpt2[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

SplitBehavior read_behavior(const ComponentFields& fields) {
  const std::string name = fields.text("behavior");
  if (name == "Removed") return SplitBehavior::kRemoved;
  if (name == "Isolated") return SplitBehavior::kIsolated;
  if (name == "MergedWithPrevious") return SplitBehavior::kMergedWithPrevious;
  if (name == "MergedWithNext") return SplitBehavior::kMergedWithNext;
  if (name == "Contiguous") return SplitBehavior::kContiguous;
  fields.refuse("behavior", "Removed, Isolated, MergedWithPrevious, MergedWithNext or Contiguous");
}

}  // namespace

// Takes matches and what is between them in their order, and gives on what their behavior makes of
// them.
class PreTokenizer::Pieces {
 public:
  Pieces(const PreTokenizer& owner, size_t step, TextView text, Work* work, WordSink* sink)
      : owner_(owner), step_(step), text_(text), work_(work), sink_(sink) {}

  void add(size_t begin, size_t end, bool is_match, SplitBehavior behavior) noexcept {
    switch (behavior) {
      case SplitBehavior::kRemoved:
        if (!is_match) give(begin, end);
        return;
      case SplitBehavior::kIsolated: give(begin, end); return;
      case SplitBehavior::kContiguous: join(begin, end, has_last_ && is_match == was_match_); break;
      case SplitBehavior::kMergedWithPrevious:
        join(begin, end, has_last_ && is_match && !was_match_);
        break;
      case SplitBehavior::kMergedWithNext:
        join(begin, end, has_last_ && was_match_ && !is_match);
        break;
    }
    was_match_ = is_match;
  }

  TextFault finish() noexcept {
    if (has_last_) give(begin_, end_);
    has_last_ = false;
    return fault_;
  }

  // Gives a piece to the next step.
  void give(size_t begin, size_t end) noexcept {
    if (end <= begin || fault_ != TextFault::kNone) return;
    const size_t first = std::clamp(text_.first, begin, end) - begin;
    fault_ = owner_.run(step_ + 1, {text_.text.substr(begin, end - begin), first}, work_, sink_);
  }

 private:
  void join(size_t begin, size_t end, bool joins) noexcept {
    if (!joins) {
      if (has_last_) give(begin_, end_);
      begin_ = begin;
    }
    end_ = end;
    has_last_ = true;
  }

  const PreTokenizer& owner_;
  size_t step_;
  TextView text_;
  Work* work_;
  WordSink* sink_;
  TextFault fault_ = TextFault::kNone;
  size_t begin_ = 0, end_ = 0;
  bool has_last_ = false, was_match_ = false;
};

PreTokenizer::PreTokenizer(const std::optional<JsonValue>& value) : spaces_(space_set()) {
  for (const ComponentFields& fields : flatten(value, "pretokenizers", "$.pre_tokenizer")) {
    const std::string type = fields.type();
    Step& step = steps_.emplace_back();
    if (type == "Whitespace") {
      step.set = unicode_set(UnicodeSet::kRustWord);
    } else if (type == "WhitespaceSplit") {
      step.kind = Kind::kSpaces;
    } else if (type == "BertPreTokenizer") {
      step.kind = Kind::kBert;
      step.set = unicode_set(UnicodeSet::kPunctuation);
    } else if (type == "Punctuation") {
      step.kind = Kind::kCharacters;
      step.set = unicode_set(UnicodeSet::kPunctuation);
      step.behavior = fields.find("behavior") ? read_behavior(fields) : SplitBehavior::kIsolated;
    } else if (type == "Digits") {
      step.kind = Kind::kCharacters;
      step.set = unicode_set(UnicodeSet::kNumeric);
      step.behavior =
          fields.flag("individual_digits") ? SplitBehavior::kIsolated : SplitBehavior::kContiguous;
    } else if (type == "CharDelimiterSplit") {
      step.kind = Kind::kCharacters;
      const uint32_t delimiter = fields.character("delimiter");
      step.set = CodeSet({delimiter, delimiter + 1});
    } else if (type == "FixedLength") {
      step.kind = Kind::kLength;
      step.length = fields.find("length") ? static_cast<size_t>(fields.count("length")) : 5;
    } else if (type == "Split") {
      step.kind = Kind::kPattern;
      step.pattern = fields.pattern();
      step.behavior = read_behavior(fields);
      step.is_inverted = fields.flag("invert");
    } else if (type == "Metaspace") {
      step.kind = Kind::kMetaspace;
      step.mark = fields.character("replacement");
      const std::string scheme =
          fields.find("prepend_scheme") ? fields.text("prepend_scheme") : "always";
      step.prepend = scheme == "always" ? Prepend::kAlways
                     : scheme == "first" ? Prepend::kFirst : Prepend::kNever;
      if (scheme != "always" && scheme != "first" && scheme != "never") {
        fields.refuse("prepend_scheme", "always, first or never");
      }
      if (!fields.flag("add_prefix_space", true) && scheme != "never") {
        fields.refuse("prepend_scheme", "never, since add_prefix_space is false");
      }
      step.splits = fields.flag("split", true);
      step.behavior = SplitBehavior::kMergedWithNext;
      step.set = CodeSet({step.mark, step.mark + 1});
    } else if (type == "ByteLevel") {
      step.kind = Kind::kByteLevel;
      if (fields.flag("add_prefix_space")) step.prepend = Prepend::kAlways;
      step.splits = fields.flag("use_regex", true);
      if (step.splits) step.pattern = Pattern(kGpt2, true, fields.where);
      step.behavior = SplitBehavior::kIsolated;
    } else if (type == "UnicodeScripts") {
      step.kind = Kind::kScripts;
      step.scripts = std::make_unique<CodeMap>(script_map());
    } else {
      fields.refuse("type", "a pre-tokenizer that is listed in docs/reference/bundle.md");
    }
  }
}

size_t PreTokenizer::reserve(size_t bytes, Work* work) const {
  work->texts.resize(2 * steps_.size());
  for (size_t i = 0; i < steps_.size(); ++i) {
    const Step& step = steps_[i];
    // A piece may be each character by itself, and one is put before each.
    if (step.kind == Kind::kMetaspace) bytes = 2 * bytes * utf8_size(step.mark) + 8;
    if (step.kind == Kind::kByteLevel) bytes = 3 * bytes + 8;
    if (step.kind == Kind::kMetaspace || step.kind == Kind::kByteLevel) {
      work->texts[2 * i].reserve(bytes);
      work->texts[2 * i + 1].reserve(bytes);
    }
  }
  return bytes;
}

TextFault PreTokenizer::apply(TextView text, Work* work, WordSink* sink) const noexcept {
  return text.text.empty() ? TextFault::kNone : run(0, text, work, sink);
}

TextFault PreTokenizer::run(size_t place, TextView view, Work* work, WordSink* sink) const noexcept {
  if (place == steps_.size()) return sink->take(view.text);
  const Step& step = steps_[place];
  Pieces pieces(*this, place, view, work, sink);
  const std::string_view text = view.text;
  switch (step.kind) {
    case Kind::kWords:
    case Kind::kSpaces:
    case Kind::kBert: return split_classes(step, &pieces, text);
    case Kind::kCharacters: return split_characters(step, &pieces, text);
    case Kind::kPattern: return split_matches(step, &pieces, text);
    case Kind::kScripts: return split_scripts(step, &pieces, text);
    case Kind::kMetaspace: return mark_spaces(place, view, work, sink);
    case Kind::kByteLevel: return make_bytes(place, view, work, sink);
    case Kind::kLength: break;
  }
  size_t begin = 0, count = 0;
  for (size_t at = 0; at < text.size() && step.length > 0;) {
    read_character(text, &at);
    if (++count % step.length != 0 && at < text.size()) continue;
    pieces.give(begin, at);
    begin = at;
  }
  return pieces.finish();
}

// Runs of one class; spaces are left out.
TextFault PreTokenizer::split_classes(const Step& step, Pieces* pieces,
                                      std::string_view text) const noexcept {
  size_t begin = 0;
  int last = 0;  // 0: a space
  for (size_t at = 0; at < text.size();) {
    const size_t here = at;
    const uint32_t c = read_character(text, &at);
    const int kind = spaces_.has(c) ? 0 : step.kind != Kind::kSpaces && step.set.has(c) ? 2 : 1;
    if (kind != last || (kind == 2 && step.kind == Kind::kBert)) {
      if (last != 0) pieces->give(begin, here);
      begin = here;
    }
    last = kind;
  }
  if (last != 0) pieces->give(begin, text.size());
  return pieces->finish();
}

TextFault PreTokenizer::split_characters(const Step& step, Pieces* pieces,
                                         std::string_view text) const noexcept {
  size_t begin = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t here = at;
    if (!step.set.has(read_character(text, &at))) continue;
    if (here > begin) pieces->add(begin, here, false, step.behavior);
    pieces->add(here, at, true, step.behavior);
    begin = at;
  }
  if (begin < text.size()) pieces->add(begin, text.size(), false, step.behavior);
  return pieces->finish();
}

TextFault PreTokenizer::split_matches(const Step& step, Pieces* pieces,
                                      std::string_view text) const noexcept {
  PatternMatches matches(step.pattern, text);
  size_t done = 0, begin = 0, end = 0;
  while (matches.next(&begin, &end)) {
    if (begin != done) pieces->add(done, begin, step.is_inverted, step.behavior);
    pieces->add(begin, end, !step.is_inverted, step.behavior);
    done = end;
  }
  if (done < text.size()) pieces->add(done, text.size(), step.is_inverted, step.behavior);
  return pieces->finish();
}

// What is before the first character of a script is left out, as in the library.
TextFault PreTokenizer::split_scripts(const Step& step, Pieces* pieces,
                                      std::string_view text) const noexcept {
  size_t begin = text.size();
  uint8_t last = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t here = at;
    const uint8_t script = (*step.scripts)(read_character(text, &at));
    if (script == 0) continue;
    if (script != last) {
      if (begin < here) pieces->give(begin, here);
      begin = here;
    }
    last = script;
  }
  pieces->give(begin, text.size());
  return pieces->finish();
}

TextFault PreTokenizer::mark_spaces(size_t place, TextView view, Work* work,
                                    WordSink* sink) const noexcept {
  const Step& step = steps_[place];
  TextBuffer& out = work->texts[2 * place];
  out.clear();
  size_t at = 0;
  const uint32_t first = read_character(view.text, &at);
  const bool begins = first == step.mark || first == ' ';
  if (!begins && (step.prepend == Prepend::kAlways ||
                  (step.prepend == Prepend::kFirst && view.first > 0))) {
    out.put(step.mark);
    out.mark_first(view.first > 0);
  }
  for (at = 0; at < view.text.size();) {
    const bool is_first = at < view.first;
    const uint32_t c = read_character(view.text, &at);
    out.put(c == ' ' ? step.mark : c);
    out.mark_first(is_first);
  }
  if (out.is_full()) return TextFault::kFull;
  Pieces pieces(*this, place, out.view(), work, sink);
  if (step.splits) return split_characters(step, &pieces, out.text());
  pieces.give(0, out.size());
  return pieces.finish();
}

TextFault PreTokenizer::make_bytes(size_t place, TextView view, Work* work,
                                   WordSink* sink) const noexcept {
  const Step& step = steps_[place];
  TextBuffer& spaced = work->texts[2 * place];
  if (step.prepend == Prepend::kAlways && view.text.front() != ' ') {
    spaced.clear();
    spaced.put(uint32_t{' '});
    spaced.put(view.text);
    if (spaced.is_full()) return TextFault::kFull;
    view = {spaced.text(), view.first > 0 ? view.first + 1 : 0};
  }
  // A word's letters go on to the next step; its bytes are not needed after that.
  TextBuffer& letters = work->texts[2 * place + 1];
  const auto give = [&](size_t begin, size_t end) {
    if (begin == end) return TextFault::kNone;
    letters.clear();
    for (size_t at = begin; at < end; ++at) {
      letters.put(byte_letter(static_cast<uint8_t>(view.text[at])));
      letters.mark_first(at < view.first);
    }
    return letters.is_full() ? TextFault::kFull : run(place + 1, letters.view(), work, sink);
  };
  if (!step.splits) return give(0, view.text.size());
  PatternMatches matches(step.pattern, view.text);
  size_t done = 0, begin = 0, end = 0;
  TextFault fault = TextFault::kNone;
  while (fault == TextFault::kNone && matches.next(&begin, &end)) {
    fault = give(done, begin);
    if (fault == TextFault::kNone) fault = give(begin, end);
    done = end;
  }
  return fault == TextFault::kNone ? give(done, view.text.size()) : fault;
}

}  // namespace mmedge::runtime
