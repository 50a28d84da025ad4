// What each normalizer does: docs/reference/bundle.md, "How a text becomes ids".
#include "text/normalizer.h"

#include <algorithm>

#include "error.h"
#include "schema/charsmap.h"
#include "schema/utf8.h"
#include "text/component_fields.h"

namespace mmedge::runtime {
namespace {

// Of the replaced character of a `Prepend` and of `Replace` where nothing was.
constexpr size_t kRoomBefore = 64 * 32;

bool is_in(uint32_t c, uint32_t begin, uint32_t end) { return c >= begin && c < end; }

bool is_ideograph(uint32_t c) {
  return is_in(c, 0x3400, 0x4dc0) || is_in(c, 0x4e00, 0xa000) || is_in(c, 0xf900, 0xfb00) ||
         is_in(c, 0x20000, 0x2a6e0) || is_in(c, 0x2a700, 0x2b820) || is_in(c, 0x2b920, 0x2ceb0) ||
         is_in(c, 0x2f800, 0x2fa20);
}

bool nmt_drops(uint32_t c) {
  return is_in(c, 1, 9) || c == 11 || is_in(c, 14, 32) || c == 0x7f || c == 0x8f || c == 0x9f;
}

bool nmt_makes_space(uint32_t c) {
  return c == 9 || c == 10 || c == 12 || c == 13 || c == 0x1680 || is_in(c, 0x200b, 0x2010) ||
         c == 0x2028 || c == 0x2029 || c == 0x2581 || c == 0xfeff || c == 0xfffd;
}

}  // namespace

Normalizer::Normalizer(const std::optional<JsonValue>& value) : spaces_(space_set()) {
  for (const ComponentFields& fields : flatten(value, "normalizers", "$.normalizer")) {
    const std::string type = fields.type();
    if (type == "NFC" || type == "NFD" || type == "NFKC" || type == "NFKD") {
      add_form(type[2] == 'K', type.back() == 'C');
      continue;
    }
    if (type == "Lowercase") {
      add_lower();
      continue;
    }
    if (type == "BertNormalizer") {
      if (fields.flag("clean_text")) {
        steps_.emplace_back().kind = Kind::kClean;
        steps_.back().set = unicode_set(UnicodeSet::kUnprintable);
      }
      if (fields.flag("handle_chinese_chars")) {
        steps_.emplace_back().kind = Kind::kSpaceIdeographs;
        steps_.back().growth = 3;
      }
      const bool lower = fields.flag("lowercase");
      if (fields.flag("strip_accents", lower)) {
        add_form(false, false);
        steps_.emplace_back().kind = Kind::kDropNonspacing;
        steps_.back().set = unicode_set(UnicodeSet::kNonspacing);
      }
      if (lower) add_lower();
      continue;
    }
    Step& step = steps_.emplace_back();
    if (type == "StripAccents") {
      step.kind = Kind::kStripAccents;
      step.set = unicode_set(UnicodeSet::kMarks);
    } else if (type == "Strip") {
      step.kind = Kind::kStrip;
      step.left = fields.flag("strip_left");
      step.right = fields.flag("strip_right");
    } else if (type == "Prepend") {
      step.kind = Kind::kPrepend;
      step.content = fields.text("prepend");
    } else if (type == "Replace") {
      step.kind = Kind::kReplace;
      step.content = fields.text("content");
      step.pattern = fields.pattern();
      step.growth = count_characters(step.content) + 1;
    } else if (type == "ByteLevel") {
      step.kind = Kind::kByteLevel;
      step.growth = 4;
    } else if (type == "Nmt") {
      step.kind = Kind::kNmt;
    } else if (type == "Precompiled") {
      step.kind = Kind::kTable;
      const std::string table = fields.text("precompiled_charsmap");
      step.table = std::make_unique<ReplacementTable>(table, fields.where);
      step.growth = static_cast<size_t>(std::max<int64_t>(
          1, longest_replacement(fields.find("precompiled_charsmap"), fields.where)));
    } else {
      fields.refuse("type", "a normalizer that is listed in docs/reference/bundle.md");
    }
  }
}

void Normalizer::add_form(bool is_compatible, bool is_composed) {
  Step& step = steps_.emplace_back();
  step.form = std::make_unique<NormalForm>(is_compatible, is_composed);
  step.growth = is_compatible ? 18 : 4;
}

void Normalizer::add_lower() {
  Step& step = steps_.emplace_back();
  step.kind = Kind::kLowercase;
  step.lower = std::make_unique<LowerCase>();
  step.growth = 2;
}

size_t Normalizer::growth() const {
  size_t growth = 1;
  for (const Step& step : steps_) growth *= step.growth;
  return std::min<size_t>(growth, 1 << 12);
}

void Normalizer::reserve(size_t characters, Work* work) const {
  if (steps_.empty()) return;
  const size_t room = characters * growth() + kRoomBefore;
  for (TextBuffer& text : work->texts) text.reserve(4 * room);
  for (const Step& step : steps_) {
    if (step.form && work->characters.size() < room) work->characters.resize(room);
  }
}

TextFault Normalizer::apply(TextView text, Work* work, TextView* out) const noexcept {
  int to = 0;
  for (const Step& step : steps_) {
    TextBuffer& buffer = work->texts[to];
    buffer.clear();
    const TextFault fault = run(step, text, work, &buffer);
    if (fault != TextFault::kNone) return fault;
    if (buffer.is_full()) return TextFault::kFull;
    text = buffer.view();
    to = 1 - to;
  }
  *out = text;
  return TextFault::kNone;
}

void Normalizer::replace(const Step& step, TextView in, TextBuffer* out) noexcept {
  PatternMatches matches(step.pattern, in.text);
  size_t done = 0, begin = 0, end = 0;
  const auto copy = [&](size_t until) {
    // What comes from the first character is at the begin.
    const size_t firsts = std::clamp(in.first, done, until);
    out->put(in.text.substr(done, firsts - done));
    out->mark_first(firsts > done);
    out->put(in.text.substr(firsts, until - firsts));
  };
  while (!in.text.empty() && matches.next(&begin, &end)) {
    copy(begin);
    out->put(step.content);
    // It counts as the last character before its end.
    out->mark_first(end == 0 || character_before(in.text, end) < in.first);
    done = end;
  }
  copy(in.text.size());
}

TextFault Normalizer::run(const Step& step, TextView in, Work* work,
                          TextBuffer* out) const noexcept {
  const std::string_view text = in.text;
  size_t begin = 0, end = text.size();
  switch (step.kind) {
    case Kind::kForm:
      step.form->apply(in, &work->characters, out);
      return TextFault::kNone;
    case Kind::kTable:
      return step.table->apply(in, out) ? TextFault::kNone : TextFault::kTable;
    case Kind::kReplace:
      replace(step, in, out);
      return TextFault::kNone;
    case Kind::kPrepend:
      if (!text.empty()) out->put(step.content);
      out->mark_first(in.first > 0);
      break;
    case Kind::kStrip:
      while (step.left && begin < end) {
        size_t next = begin;
        if (!spaces_.has(read_character(text, &next))) break;
        begin = next;
      }
      while (step.right && begin < end) {
        const size_t before = character_before(text, end);
        size_t at = before;
        if (!spaces_.has(read_character(text, &at))) break;
        end = before;
      }
      break;
    default: break;
  }
  for (size_t at = begin; at < end;) {
    const size_t here = at;
    const uint32_t c = read_character(text, &at);
    switch (step.kind) {
      case Kind::kLowercase:
        if (c == 0x130) {
          out->put(uint32_t{'i'});
          out->put(uint32_t{0x307});
        } else {
          out->put((*step.lower)(c));
        }
        break;
      case Kind::kStripAccents:
      case Kind::kDropNonspacing:
        if (step.set.has(c)) continue;
        out->put(c);
        break;
      case Kind::kByteLevel:
        for (size_t byte = here; byte < at; ++byte) {
          out->put(byte_letter(static_cast<uint8_t>(text[byte])));
        }
        break;
      case Kind::kClean:
        if (step.set.has(c)) continue;
        out->put(spaces_.has(c) ? uint32_t{' '} : c);
        break;
      case Kind::kSpaceIdeographs:
        if (is_ideograph(c)) out->put(uint32_t{' '});
        out->put(c);
        if (is_ideograph(c)) out->put(uint32_t{' '});
        break;
      case Kind::kNmt:
        if (nmt_drops(c)) continue;
        out->put(nmt_makes_space(c) ? uint32_t{' '} : c);
        break;
      default: out->put(c);
    }
    out->mark_first(here < in.first);
  }
  return TextFault::kNone;
}

}  // namespace mmedge::runtime
