// WordLevel and WordPiece, and which model a file has.
#include "text/model.h"

#include <algorithm>

#include "error.h"
#include "schema/utf8.h"
#include "text/component_fields.h"
#include "text/text_buffer.h"

namespace mmedge::runtime {
namespace {

class WordLevel final : public Model {
 public:
  explicit WordLevel(const ComponentFields& fields) {
    const auto ids = fields.find("vocab");
    if (!ids) fields.refuse("vocab", "an object");
    vocabulary_.read(*ids);
    vocabulary_.finish();
    unknown_ = vocabulary_.find(fields.text("unk_token"));
  }

  size_t reserve(size_t, ModelWork*) const override { return 1; }

  TextFault encode(std::string_view word, ModelWork*, IdBuffer* ids) const noexcept override {
    int64_t id = vocabulary_.find(word);
    if (id < 0) id = unknown_;
    if (id < 0) return TextFault::kUnknown;
    ids->put(static_cast<uint32_t>(id));
    return TextFault::kNone;
  }

 private:
  int64_t unknown_ = Vocabulary::kNone;
};

class WordPiece final : public Model {
 public:
  explicit WordPiece(const ComponentFields& fields) {
    const auto ids = fields.find("vocab");
    if (!ids) fields.refuse("vocab", "an object");
    vocabulary_.read(*ids);
    vocabulary_.finish();
    unknown_ = vocabulary_.find(fields.text("unk_token"));
    prefix_ = fields.text("continuing_subword_prefix");
    most_ = static_cast<size_t>(fields.count("max_input_chars_per_word"));
  }

  size_t reserve(size_t bytes, ModelWork*) const override { return bytes; }

  TextFault encode(std::string_view word, ModelWork*, IdBuffer* ids) const noexcept override {
    const size_t before = ids->size();
    size_t begin = 0;
    bool is_known = count_characters(word) <= most_;
    while (is_known && begin < word.size()) {
      size_t end = word.size();
      int64_t id = Vocabulary::kNone;
      for (; end > begin; end = character_before(word, end)) {
        id = vocabulary_.find(word.substr(begin, end - begin),
                              begin > 0 ? std::string_view(prefix_) : std::string_view());
        if (id >= 0) break;
      }
      is_known = id >= 0;
      if (is_known) ids->put(static_cast<uint32_t>(id));
      begin = end;
    }
    if (is_known) return TextFault::kNone;
    if (unknown_ < 0) return TextFault::kUnknown;
    if (!ids->is_full()) ids->cut(before);
    ids->put(static_cast<uint32_t>(unknown_));
    return TextFault::kNone;
  }

 private:
  int64_t unknown_ = Vocabulary::kNone;
  std::string prefix_;
  size_t most_ = 0;
};

}  // namespace

std::unique_ptr<Model> make_model(const std::optional<JsonValue>& value) {
  if (!value || !value->is(JsonKind::kObject)) {
    throw Error(Code::kBundle, "$.model: expected an object; export the bundle again");
  }
  const ComponentFields fields{*value, "$.model"};
  std::string type = fields.find("type") ? fields.text("type") : "";
  if (type.empty()) {
    // Files of old versions of the library say it by their fields.
    const auto vocabulary = fields.find("vocab");
    if (fields.find("merges")) type = "BPE";
    else if (fields.find("continuing_subword_prefix")) type = "WordPiece";
    else type = vocabulary && vocabulary->is(JsonKind::kList) ? "Unigram" : "WordLevel";
  }
  if (type == "WordLevel") return std::make_unique<WordLevel>(fields);
  if (type == "WordPiece") return std::make_unique<WordPiece>(fields);
  if (type == "BPE") return make_byte_pairs(fields);
  if (type == "Unigram") return make_unigram(fields);
  fields.refuse("type", "BPE, Unigram, WordLevel or WordPiece");
}

}  // namespace mmedge::runtime
