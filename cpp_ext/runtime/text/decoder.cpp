// What each decoder does: docs/reference/bundle.md, "How a text becomes ids".
#include "text/decoder.h"

#include <algorithm>

#include "schema/utf8.h"
#include "text/component_fields.h"

namespace mmedge::runtime {
namespace {

constexpr uint32_t kReplacement = 0xfffd;

// What WordPiece and CTC clean up, in order.
constexpr char kCleanup[][2][8] = {
    {" .", "."},     {" ?", "?"},     {" !", "!"},           {" ,", ","},
    {" ' ", "'"},    {" n't", "n't"}, {" 'm", "'m"},         {" do not", " don't"},
    {" 's", "'s"},   {" 've", "'ve"}, {" 're", "'re"},
};

// Bytes as text: for what is no UTF-8, the longest beginning of a character is one U+FFFD.
void put_bytes(std::string_view bytes, TextBuffer* out) noexcept {
  const auto byte = [&](size_t at) -> uint32_t {
    return at < bytes.size() ? static_cast<uint8_t>(bytes[at]) : 0;
  };
  for (size_t at = 0; at < bytes.size();) {
    const uint32_t first = byte(at);
    const size_t size = first < 0x80 ? 1 : first < 0xc2 ? 0 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : first < 0xf5 ? 4 : 0;
    size_t good = size > 0 ? 1 : 0;
    if (size > 1) {
      const uint32_t least = first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : 0x80;
      const uint32_t most = first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : 0xbf;
      if (byte(at + 1) >= least && byte(at + 1) <= most) good = 2;
      while (good >= 2 && good < size && (byte(at + good) & 0xc0) == 0x80) ++good;
    }
    if (size > 0 && good == size) out->put(bytes.substr(at, size));
    else out->put(kReplacement);
    at += std::max<size_t>(good, 1);
  }
}

// Replaces what was put behind `begin`, in place: the new text is made behind it and moved.
void replace_all(size_t begin, std::string_view old, std::string_view fresh, TextBuffer* out) noexcept {
  const size_t end = out->size();
  const std::string_view all = out->text();
  if (old.empty()) {
    // As in the library: before each character, and at the end.
    for (size_t at = begin; at < end;) {
      const size_t here = at;
      read_character(all, &at);
      out->put(fresh);
      out->put(all.substr(here, at - here));
    }
    out->put(fresh);
  } else {
    size_t at = all.find(old, begin);
    if (at == std::string_view::npos) return;
    size_t done = begin;
    for (; at != std::string_view::npos && at + old.size() <= end; at = all.find(old, done)) {
      out->put(all.substr(done, at - done));
      out->put(fresh);
      done = at + old.size();
    }
    out->put(all.substr(done, end - done));
  }
  out->drop(begin, end);
}

void clean_up(size_t begin, TextBuffer* out) noexcept {
  for (const auto& pair : kCleanup) replace_all(begin, pair[0], pair[1], out);
}

int hexadecimal(char c) noexcept {
  if (c >= '0' && c <= '9') return c - '0';
  const char letter = static_cast<char>(c | 32);
  return letter >= 'a' && letter <= 'f' ? letter - 'a' + 10 : -1;
}

// The byte of a token such as "<0x41>"; -1 for all others.
int byte_of(std::string_view token) noexcept {
  if (token.size() != 6 || token.substr(0, 3) != "<0x" || token[5] != '>') return -1;
  const int high = token[3] == '+' ? 0 : hexadecimal(token[3]), low = hexadecimal(token[4]);
  return high < 0 || low < 0 ? -1 : high << 4 | low;
}

}  // namespace

Decoder::Decoder(const std::optional<JsonValue>& value)
    : has_decoder_(value && !value->is_null()) {
  for (const ComponentFields& fields : flatten(value, "decoders", "$.decoder")) {
    const std::string type = fields.type();
    Step& step = steps_.emplace_back();
    if (type == "Replace") {
      step.kind = Kind::kReplace;
      step.pattern = fields.pattern();
      step.content = fields.text("content");
    } else if (type == "Fuse") {
      step.kind = Kind::kFuse;
    } else if (type == "Strip") {
      step.kind = Kind::kStrip;
      fields.character("content");
      step.content = fields.text("content");
      step.start = static_cast<size_t>(fields.count("start"));
      step.stop = static_cast<size_t>(fields.count("stop"));
    } else if (type == "ByteLevel") {
      step.kind = Kind::kByteLevel;
    } else if (type == "ByteFallback") {
      step.kind = Kind::kByteFallback;
    } else if (type == "Metaspace") {
      step.kind = Kind::kMetaspace;
      fields.character("replacement");
      step.mark = fields.text("replacement");
      step.drops_first = !fields.find("prepend_scheme") || fields.text("prepend_scheme") != "never";
    } else if (type == "BPEDecoder") {
      step.kind = Kind::kBpe;
      step.mark = fields.text("suffix");
    } else if (type == "WordPiece") {
      step.kind = Kind::kWordPiece;
      step.mark = fields.text("prefix");
      step.cleans = fields.flag("cleanup");
    } else if (type == "CTC") {
      step.kind = Kind::kCtc;
      step.mark = fields.text("pad_token");
      step.content = fields.text("word_delimiter_token");
      step.cleans = fields.flag("cleanup");
    } else {
      fields.refuse("type", "a decoder that is listed in docs/reference/bundle.md");
    }
  }
}

void Decoder::reserve(size_t tokens, size_t bytes, Work* work) const {
  // A cleaned token is made behind itself; a byte may become U+FFFD.
  bytes = 4 * bytes + 64 * tokens + 1024;
  for (const Step& step : steps_) bytes += step.kind == Kind::kReplace ? tokens * step.content.size() : 0;
  for (TokenTexts& list : work->lists) {
    list.texts.reserve(bytes);
    if (list.ends.size() < tokens) list.ends.resize(tokens);
  }
}

TextFault Decoder::apply(Work* work, std::string_view* text) const noexcept {
  int from = 0;
  for (const Step& step : steps_) {
    TokenTexts& out = work->lists[1 - from];
    out.clear();
    run(step, work->lists[from], &out);
    if (out.texts.is_full()) return TextFault::kFull;
    from = 1 - from;
  }
  const TokenTexts& in = work->lists[from];
  if (has_decoder_) {
    *text = in.texts.text();
    return TextFault::kNone;
  }
  TokenTexts& out = work->lists[1 - from];
  out.clear();
  for (size_t i = 0; i < in.count; ++i) {
    if (i > 0) out.texts.put(uint32_t{' '});
    out.texts.put(in[i]);
  }
  *text = out.texts.text();
  return out.texts.is_full() ? TextFault::kFull : TextFault::kNone;
}

void Decoder::run(const Step& step, const TokenTexts& in, TokenTexts* out) const noexcept {
  if (step.kind == Kind::kFuse) {
    out->texts.put(in.texts.text());
    out->end_token();
    return;
  }
  if (step.kind == Kind::kByteLevel || step.kind == Kind::kByteFallback) {
    decode_bytes(step.kind == Kind::kByteLevel, in, out);
    return;
  }
  for (size_t place = 0; place < in.count; ++place) run_token(step, in, place, out);
}

void Decoder::run_token(const Step& step, const TokenTexts& in, size_t place,
                        TokenTexts* out) const noexcept {
  const std::string_view token = in[place];
  TextBuffer& texts = out->texts;
  const size_t begin = texts.size();
  switch (step.kind) {
    case Kind::kReplace: {
      PatternMatches matches(step.pattern, token);
      size_t done = 0, from = 0, to = 0;
      while (!token.empty() && matches.next(&from, &to)) {
        texts.put(token.substr(done, from - done));
        texts.put(step.content);
        done = to;
      }
      texts.put(token.substr(done));
      break;
    }
    case Kind::kStrip: {
      size_t from = 0, to = token.size();
      const size_t size = step.content.size();
      for (size_t i = 0; i < step.start && token.substr(from, size) == step.content; ++i) from += size;
      for (size_t i = 0; i < step.stop && to >= from + size && token.substr(to - size, size) == step.content; ++i) {
        to -= size;
      }
      texts.put(token.substr(from, to - from));
      break;
    }
    case Kind::kMetaspace:
      texts.put(token);
      replace_all(begin, step.mark, place == 0 && step.drops_first ? "" : " ", &texts);
      break;
    case Kind::kBpe:
      texts.put(token);
      replace_all(begin, step.mark, place + 1 == in.count ? "" : " ", &texts);
      break;
    case Kind::kWordPiece:
      if (place == 0) {
        texts.put(token);
      } else if (token.substr(0, step.mark.size()) == step.mark) {
        texts.put(token.substr(step.mark.size()));
      } else {
        texts.put(uint32_t{' '});
        texts.put(token);
      }
      if (step.cleans) clean_up(begin, &texts);
      break;
    case Kind::kCtc:
      if (place > 0 && token == in[place - 1]) return;
      texts.put(token);
      replace_all(begin, step.mark, "", &texts);
      if (step.cleans) {
        clean_up(begin, &texts);
        replace_all(begin, step.content, " ", &texts);
      }
      if (texts.size() == begin) return;
      break;
    default: break;
  }
  out->end_token();
}

void Decoder::decode_bytes(bool is_byte_level, const TokenTexts& in, TokenTexts* out) noexcept {
  TextBuffer& texts = out->texts;
  if (!is_byte_level) {
    for (size_t place = 0; place < in.count;) {
      size_t end = place;
      const size_t begin = texts.size();
      for (int byte = 0; end < in.count && (byte = byte_of(in[end])) >= 0; ++end) {
        const char c = static_cast<char>(byte);
        texts.put(std::string_view(&c, 1));
      }
      if (end == place) {
        texts.put(in[place++]);
        out->end_token();
        continue;
      }
      const std::string_view run = texts.text().substr(begin);
      if (texts.is_full()) return;
      if (utf8_length(run) == run.size()) {
        out->end_token();
      } else {
        texts.cut(begin);
        for (size_t i = place; i < end; ++i) {
          texts.put(kReplacement);
          out->end_token();
        }
      }
      place = end;
    }
    return;
  }
  for (size_t place = 0; place < in.count; ++place) {
    const std::string_view token = in[place];
    const size_t begin = texts.size();
    bool has_all = true;
    for (size_t at = 0; at < token.size() && has_all;) {
      const int byte = letter_byte(read_character(token, &at));
      has_all = byte >= 0;
      const char c = static_cast<char>(byte);
      if (has_all) texts.put(std::string_view(&c, 1));
    }
    if (has_all) continue;
    texts.cut(begin);
    texts.put(token);
  }
  // The text is made behind the bytes.
  const size_t end = texts.size();
  put_bytes(texts.text(), &texts);
  texts.drop(0, end);
  out->end_token();
}

}  // namespace mmedge::runtime
