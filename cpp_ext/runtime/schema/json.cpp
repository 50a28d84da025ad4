// The reader of JSON documents, in one pass and without recursion.
#include "schema/json.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>
#include <deque>
#include <limits>

#include "schema/read.h"
#include "schema/utf8.h"

namespace mmedge::runtime {
namespace {

constexpr int kKindShift = 28;
constexpr uint32_t kPayload = (uint32_t{1} << kKindShift) - 1;
// A string with escapes, which has to be decoded.
constexpr uint32_t kEscaped = 8;
// Most digits of a whole number: Python's limit.
constexpr size_t kMaxDigits = 4300;

static_assert(JsonDocument::kMaxBytes * 3 / 2 + 2 < kPayload, "places fit into a word");

bool is_space(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }
bool is_digit(char c) { return c >= '0' && c <= '9'; }

// Value of a hexadecimal digit, or -1.
int hex_value(char c) {
  if (is_digit(c)) return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

// Four hexadecimal digits, which the parser has seen to be some.
uint32_t code_unit(std::string_view text, size_t at) {
  uint32_t unit = 0;
  for (size_t i = 0; i < 4; ++i) unit = unit << 4 | static_cast<uint32_t>(hex_value(text[at + i]));
  return unit;
}

// The number behind `at` in the text.
size_t number_end(std::string_view text, size_t at) {
  while (at < text.size() && (is_digit(text[at]) || std::strchr("+-.eE", text[at]))) ++at;
  return at;
}

std::string decode_escapes(std::string_view raw) {
  std::string decoded;
  decoded.reserve(raw.size());
  for (size_t at = 0; at < raw.size();) {
    if (raw[at] != '\\') {
      const size_t end = std::min(raw.find('\\', at), raw.size());
      decoded.append(raw, at, end - at);
      at = end;
      continue;
    }
    const char escape = raw[at + 1];
    at += 2;
    if (escape == 'u') {
      uint32_t unit = code_unit(raw, at);
      at += 4;
      const bool high = unit >= 0xd800 && unit < 0xdc00;
      if (high && raw.size() - at >= 6 && raw[at] == '\\' && raw[at + 1] == 'u') {
        const uint32_t low = code_unit(raw, at + 2);
        if (low >= 0xdc00 && low < 0xe000) {
          unit = 0x10000 + ((unit & 0x3ff) << 10 | (low & 0x3ff));
          at += 6;
        }
      }
      append_character(unit, &decoded);
      continue;
    }
    constexpr char kNames[] = "bfnrt", kValues[] = "\b\f\n\r\t";
    const char* name = std::strchr(kNames, escape);
    decoded.push_back(name != nullptr ? kValues[name - kNames] : escape);
  }
  return decoded;
}

// Whether a number that float64 cannot hold is past its largest and not below its smallest.
bool is_large(std::string_view text) {
  int64_t point = 0;  // places of the first digit that is not 0 before the point
  bool digits = false, fraction = false;
  size_t at = 0;
  for (; at < text.size() && text[at] != 'e' && text[at] != 'E'; ++at) {
    if (text[at] == '.') fraction = true;
    if (!is_digit(text[at])) continue;
    digits = digits || text[at] != '0';
    if (digits && !fraction) ++point;
    if (!digits && fraction) --point;
  }
  int64_t exponent = 0;
  const bool negative = at + 1 < text.size() && text[at + 1] == '-';
  for (; at < text.size(); ++at) {
    if (is_digit(text[at])) exponent = std::min<int64_t>(exponent * 10 + (text[at] - '0'), 1 << 30);
  }
  return digits && point + (negative ? -exponent : exponent) > 0;
}

}  // namespace

// Reads a text into the words of a document.
class JsonParser {
 public:
  explicit JsonParser(JsonDocument* document)
      : text_(document->text_), words_(document->words_) {}

  void read() {
    skip_space();
    for (;;) {
      if (read_value()) {  // a list or an object begins
        skip_space();
        if (at_ < text_.size() && text_[at_] == closing()) {
          close();
        } else {
          if (closing() == '}') read_key();
          continue;
        }
      }
      if (!read_ends()) return;
    }
  }

 private:
  // What follows a value: ends of what it is the last of, and what leads to the next. False at the
  // end of the document.
  bool read_ends() {
    for (;;) {
      skip_space();
      if (open_.empty()) {
        if (at_ < text_.size()) fault("more behind the value");
        return false;
      }
      ++words_[open_.back()];
      const char c = at_ < text_.size() ? text_[at_] : '\0';
      if (c == ',') {
        ++at_;
        skip_space();
        if (closing() == '}') read_key();
        return true;
      }
      if (c != closing()) fault("no ',' or end of a list or object");
      close();
    }
  }

  [[noreturn]] void fault(const char* what) const {
    throw Misfit("$", "a JSON object",
                 std::string("what is not JSON (") + what + " at byte " + std::to_string(at_) + ")");
  }

  void skip_space() {
    while (at_ < text_.size() && is_space(text_[at_])) ++at_;
  }

  char closing() const {
    const auto kind = static_cast<JsonKind>(words_[open_.back()] >> kKindShift);
    return kind == JsonKind::kObject ? '}' : ']';
  }

  void close() {
    ++at_;
    words_[open_.back() + 1] = static_cast<uint32_t>(words_.size());
    open_.pop_back();
  }

  void push(uint32_t kind, size_t payload) {
    words_.push_back(kind << kKindShift | static_cast<uint32_t>(payload));
  }

  void open(JsonKind kind) {
    if (open_.size() == JsonDocument::kMaxDepth) {
      throw Misfit("$", "a JSON object", "lists or objects nested too deeply");
    }
    open_.push_back(words_.size());
    push(static_cast<uint32_t>(kind), 0);
    words_.push_back(0);
    ++at_;
  }

  void read_key() {
    if (at_ >= text_.size() || text_[at_] != '"') fault("no key in quotes");
    read_string();
    skip_space();
    if (at_ >= text_.size() || text_[at_] != ':') fault("no ':' behind a key");
    ++at_;
    skip_space();
  }

  // Whether the value is a list or an object, of which the beginning alone is read.
  bool read_value() {
    const char c = at_ < text_.size() ? text_[at_] : '\0';
    if (c == '[') return open(JsonKind::kList), true;
    if (c == '{') return open(JsonKind::kObject), true;
    if (c == '"') return read_string(), false;
    if (c == 'n' && take("null", JsonKind::kNull)) return false;
    if (c == 't' && take("true", JsonKind::kTrue)) return false;
    if (c == 'f' && take("false", JsonKind::kFalse)) return false;
    // Python reads these; where a finite number is asked for they are refused.
    if (c == 'N' && take("NaN", JsonKind::kFloat)) return false;
    if (c == 'I' && take("Infinity", JsonKind::kFloat)) return false;
    if (c == '-' && take("-Infinity", JsonKind::kFloat)) return false;
    read_number();
    return false;
  }

  bool take(std::string_view word, JsonKind kind) {
    if (text_.substr(at_, word.size()) != word) return false;
    push(static_cast<uint32_t>(kind), at_);
    at_ += word.size();
    return true;
  }

  void skip_digits() {
    while (at_ < text_.size() && is_digit(text_[at_])) ++at_;
  }

  void read_number() {
    const size_t begin = at_;
    if (at_ < text_.size() && text_[at_] == '-') ++at_;
    const size_t digits = at_;
    if (at_ >= text_.size() || !is_digit(text_[at_])) fault("no value");
    if (text_[at_] == '0') {
      ++at_;
    } else {
      skip_digits();
    }
    const size_t count = at_ - digits;
    bool is_float = false;
    if (at_ + 1 < text_.size() && text_[at_] == '.' && is_digit(text_[at_ + 1])) {
      is_float = true;
      ++at_;
      skip_digits();
    }
    if (at_ < text_.size() && (text_[at_] == 'e' || text_[at_] == 'E')) {
      const size_t before = at_;
      ++at_;
      if (at_ < text_.size() && (text_[at_] == '+' || text_[at_] == '-')) ++at_;
      const size_t exponent = at_;
      skip_digits();
      if (at_ == exponent) {
        at_ = before;
        fault("an exponent without digits");
      }
      is_float = true;
    }
    if (!is_float && count > kMaxDigits) fault("a whole number of more than 4300 digits");
    push(static_cast<uint32_t>(is_float ? JsonKind::kFloat : JsonKind::kInteger), begin);
  }

  void read_string() {
    const size_t begin = at_++;
    bool escaped = false;
    for (;;) {
      while (at_ < text_.size() && text_[at_] != '"' && text_[at_] != '\\' &&
             static_cast<uint8_t>(text_[at_]) >= 0x20) {
        ++at_;
      }
      if (at_ >= text_.size()) fault("a string without an end");
      if (text_[at_] == '"') break;
      if (text_[at_] != '\\') fault("a control character in a string");
      escaped = true;
      ++at_;
      const char c = at_ < text_.size() ? text_[at_] : '\0';
      if (c == '\0' || std::strchr("\"\\/bfnrtu", c) == nullptr) fault("an unknown escape");
      ++at_;
      for (size_t i = 0; c == 'u' && i < 4; ++i, ++at_) {
        if (at_ >= text_.size() || hex_value(text_[at_]) < 0) fault("an escape without four digits");
      }
    }
    ++at_;
    push(escaped ? kEscaped : static_cast<uint32_t>(JsonKind::kString), begin);
  }

  std::string_view text_;
  std::vector<uint32_t>& words_;
  std::vector<size_t> open_;  // lists and objects around the place, from the outermost
  size_t at_ = 0;
};

JsonDocument::JsonDocument(Bytes data, size_t most) : text_(data.text()) {
  most = std::min(most, kMaxBytes);
  if (data.size > most) {
    throw Misfit("$", "at most " + std::to_string(most) + " bytes of JSON",
                 std::to_string(data.size) + " bytes");
  }
  const size_t length = utf8_length(text_);
  if (length < text_.size()) {
    throw Misfit("$", "a JSON object",
                 "what is not JSON (not utf-8 at byte " + std::to_string(length) + ")");
  }
  JsonParser(this).read();
}

uint32_t JsonValue::word() const { return document_->words_[at_]; }

JsonKind JsonValue::kind() const {
  const uint32_t kind = word() >> kKindShift;
  return kind == kEscaped ? JsonKind::kString : static_cast<JsonKind>(kind);
}

size_t JsonValue::size() const { return word() & kPayload; }

JsonValue JsonValue::first() const { return {document_, at_ + 2}; }

JsonValue JsonValue::next() const {
  const JsonKind kind = this->kind();
  const bool holds_others = kind == JsonKind::kList || kind == JsonKind::kObject;
  return {document_, holds_others ? document_->words_[at_ + 1] : at_ + 1};
}

std::optional<JsonValue> JsonValue::find(std::string_view key) const {
  JsonValue member = first();
  for (size_t i = size(); i > 0; --i) {
    const JsonValue value = member.next();
    if (member.equals(key)) return value;
    member = value.next();
  }
  return std::nullopt;
}

std::optional<JsonValue> JsonValue::duplicate_key() const {
  struct Key {
    std::string_view text;
    uint32_t at;
  };
  std::vector<Key> keys;
  keys.reserve(size());
  std::deque<std::string> decoded;
  JsonValue key = first();
  for (size_t i = size(); i > 0; --i) {
    std::string_view text = key.raw();
    if (key.word() >> kKindShift == kEscaped) text = decoded.emplace_back(decode_escapes(text));
    keys.push_back({text, static_cast<uint32_t>(key.at_)});
    key = key.next().next();
  }
  std::sort(keys.begin(), keys.end(), [](const Key& a, const Key& b) {
    const int order = a.text.compare(b.text);
    return order != 0 ? order < 0 : a.at < b.at;
  });
  size_t first_at = std::numeric_limits<size_t>::max();
  for (size_t i = 1; i < keys.size(); ++i) {
    if (keys[i].text == keys[i - 1].text) first_at = std::min<size_t>(first_at, keys[i].at);
  }
  if (first_at == std::numeric_limits<size_t>::max()) return std::nullopt;
  return JsonValue(document_, first_at);
}

std::string_view JsonValue::raw() const {
  const std::string_view text = document_->text_;
  const size_t begin = word() & kPayload;
  if (text[begin] != '"') return text.substr(begin, number_end(text, begin) - begin);
  size_t end = begin + 1;
  while (text[end] != '"') end += text[end] == '\\' ? 2 : 1;
  return text.substr(begin + 1, end - begin - 1);
}

std::string JsonValue::string() const {
  return word() >> kKindShift == kEscaped ? decode_escapes(raw()) : std::string(raw());
}

bool JsonValue::equals(std::string_view text) const {
  if (!is(JsonKind::kString)) return false;
  return word() >> kKindShift == kEscaped ? decode_escapes(raw()) == text : raw() == text;
}

bool JsonValue::integer(int64_t* out) const {
  if (!is(JsonKind::kInteger)) return false;
  const std::string_view text = raw();
  return std::from_chars(text.data(), text.data() + text.size(), *out).ec == std::errc();
}

double JsonValue::number() const {
  const JsonKind kind = this->kind();
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  if (kind != JsonKind::kInteger && kind != JsonKind::kFloat) return std::nan("");
  const std::string_view text = document_->text_.substr(word() & kPayload);
  if (text[0] == 'N') return std::nan("");
  if (text[0] == 'I') return kInfinity;
  if (text.substr(0, 2) == "-I") return -kInfinity;
  const std::string_view digits = raw();
  if (kind == JsonKind::kInteger && digits == "-0") return 0.0;
  double value = 0;
  const auto read = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  if (read.ec == std::errc::result_out_of_range) {
    value = is_large(digits) ? kInfinity : 0.0;
    if (digits[0] == '-') value = -value;
  }
  return value;
}

int compare_integers(JsonValue a, JsonValue b) {
  const auto split = [](JsonValue value, bool* negative) {
    std::string_view digits = value.raw();
    *negative = digits[0] == '-' && digits != "-0";
    if (digits[0] == '-') digits.remove_prefix(1);
    return digits;
  };
  bool a_negative = false, b_negative = false;
  const std::string_view x = split(a, &a_negative), y = split(b, &b_negative);
  if (a_negative != b_negative) return a_negative ? -1 : 1;
  const int order = x.size() != y.size() ? (x.size() < y.size() ? -1 : 1) : x.compare(y);
  return a_negative ? -order : order;
}

}  // namespace mmedge::runtime
