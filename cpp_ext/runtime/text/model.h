// Models of a tokenizer file: from a word to ids.
#ifndef MMEDGE_RUNTIME_TEXT_MODEL_H_
#define MMEDGE_RUNTIME_TEXT_MODEL_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "schema/json.h"
#include "text/normalizer.h"
#include "text/vocabulary.h"

namespace mmedge::runtime {

// Ids with room for so many; what does not fit is left out, and is_full() says so.
class IdBuffer {
 public:
  void reserve(size_t ids) {
    if (memory_.size() < ids) memory_.resize(ids);
  }
  void clear() noexcept {
    size_ = 0;
    is_full_ = false;
  }
  void put(uint32_t id) noexcept {
    if (size_ == memory_.size()) is_full_ = true;
    else memory_[size_++] = id;
  }
  bool is_full() const noexcept { return is_full_; }
  size_t room() const noexcept { return memory_.size(); }
  size_t size() const noexcept { return size_; }
  const uint32_t* data() const noexcept { return memory_.data(); }
  uint32_t* data() noexcept { return memory_.data(); }
  void cut(size_t size) noexcept { size_ = size; }

 private:
  std::vector<uint32_t> memory_;
  size_t size_ = 0;
  bool is_full_ = false;
};

// Memory of one caller for a word.
struct ModelWork {
  struct Symbol {  // of BPE: a part of the word, and its neighbors
    uint32_t id;
    int32_t before, after;
    bool is_gone;
  };
  struct Merge {
    uint32_t rank, place, id;
  };
  struct Node {  // of Unigram: the best way to a place
    double score;
    int32_t begin;  // -1: none yet
    uint32_t id;
  };
  std::vector<Symbol> symbols;
  std::vector<Merge> merges;
  std::vector<Node> nodes;
  std::vector<uint32_t> ends;
  std::vector<char> part;
};

class Model {
 public:
  virtual ~Model() = default;

  // Sets memory aside for words of so many bytes; how many ids one becomes at most.
  virtual size_t reserve(size_t bytes, ModelWork* work) const = 0;
  // Appends the ids of a word that is not empty. kUnknown: it has none, and the model has no token
  // for what is unknown.
  virtual TextFault encode(std::string_view word, ModelWork* work, IdBuffer* ids) const noexcept = 0;

  const Vocabulary& vocabulary() const { return vocabulary_; }
  // Tokens, those that are there twice too.
  virtual size_t size() const { return vocabulary_.size(); }
  // Bytes of the longest token.
  size_t longest() const { return vocabulary_.longest(); }
  virtual bool token(uint32_t id, std::string_view* text) const noexcept {
    return vocabulary_.token(id, text);
  }

 protected:
  Vocabulary vocabulary_;
};

// From the file's part. Throws Error(kBundle).
std::unique_ptr<Model> make_model(const std::optional<JsonValue>& value);

struct ComponentFields;
std::unique_ptr<Model> make_byte_pairs(const ComponentFields& fields);
std::unique_ptr<Model> make_unigram(const ComponentFields& fields);

}  // namespace mmedge::runtime

#endif  // MMEDGE_RUNTIME_TEXT_MODEL_H_
