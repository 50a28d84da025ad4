// BPE: neighbors are joined by the order of the merges.
#include <algorithm>

#include "error.h"
#include "text/component_fields.h"
#include "text/model.h"
#include "text/text_buffer.h"

namespace mmedge::runtime {
namespace {

class BytePairs final : public Model {
 public:
  explicit BytePairs(const ComponentFields& fields);

  size_t reserve(size_t bytes, ModelWork* work) const override;
  TextFault encode(std::string_view word, ModelWork* work, IdBuffer* ids) const noexcept override;

 private:
  struct Pair {
    uint64_t parts;  // ids of both
    uint32_t rank, id;
  };

  void add_merge(std::string_view first, std::string_view second, uint32_t rank);
  const Pair* find(uint32_t first, uint32_t second) const noexcept;
  TextFault split(std::string_view word, ModelWork* work, size_t* count) const noexcept;
  void merge(ModelWork* work, size_t count) const noexcept;

  std::string prefix_, suffix_;
  bool has_unknown_ = false;
  int64_t unknown_ = Vocabulary::kNone;
  bool fuses_unknown_ = false, falls_back_ = false, ignores_merges_ = false;
  std::vector<Pair> pairs_;
  std::vector<uint32_t> slots_;  // pair + 1, by hash; 0: free
};

size_t slot_of(uint64_t parts, size_t slots) noexcept {
  const uint64_t mixed = parts * 0x9e3779b97f4a7c15u;
  return (mixed ^ mixed >> 32) & (slots - 1);
}

// The lowest rank comes first, then the leftmost.
bool comes_later(const ModelWork::Merge& a, const ModelWork::Merge& b) noexcept {
  return a.rank != b.rank ? a.rank > b.rank : a.place > b.place;
}

BytePairs::BytePairs(const ComponentFields& fields) {
  const auto ids = fields.find("vocab"), merges = fields.find("merges");
  if (!ids) fields.refuse("vocab", "an object");
  if (!merges || !merges->is(JsonKind::kList)) fields.refuse("merges", "a list");
  vocabulary_.read(*ids);
  vocabulary_.finish();
  if (fields.find("continuing_subword_prefix")) prefix_ = fields.text("continuing_subword_prefix");
  if (fields.find("end_of_word_suffix")) suffix_ = fields.text("end_of_word_suffix");
  has_unknown_ = fields.find("unk_token").has_value();
  if (has_unknown_) unknown_ = vocabulary_.find(fields.text("unk_token"));
  fuses_unknown_ = fields.flag("fuse_unk", false);
  falls_back_ = fields.flag("byte_fallback", false);
  ignores_merges_ = fields.flag("ignore_merges", false);

  size_t slots = 64;
  while (slots < 2 * merges->size()) slots *= 2;
  slots_.resize(slots);
  uint32_t rank = 0;
  JsonValue merge = merges->size() > 0 ? merges->first() : JsonValue();
  for (size_t i = 0; i < merges->size(); ++i) {
    if (merge.is(JsonKind::kList) && merge.size() == 2) {
      const JsonValue first = merge.first();
      add_merge(read_text(first, "$.model.merges"), read_text(first.next(), "$.model.merges"), rank++);
    } else {
      const std::string line = read_text(merge, "$.model.merges");
      const size_t space = line.find(' ');
      if (line.rfind("#version", 0) != 0) {
        if (space == std::string::npos || line.find(' ', space + 1) != std::string::npos) {
          fields.refuse("merges", "two tokens in each");
        }
        const std::string_view both = line;
        add_merge(both.substr(0, space), both.substr(space + 1), rank++);
      }
    }
    if (i + 1 < merges->size()) merge = merge.next();
  }
}

void BytePairs::add_merge(std::string_view first, std::string_view second, uint32_t rank) {
  const int64_t a = vocabulary_.find(first), b = vocabulary_.find(second);
  const int64_t id = second.size() < prefix_.size()
                         ? Vocabulary::kNone
                         : vocabulary_.find(second.substr(prefix_.size()), first);
  if (a < 0 || b < 0 || id < 0) {
    throw Error(Code::kBundle, "$.model.merges: a merge of tokens that are not in the vocabulary; "
                               "export the bundle again");
  }
  const uint64_t parts = static_cast<uint64_t>(a) << 32 | static_cast<uint64_t>(b);
  const Pair pair{parts, rank, static_cast<uint32_t>(id)};
  size_t slot = slot_of(parts, slots_.size());
  for (; slots_[slot] != 0; slot = (slot + 1) & (slots_.size() - 1)) {
    Pair& there = pairs_[slots_[slot] - 1];
    if (there.parts != parts) continue;
    there = pair;  // of a pair that is there twice, the last one counts
    return;
  }
  pairs_.push_back(pair);
  slots_[slot] = static_cast<uint32_t>(pairs_.size());
}

const BytePairs::Pair* BytePairs::find(uint32_t first, uint32_t second) const noexcept {
  const uint64_t parts = uint64_t{first} << 32 | second;
  for (size_t slot = slot_of(parts, slots_.size()); slots_[slot] != 0;
       slot = (slot + 1) & (slots_.size() - 1)) {
    const Pair& pair = pairs_[slots_[slot] - 1];
    if (pair.parts == parts) return &pair;
  }
  return nullptr;
}

size_t BytePairs::reserve(size_t bytes, ModelWork* work) const {
  // With byte_fallback, the prefix and the suffix become bytes too.
  const size_t symbols =
      falls_back_ ? bytes * (1 + prefix_.size()) + suffix_.size() + 1 : bytes + 1;
  if (work->symbols.size() < symbols) work->symbols.resize(symbols);
  if (work->merges.size() < 3 * symbols) work->merges.resize(3 * symbols);
  const size_t part = prefix_.size() + suffix_.size() + 4;
  if (work->part.size() < part) work->part.resize(part);
  return symbols;
}

TextFault BytePairs::split(std::string_view word, ModelWork* work, size_t* count) const noexcept {
  *count = 0;
  bool is_full = false;
  const auto add = [&](int64_t id) {
    if (*count == work->symbols.size()) is_full = true;
    else work->symbols[(*count)++] = {static_cast<uint32_t>(id), 0, 0, false};
  };
  // An unknown one is kept back: more may follow it. Bytes do not end it, as in the library.
  bool is_pending = false;
  for (size_t at = 0; at < word.size();) {
    const size_t begin = at;
    read_character(word, &at);
    std::string_view part = word.substr(begin, at - begin);
    const std::string_view prefix = begin > 0 ? prefix_ : std::string_view();
    if (at == word.size() && !suffix_.empty()) {
      if (work->part.size() < part.size() + suffix_.size()) return TextFault::kFull;
      char* memory = work->part.data();
      std::copy(part.begin(), part.end(), memory);
      std::copy(suffix_.begin(), suffix_.end(), memory + part.size());
      part = {memory, part.size() + suffix_.size()};
    }
    const int64_t id = vocabulary_.find(part, prefix);
    if (id >= 0) {
      if (is_pending) add(unknown_);
      is_pending = false;
      add(id);
      continue;
    }
    if (falls_back_) {
      bool has_all = true;
      for (const std::string_view text : {prefix, part}) {
        for (const char c : text) has_all = has_all && vocabulary_.find_byte(static_cast<uint8_t>(c)) >= 0;
      }
      if (has_all) {
        for (const std::string_view text : {prefix, part}) {
          for (const char c : text) add(vocabulary_.find_byte(static_cast<uint8_t>(c)));
        }
        continue;
      }
    }
    if (!has_unknown_) continue;
    if (unknown_ < 0) return TextFault::kUnknown;
    if (is_pending && !fuses_unknown_) add(unknown_);
    is_pending = true;
  }
  if (is_pending) add(unknown_);
  return is_full ? TextFault::kFull : TextFault::kNone;
}

void BytePairs::merge(ModelWork* work, size_t count) const noexcept {
  ModelWork::Symbol* symbols = work->symbols.data();
  ModelWork::Merge* heap = work->merges.data();
  size_t size = 0;
  const auto push = [&](int32_t first, int32_t second) {
    const Pair* pair = find(symbols[first].id, symbols[second].id);
    if (pair == nullptr) return;
    heap[size++] = {pair->rank, static_cast<uint32_t>(first), pair->id};
    std::push_heap(heap, heap + size, comes_later);
  };
  for (size_t i = 0; i < count; ++i) {
    symbols[i].before = static_cast<int32_t>(i) - 1;
    symbols[i].after = i + 1 < count ? static_cast<int32_t>(i + 1) : -1;
  }
  for (size_t i = 0; i + 1 < count; ++i) push(static_cast<int32_t>(i), static_cast<int32_t>(i + 1));
  while (size > 0) {
    std::pop_heap(heap, heap + size, comes_later);
    const ModelWork::Merge top = heap[--size];
    const auto place = static_cast<int32_t>(top.place);
    ModelWork::Symbol& first = symbols[place];
    if (first.is_gone || first.after < 0) continue;
    ModelWork::Symbol& second = symbols[first.after];
    const Pair* pair = find(first.id, second.id);
    // The neighbor has changed since.
    if (pair == nullptr || pair->id != top.id) continue;
    first.id = top.id;
    second.is_gone = true;
    first.after = second.after;
    if (first.after >= 0) symbols[first.after].before = place;
    if (first.before >= 0) push(first.before, place);
    if (first.after >= 0) push(place, first.after);
  }
}

TextFault BytePairs::encode(std::string_view word, ModelWork* work,
                            IdBuffer* ids) const noexcept {
  if (ignores_merges_) {
    if (const int64_t id = vocabulary_.find(word); id >= 0) {
      ids->put(static_cast<uint32_t>(id));
      return TextFault::kNone;
    }
  }
  size_t count = 0;
  const TextFault fault = split(word, work, &count);
  if (fault != TextFault::kNone) return fault;
  merge(work, count);
  for (size_t i = 0; i < count; ++i) {
    if (!work->symbols[i].is_gone) ids->put(work->symbols[i].id);
  }
  return TextFault::kNone;
}

}  // namespace

std::unique_ptr<Model> make_byte_pairs(const ComponentFields& fields) {
  return std::make_unique<BytePairs>(fields);
}

}  // namespace mmedge::runtime
