// The parts of a tokenizer file, one after another.
#include "text/text_tokenizer.h"

#include <algorithm>
#include <cstring>

#include "error.h"
#include "schema/names.h"
#include "schema/read.h"
#include "schema/tokenizer_rules.h"
#include "schema/utf8.h"
#include "text/component_fields.h"

namespace mmedge::runtime {
namespace {

// Characters that normalizers put before a text at most.
constexpr size_t kRoomBefore = 64 * 32;

// Gives words to a model.
class ModelSink final : public WordSink {
 public:
  ModelSink(const Model& model, TextTokenizer::Work* work) : model_(model), work_(work) {}
  TextFault take(std::string_view word) noexcept override {
    return model_.encode(word, &work_->model, &work_->ids);
  }

 private:
  const Model& model_;
  TextTokenizer::Work* work_;
};

bool is_direction_left(const ComponentFields& fields) {
  if (!fields.find("direction")) return false;
  const std::string direction = fields.text("direction");
  if (direction != "Left" && direction != "Right") fields.refuse("direction", "Left or Right");
  return direction == "Left";
}

TextPadding read_padding(JsonValue value) {
  TextPadding padding;
  if (value.is_null()) return padding;
  const ComponentFields fields{value, "$.padding"};
  if (fields.find("pad_id")) padding.id = fields.count("pad_id");
  padding.is_left = is_direction_left(fields);
  if (fields.find("pad_to_multiple_of")) {
    padding.multiple = std::max<int64_t>(1, fields.count("pad_to_multiple_of"));
  }
  const auto strategy = fields.find("strategy");
  if (strategy && strategy->is(JsonKind::kObject)) {
    padding.least = ComponentFields{*strategy, "$.padding.strategy"}.count("Fixed");
  }
  return padding;
}

std::optional<TextCut> read_cut(JsonValue value) {
  if (value.is_null()) return std::nullopt;
  const ComponentFields fields{value, "$.truncation"};
  TextCut cut;
  cut.length = static_cast<size_t>(fields.count("max_length"));
  if (fields.find("stride")) cut.stride = static_cast<size_t>(fields.count("stride"));
  cut.is_left = is_direction_left(fields);
  return cut;
}

}  // namespace

TextTokenizer::TextTokenizer(Bytes data, const std::string& source) {
  try {
    const JsonDocument document(data, kMaxTokenizerBytes);
    const JsonValue tree = document.root();
    normalizer_ = std::make_unique<Normalizer>(tree.find("normalizer"));
    pre_tokenizer_ = std::make_unique<PreTokenizer>(tree.find("pre_tokenizer"));
    model_ = make_model(tree.find("model"));
    added_ = std::make_unique<AddedTokens>(tree.find("added_tokens"), *model_, *normalizer_);
    around_ = std::make_unique<PostProcessor>(tree.find("post_processor"));
    decoder_ = std::make_unique<Decoder>(tree.find("decoder"));
    if (const auto padding = tree.find("padding")) padding_ = read_padding(*padding);
    if (const auto truncation = tree.find("truncation")) cut_ = read_cut(*truncation);
  } catch (const Misfit& fault) {
    throw Error(Code::kBundle, source + ": " + fault.text);
  } catch (const Error& error) {
    throw Error(error.code(), source + ": " + error.what());
  }
}

void TextTokenizer::reserve_text(size_t characters, Work* work) const {
  characters = std::min(std::max(characters, work->characters), kMaxTextCharacters);
  if (work->characters == characters && characters > 0) return;
  normalizer_->reserve(characters, &work->normalizer);
  size_t bytes = 4 * characters;
  if (!normalizer_->empty()) {
    bytes = 4 * (std::min(characters * normalizer_->growth(), kMaxTextCharacters) + kRoomBefore);
  }
  bytes = pre_tokenizer_->reserve(bytes, &work->pre_tokenizer);
  // Each word of a byte or more may become one id more than it has bytes.
  work->ids.reserve(2 * model_->reserve(bytes, &work->model) + bytes + special_count());
  work->characters = characters;
}

void TextTokenizer::reserve_tokens(size_t tokens, Work* work) const {
  tokens = std::max(tokens, work->tokens);
  if (work->tokens == tokens) return;
  // Long tokens are rare, and one of a text is hardly followed by another.
  const size_t longest = model_->longest();
  decoder_->reserve(tokens, tokens * std::min<size_t>(longest, 64) + 16 * longest, &work->decoder);
  work->tokens = tokens;
}

TextFault TextTokenizer::normalized_size(std::string_view text, Work* work,
                                         size_t* characters) const noexcept {
  TextView out;
  const TextFault fault = normalizer_->apply({text, 0}, &work->normalizer, &out);
  if (fault == TextFault::kNone) *characters = count_characters(out.text);
  return fault;
}

TextFault TextTokenizer::encode(std::string_view text, Work* work, bool* is_cut) const noexcept {
  *is_cut = false;
  work->ids.clear();
  for (const uint32_t id : around_->before) work->ids.put(id);
  const TextFault fault = added_->split(
      text, false,
      [&](size_t begin, size_t end) {
        return encode_piece(text.substr(begin, end - begin), begin == 0, work);
      },
      [&](uint32_t id) {
        work->ids.put(id);
        return TextFault::kNone;
      });
  if (fault != TextFault::kNone) return fault;
  return work->ids.is_full() ? TextFault::kFull : end(work, is_cut);
}

TextFault TextTokenizer::encode_piece(std::string_view piece, bool is_first,
                                      Work* work) const noexcept {
  size_t first = 0;
  if (is_first) read_character(piece, &first);
  TextView plain;
  const TextFault fault = normalizer_->apply({piece, first}, &work->normalizer, &plain);
  if (fault != TextFault::kNone) return fault;
  ModelSink sink(*model_, work);
  return added_->split(
      plain.text, true,
      [&](size_t begin, size_t end) {
        const size_t firsts = std::clamp(plain.first, begin, end) - begin;
        return pre_tokenizer_->apply({plain.text.substr(begin, end - begin), firsts},
                                     &work->pre_tokenizer, &sink);
      },
      [&](uint32_t id) {
        work->ids.put(id);
        return TextFault::kNone;
      });
}

// Cuts the ids, and puts special ones behind them; those before them are there.
TextFault TextTokenizer::end(Work* work, bool* is_cut) const noexcept {
  IdBuffer& ids = work->ids;
  const size_t before = around_->before.size(), count = ids.size() - before;
  if (cut_) {
    const size_t special = special_count();
    const size_t room = cut_->length > special ? cut_->length - special : 0;
    if (count > room) {
      if (cut_->stride >= room) return TextFault::kStride;
      if (cut_->is_left) {
        uint32_t* data = ids.data() + before;
        std::memmove(data, data + (count - room), room * sizeof(uint32_t));
      }
      ids.cut(before + room);
      *is_cut = true;
    }
  }
  for (const uint32_t id : around_->after) ids.put(id);
  return ids.is_full() ? TextFault::kFull : TextFault::kNone;
}

TextFault TextTokenizer::decode(const int64_t* ids, size_t count, Work* work,
                                std::string_view* text) const noexcept {
  TokenTexts& tokens = work->decoder.lists[0];
  tokens.clear();
  for (size_t i = 0; i < count; ++i) {
    std::string_view token;
    if (ids[i] < 0 || ids[i] > UINT32_MAX) continue;
    const auto id = static_cast<uint32_t>(ids[i]);
    if (!added_->token(id, &token) && !model_->token(id, &token)) continue;
    if (added_->is_special(token)) continue;
    tokens.texts.put(token);
    tokens.end_token();
  }
  if (tokens.texts.is_full()) return TextFault::kFull;
  return decoder_->apply(&work->decoder, text);
}

}  // namespace mmedge::runtime
