// The rules of a tokenizer file: components by name, patterns by form, limits.
#include "schema/tokenizer_rules.h"

#include <algorithm>
#include <iterator>
#include <vector>

#include "error.h"
#include "schema/charsmap.h"
#include "schema/names.h"
#include "schema/patterns.h"
#include "schema/read.h"
#include "schema/utf8.h"

namespace mmedge::runtime {
namespace {

// Most tokens that a tokenizer may pad a text to.
constexpr int64_t kMaxPaddedTokens = int64_t{1} << 16;
// Components of one kind, with those inside sequences.
constexpr size_t kMaxComponents = 32;
// How much longer all normalizers together may make a text. A product is counted up to kEnough.
constexpr int64_t kMaxGrowth = 1024, kEnough = int64_t{1} << 20;
// Alternatives, over all patterns of a file, that may have to try again from many places.
constexpr int64_t kMaxRetrying = 4;
// Characters of a word that WordPiece looks up piece by piece.
constexpr int64_t kMaxWordCharacters = 512;
// Parts of a template around the text, and special tokens in it.
constexpr size_t kMaxTemplate = 64;

// How much longer a normalizer makes a text: one character becomes at most 18 by NFKC and NFKD
// (U+FDFA), 4 by NFC and NFD.
struct Normalizer {
  const char* name;
  int growth;
};
constexpr Normalizer kNormalizers[] = {
    {"BertNormalizer", 4}, {"ByteLevel", 4}, {"Lowercase", 3}, {"NFC", 3},
    {"NFD", 4},            {"NFKC", 18},     {"NFKD", 18},     {"Nmt", 1},
    {"Precompiled", 0},    {"Prepend", 1},   {"Replace", 0},   {"Sequence", 1},
    {"Strip", 1},          {"StripAccents", 1},
};

// A kind of component: its field, its types as a list in words, and the field of its sequences.
struct Kind {
  const char* field;
  const char* types;
  const char* parts;
};
constexpr Kind kKinds[] = {
    {"normalizer",
     "BertNormalizer, ByteLevel, Lowercase, NFC, NFD, NFKC, NFKD, Nmt, Precompiled, Prepend, "
     "Replace, Sequence, Strip, StripAccents",
     "normalizers"},
    {"pre_tokenizer",
     "BertPreTokenizer, ByteLevel, CharDelimiterSplit, Digits, FixedLength, Metaspace, "
     "Punctuation, Sequence, Split, UnicodeScripts, Whitespace, WhitespaceSplit",
     "pretokenizers"},
    {"post_processor",
     "BertProcessing, ByteLevel, RobertaProcessing, Sequence, TemplateProcessing", "processors"},
    {"decoder",
     "BPEDecoder, ByteFallback, ByteLevel, CTC, Fuse, Metaspace, Replace, Sequence, Strip, "
     "WordPiece",
     "decoders"},
};
constexpr char kModels[] = "BPE, Unigram, WordLevel, WordPiece";
constexpr char kFields[] =
    "added_tokens, decoder, model, normalizer, padding, post_processor, pre_tokenizer, "
    "truncation, version";

// Whether a value is one of the names of a list in words.
bool is_in(JsonValue value, std::string_view names) {
  while (true) {
    const size_t end = std::min(names.find(", "), names.size());
    if (value.equals(names.substr(0, end))) return true;
    if (end == names.size()) return false;
    names.remove_prefix(end + 2);
  }
}

std::string show(const std::optional<JsonValue>& value) {
  return value ? runtime::show(*value) : "null";
}

// A member of an object; the value null where there is none, as Python's dict.get() has it.
bool is_null(const std::optional<JsonValue>& value) { return !value || value->is_null(); }

// What `if value:` of Python says.
bool is_true(const std::optional<JsonValue>& value) {
  if (!value) return false;
  switch (value->kind()) {
    case JsonKind::kNull:
    case JsonKind::kFalse:
      return false;
    case JsonKind::kTrue:
      return true;
    case JsonKind::kInteger:
    case JsonKind::kFloat:
      return value->number() != 0;  // not a number is true
    case JsonKind::kString:
      return !value->equals("");
    case JsonKind::kList:
    case JsonKind::kObject:
      break;
  }
  return value->size() > 0;
}

JsonValue read_members(const std::optional<JsonValue>& value, const std::string& where) {
  if (!value || !value->is(JsonKind::kObject)) throw Misfit(where, "an object", show(value));
  if (const auto key = value->duplicate_key()) {
    throw Misfit(where, "each key once", "duplicate key " + show(key));
  }
  return *value;
}

size_t read_short_list(const std::optional<JsonValue>& value, const std::string& where, size_t most,
                       const char* of) {
  if (!value || !value->is(JsonKind::kList) || value->size() > most) {
    throw Misfit(where, "a list of up to " + std::to_string(most) + of, show(value));
  }
  return value->size();
}

struct Component {
  std::string where;
  JsonValue value;
  std::string type;
};

// Appends the component, and those inside where it is a sequence.
void add_components(const std::optional<JsonValue>& value, const Kind& kind,
                    const std::string& where, size_t depth, std::vector<Component>* components) {
  if (is_null(value)) return;
  const JsonValue component = read_members(value, where);
  const auto type = component.find("type");
  if (!type || !is_in(*type, kind.types)) {
    throw Misfit(where + ".type", std::string("one of ") + kind.types, show(type));
  }
  components->push_back({where, component, type->string()});
  if (components->back().type != "Sequence") return;
  const std::string place = where + "." + kind.parts;
  const auto sequence = component.find(kind.parts);
  const size_t count = read_short_list(sequence, place, kMaxComponents, "");
  if (depth > 2) throw Misfit(where, "sequences at most 3 deep", "a deeper one");
  if (count == 0) return;
  JsonValue part = sequence->first();
  for (size_t i = 0; i < count; ++i, part = part.next()) {
    add_components(part, kind, place + "[" + std::to_string(i) + "]", depth + 1, components);
  }
}

// The text of a pattern, and whether it is a regular expression.
struct Pattern {
  std::string text;
  bool is_regex;
};

Pattern read_pattern(const std::optional<JsonValue>& pattern, const std::string& where) {
  if (pattern && pattern->is(JsonKind::kString)) return {pattern->string(), false};
  const JsonValue members = read_members(pattern, where);
  if (members.size() == 1) {
    const JsonValue kind = members.first(), text = kind.next();
    const bool is_regex = kind.equals("Regex");
    if ((is_regex || kind.equals("String")) && text.is(JsonKind::kString)) {
      return {text.string(), is_regex};
    }
  }
  throw Misfit(where, "a String or a Regex", show(pattern));
}

// Checks the component's pattern; how many of its alternatives may retry.
int count_retrying(const Component& component) {
  const auto value = component.value.find("pattern");
  if (!value) return 0;
  const std::string where = component.where + ".pattern";
  const Pattern pattern = read_pattern(value, where);
  if (pattern.text.empty()) throw Misfit(where, "a pattern that is not empty", "an empty one");
  return pattern.is_regex ? check_pattern(pattern.text, where) : 0;
}

int64_t growth_of_replace(const Component& component) {
  const auto content = component.value.find("content");
  if (!content || !content->is(JsonKind::kString)) {
    throw Misfit(component.where + ".content", "a string", show(content));
  }
  const Pattern pattern =
      read_pattern(component.value.find("pattern"), component.where + ".pattern");
  const auto length = static_cast<int64_t>(count_characters(content->string()));
  // A regular expression may match a single character, or stand between any two.
  const auto least =
      pattern.is_regex ? int64_t{1} : static_cast<int64_t>(count_characters(pattern.text));
  return std::max<int64_t>(1, (length + least - 1) / least + (pattern.is_regex && length > 1));
}

// How many times as long a component may make a text.
int64_t growth_of(const Component& component) {
  if (component.type == "Precompiled") {
    return longest_replacement(component.value.find("precompiled_charsmap"),
                               component.where + ".precompiled_charsmap");
  }
  if (component.type == "Prepend") {
    const auto text = component.value.find("prepend");
    if (!text || !text->is(JsonKind::kString) ||
        count_characters(text->string()) > kMaxTemplate) {
      throw Misfit(component.where + ".prepend",
                   "at most " + std::to_string(kMaxTemplate) + " characters", show(text));
    }
    return 1;
  }
  if (component.type == "Replace") return growth_of_replace(component);
  const auto* normalizer =
      std::find_if(std::begin(kNormalizers), std::end(kNormalizers),
                   [&](const Normalizer& each) { return component.type == each.name; });
  return normalizer == std::end(kNormalizers) ? 1 : std::max(1, normalizer->growth);
}

void check_template(const Component& component) {
  const std::string at = component.where + ".single", tokens_at = component.where + ".special_tokens";
  const auto single = component.value.find("single");
  const size_t count = read_short_list(single, at, kMaxTemplate, " parts");
  size_t texts = 0;
  bool is_a = true;
  JsonValue piece = single->first();
  for (size_t i = 0; i < count; ++i, piece = piece.next()) {
    if (!piece.is_mapping()) continue;
    const auto sequence = piece.find("Sequence");
    if (!sequence) continue;
    const auto id = read_members(sequence, at).find("id");
    is_a = is_a && id && id->equals("A");
    ++texts;
  }
  if (texts != 1 || !is_a) {
    throw Misfit(at, "the text 'A' once", std::to_string(texts) + " texts, or another one");
  }
  const auto special = component.value.find("special_tokens");
  if (is_null(special)) return;
  const JsonValue tokens = read_members(special, tokens_at);
  JsonValue name = tokens.first();
  for (size_t i = 0; i < tokens.size(); ++i, name = name.next().next()) {
    const auto ids = read_members(name.next(), tokens_at).find("ids");
    if (ids && ids->is(JsonKind::kList) && ids->size() <= kMaxTemplate) continue;
    throw Misfit(tokens_at + "[" + runtime::show(name) + "].ids",
                 "a list of up to " + std::to_string(kMaxTemplate), show(ids));
  }
}

void check_components(JsonValue tree) {
  int64_t growth = 1, retrying = 0;
  for (const Kind& kind : kKinds) {
    const std::string where = std::string("$.") + kind.field;
    std::vector<Component> components;
    add_components(tree.find(kind.field), kind, where, 0, &components);
    if (components.size() > kMaxComponents) {
      throw Misfit(where, "at most " + std::to_string(kMaxComponents) + " components",
                   std::to_string(components.size()));
    }
    const bool changes_text = &kind < &kKinds[2];  // a normalizer or a pre-tokenizer
    int64_t longer = 1;  // than the text, whose length counts anew once it is normalized
    for (const Component& component : components) {
      // Time goes with the square of the length.
      retrying += count_retrying(component) * longer * longer;
      if (changes_text) longer = std::min(longer * growth_of(component), kEnough);
      if (component.type == "TemplateProcessing") check_template(component);
    }
    growth = std::max(growth, longer);
  }
  if (growth > kMaxGrowth) {
    throw Misfit("$", "a text at most " + std::to_string(kMaxGrowth) + " times as long",
                 (growth == kEnough ? "at least " : "") + std::to_string(growth) + " times");
  }
  if (retrying > kMaxRetrying) {
    throw Misfit("$",
                 "at most " + std::to_string(kMaxRetrying) +
                     " alternatives of patterns that can fail after a repetition",
                 std::to_string(retrying));
  }
}

void check_model(JsonValue model) {
  const auto type = model.find("type");
  // Files of old versions of the library do not name the type; the limits below hold for each.
  if (!is_null(type) && !is_in(*type, kModels)) {
    throw Misfit("$.model.type", std::string("one of ") + kModels, show(type));
  }
  const auto dropout = model.find("dropout");
  if (is_true(dropout)) {
    throw Misfit("$.model.dropout", "null, since a text must give the same tokens each time",
                 show(dropout));
  }
  const auto most = model.find("max_input_chars_per_word");
  int64_t characters = 0;
  if (most && (!most->integer(&characters) || characters < 1 || characters > kMaxWordCharacters)) {
    throw Misfit("$.model.max_input_chars_per_word", "1 to " + std::to_string(kMaxWordCharacters),
                 show(most));
  }
}

void check_length(const std::optional<JsonValue>& value, const char* field, int64_t limit) {
  int64_t size = 0;
  if (value && value->integer(&size) && size >= 0 && size <= limit) return;
  throw Misfit(std::string("$.padding.") + field, "0 to " + std::to_string(limit), show(value));
}

void check_padding(JsonValue padding) {
  const auto strategy = padding.find("strategy");
  if (strategy && strategy->is_mapping()) {
    check_length(strategy->find("Fixed"), "strategy", kMaxPaddedTokens);
  }
  const auto multiple = padding.find("pad_to_multiple_of");
  if (is_true(multiple)) check_length(multiple, "pad_to_multiple_of", kMaxPaddedTokens);
  const auto pad_id = padding.find("pad_id");
  if (pad_id) check_length(pad_id, "pad_id", INT32_MAX);
}

void check_truncation(JsonValue truncation) {
  const auto most = truncation.find("max_length"), stride = truncation.find("stride");
  const auto is_integer = [](const std::optional<JsonValue>& value) {
    return value && value->is(JsonKind::kInteger);
  };
  const auto is_negative = [](JsonValue value) { return value.number() < 0; };
  // Without a stride it is 0. Both may be past 64 bits.
  const bool fits =
      is_integer(most) && (!stride || is_integer(stride)) &&
      (stride ? !is_negative(*stride) && compare_integers(*stride, *most) < 0 : most->number() > 0);
  if (!fits) {
    throw Misfit("$.truncation", "a max_length of at least 1 and a stride below it",
                 show(most) + " and " + (stride ? show(stride) : "0"));
  }
  const auto strategy = truncation.find("strategy");
  if (strategy && strategy->equals("OnlySecond")) {
    throw Misfit("$.truncation.strategy", "LongestFirst or OnlyFirst", "OnlySecond");
  }
}

}  // namespace

void check_tokenizer(Bytes data, const std::string& source) {
  try {
    const JsonDocument document(data, kMaxTokenizerBytes);
    const JsonValue tree = read_members(document.root(), "$");
    JsonValue field = tree.first();
    for (size_t i = 0; i < tree.size(); ++i, field = field.next().next()) {
      if (!is_in(field, kFields)) {
        throw Misfit("$", std::string("the fields ") + kFields, runtime::show(field));
      }
    }
    check_components(tree);
    check_model(read_members(tree.find("model"), "$.model"));
    const auto padding = tree.find("padding"), truncation = tree.find("truncation");
    if (!is_null(padding)) check_padding(read_members(padding, "$.padding"));
    if (!is_null(truncation)) check_truncation(read_members(truncation, "$.truncation"));
  } catch (const Misfit& fault) {
    throw Error(Code::kBundle,
                source + ": this tokenizer is not allowed in a bundle: " + fault.text +
                    ". docs/reference/bundle.md lists what is; tokenize in your own code and pass "
                    "token ids, or save another tokenizer");
  }
}

}  // namespace mmedge::runtime
