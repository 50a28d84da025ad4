// Unigram: the split with the largest sum of scores.
#include <algorithm>
#include <cmath>
#include <limits>

#include "error.h"
#include "text/component_fields.h"
#include "text/model.h"
#include "text/text_buffer.h"

namespace mmedge::runtime {
namespace {

// An unknown character counts this much less than the worst piece.
constexpr double kUnknownPenalty = 10.0;

class Unigram final : public Model {
 public:
  explicit Unigram(const ComponentFields& fields);

  size_t reserve(size_t bytes, ModelWork* work) const override {
    if (work->nodes.size() < bytes + 1) work->nodes.resize(bytes + 1);
    if (work->ends.size() < bytes) work->ends.resize(bytes);
    return bytes;
  }
  TextFault encode(std::string_view word, ModelWork* work, IdBuffer* ids) const noexcept override;
  size_t size() const override { return scores_.size(); }
  bool token(uint32_t id, std::string_view* text) const noexcept override {
    if (id >= scores_.size()) return false;
    *text = std::string_view(pieces_).substr(begins_[id], begins_[id + 1] - begins_[id]);
    return true;
  }

 private:
  TextFault find_best(std::string_view word, ModelWork* work) const noexcept;
  TextFault put(std::string_view piece, IdBuffer* ids) const noexcept;

  // Of all pieces, of which some may have the same text.
  std::string pieces_;
  std::vector<size_t> begins_;
  std::vector<double> scores_;
  std::unique_ptr<PrefixTable> prefixes_;
  int64_t unknown_ = Vocabulary::kNone;
  bool falls_back_ = false;
  double unknown_score_ = 0;
};

Unigram::Unigram(const ComponentFields& fields) {
  const auto list = fields.find("vocab");
  if (!list || !list->is(JsonKind::kList)) fields.refuse("vocab", "a list");
  double least = std::numeric_limits<double>::infinity();
  JsonValue piece = list->size() > 0 ? list->first() : JsonValue();
  for (size_t i = 0; i < list->size(); ++i) {
    if (!piece.is(JsonKind::kList) || piece.size() != 2) {
      fields.refuse("vocab", "a piece and its score in each");
    }
    const JsonValue text = piece.first(), score = text.next();
    if (!score.is(JsonKind::kInteger) && !score.is(JsonKind::kFloat)) {
      fields.refuse("vocab", "a piece and its score in each");
    }
    begins_.push_back(pieces_.size());
    const std::string characters = read_text(text, "$.model.vocab");
    pieces_ += characters;
    scores_.push_back(score.number());
    if (scores_.back() < least) least = scores_.back();
    vocabulary_.add(characters, static_cast<uint32_t>(i));
    if (i + 1 < list->size()) piece = piece.next();
  }
  begins_.push_back(pieces_.size());
  vocabulary_.finish();
  prefixes_ = std::make_unique<PrefixTable>(vocabulary_);
  if (fields.find("unk_id")) {
    unknown_ = fields.count("unk_id");
    if (static_cast<size_t>(unknown_) >= scores_.size()) {
      fields.refuse("unk_id", "the number of a piece");
    }
  }
  falls_back_ = fields.flag("byte_fallback", false);
  unknown_score_ = least - kUnknownPenalty;
}

TextFault Unigram::find_best(std::string_view word, ModelWork* work) const noexcept {
  ModelWork::Node* nodes = work->nodes.data();
  for (size_t at = 0; at <= word.size(); ++at) nodes[at] = {0, -1, 0};
  for (size_t begin = 0; begin < word.size();) {
    size_t next = begin;
    read_character(word, &next);
    const double total = nodes[begin].score;
    bool has_single = false;
    const auto offer = [&](size_t end, double score, uint32_t id) {
      ModelWork::Node& node = nodes[end];
      if (node.begin >= 0 && !(score > node.score)) return;
      node = {score, static_cast<int32_t>(begin), id};
    };
    prefixes_->find(word.substr(begin), [&](size_t bytes, uint32_t id) {
      offer(begin + bytes, scores_[id] + total, id);
      has_single = has_single || begin + bytes == next;
    });
    if (!has_single) {
      const double score = unknown_score_ + total;
      const ModelWork::Node& node = nodes[next];
      if (node.begin < 0 || score > node.score) {
        if (unknown_ < 0) return TextFault::kUnknown;
        offer(next, score, static_cast<uint32_t>(unknown_));
      }
    }
    begin = next;
  }
  return TextFault::kNone;
}

TextFault Unigram::put(std::string_view piece, IdBuffer* ids) const noexcept {
  const int64_t id = vocabulary_.find(piece);
  if (id >= 0) {
    ids->put(static_cast<uint32_t>(id));
    return TextFault::kNone;
  }
  bool has_bytes = falls_back_;
  for (const char c : piece) {
    has_bytes = has_bytes && vocabulary_.find_byte(static_cast<uint8_t>(c)) >= 0;
  }
  if (has_bytes) {
    for (const char c : piece) {
      ids->put(static_cast<uint32_t>(vocabulary_.find_byte(static_cast<uint8_t>(c))));
    }
    return TextFault::kNone;
  }
  if (unknown_ < 0) return TextFault::kUnknown;
  ids->put(static_cast<uint32_t>(unknown_));
  return TextFault::kNone;
}

TextFault Unigram::encode(std::string_view word, ModelWork* work,
                          IdBuffer* ids) const noexcept {
  if (work->nodes.size() < word.size() + 1 || work->ends.size() < word.size()) {
    return TextFault::kFull;
  }
  TextFault fault = find_best(word, work);
  if (fault != TextFault::kNone) return fault;
  // Ends of pieces from the last one on; neighbors that are unknown are one.
  size_t count = 0;
  bool was_unknown = false;
  for (size_t end = word.size(); end > 0;) {
    const ModelWork::Node& node = work->nodes[end];
    const bool is_unknown = unknown_ >= 0 && node.id == unknown_;
    if (!is_unknown || !was_unknown) work->ends[count++] = static_cast<uint32_t>(end);
    was_unknown = is_unknown;
    end = static_cast<size_t>(node.begin);
  }
  size_t begin = 0;
  while (count > 0 && fault == TextFault::kNone) {
    const size_t end = work->ends[--count];
    fault = put(word.substr(begin, end - begin), ids);
    begin = end;
  }
  return fault;
}

}  // namespace

std::unique_ptr<Model> make_unigram(const ComponentFields& fields) {
  return std::make_unique<Unigram>(fields);
}

}  // namespace mmedge::runtime
