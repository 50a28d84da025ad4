// A table of hashes, and a sorted one.
#include "text/vocabulary.h"

#include <algorithm>

#include "error.h"
#include "text/component_fields.h"

namespace mmedge::runtime {
namespace {

uint64_t hash(uint64_t state, std::string_view text) noexcept {
  for (const char c : text) state = (state ^ static_cast<uint8_t>(c)) * 0x100000001b3u;
  return state;
}
constexpr uint64_t kSeed = 0xcbf29ce484222325u;

size_t first_slot(uint64_t state, size_t slots) noexcept { return (state ^ state >> 29) & (slots - 1); }

}  // namespace

void Vocabulary::add(std::string_view text, uint32_t id) {
  if (slots_.size() < 2 * (entries_.size() + 1)) grow();
  const size_t mask = slots_.size() - 1;
  size_t slot = first_slot(hash(kSeed, text), slots_.size());
  for (; slots_[slot] != 0; slot = (slot + 1) & mask) {
    Entry& entry = entries_[slots_[slot] - 1];
    if (this->text(entry) == text) {
      entry.id = id;
      return;
    }
  }
  entries_.push_back({texts_.size(), static_cast<uint32_t>(text.size()), id});
  texts_.append(text);
  longest_ = std::max(longest_, text.size());
  slots_[slot] = static_cast<uint32_t>(entries_.size());
}

void Vocabulary::grow() {
  slots_.assign(std::max<size_t>(64, 2 * slots_.size()), 0);
  for (size_t entry = 0; entry < entries_.size(); ++entry) place(entry);
}

void Vocabulary::place(size_t entry) {
  size_t slot = first_slot(hash(kSeed, text(entries_[entry])), slots_.size());
  while (slots_[slot] != 0) slot = (slot + 1) & (slots_.size() - 1);
  slots_[slot] = static_cast<uint32_t>(entry + 1);
}

void Vocabulary::read(JsonValue ids) {
  if (!ids.is(JsonKind::kObject)) {
    throw Error(Code::kBundle, "$.model.vocab: expected an object; export the bundle again");
  }
  if (ids.size() == 0) return;
  JsonValue key = ids.first();
  for (size_t i = 0; i < ids.size(); ++i) {
    const JsonValue value = key.next();
    int64_t id = 0;
    if (!value.integer(&id) || id < 0 || id > UINT32_MAX) {
      throw Error(Code::kBundle, "$.model.vocab: an id that is no number of 32 bits; export the "
                                 "bundle again");
    }
    add(read_text(key, "$.model.vocab"), static_cast<uint32_t>(id));
    if (i + 1 < ids.size()) key = value.next();
  }
}

void Vocabulary::finish() {
  by_id_.clear();
  for (size_t i = 0; i < entries_.size(); ++i) {
    by_id_.emplace_back(entries_[i].id, static_cast<uint32_t>(i));
  }
  // Less code than std::sort, which the library's size is worth.
  std::make_heap(by_id_.begin(), by_id_.end());
  std::sort_heap(by_id_.begin(), by_id_.end());
}

int64_t Vocabulary::find(std::string_view text, std::string_view prefix) const noexcept {
  if (slots_.empty()) return kNone;
  const size_t mask = slots_.size() - 1;
  for (size_t slot = first_slot(hash(hash(kSeed, prefix), text), slots_.size()); slots_[slot] != 0;
       slot = (slot + 1) & mask) {
    const Entry& entry = entries_[slots_[slot] - 1];
    if (entry.size != prefix.size() + text.size()) continue;
    const std::string_view whole = this->text(entry);
    if (whole.substr(0, prefix.size()) == prefix && whole.substr(prefix.size()) == text) {
      return entry.id;
    }
  }
  return kNone;
}

bool Vocabulary::token(uint32_t id, std::string_view* text) const noexcept {
  const auto place = std::lower_bound(by_id_.begin(), by_id_.end(), std::make_pair(id, uint32_t{0}));
  if (place == by_id_.end() || place->first != id) return false;
  *text = this->text(entries_[place->second]);
  return true;
}

int64_t Vocabulary::find_byte(uint8_t byte) const noexcept {
  constexpr char kDigits[] = "0123456789ABCDEF";
  const char name[] = {'<', '0', 'x', kDigits[byte >> 4], kDigits[byte & 15], '>'};
  return find(std::string_view(name, sizeof name));
}

PrefixTable::PrefixTable(const Vocabulary& vocabulary) : vocabulary_(vocabulary) {
  for (size_t i = 0; i < vocabulary.entries_.size(); ++i) {
    if (vocabulary.entries_[i].size > 0) order_.push_back(static_cast<uint32_t>(i));
  }
  const auto text = [&](uint32_t entry) { return vocabulary.text(vocabulary.entries_[entry]); };
  const auto is_less = [&](uint32_t a, uint32_t b) { return text(a) < text(b); };
  std::make_heap(order_.begin(), order_.end(), is_less);
  std::sort_heap(order_.begin(), order_.end(), is_less);
  first_byte_.resize(257);
  size_t at = 0;
  for (unsigned byte = 0; byte <= 256; ++byte) {
    while (at < order_.size() && static_cast<uint8_t>(text(order_[at])[0]) < byte) ++at;
    first_byte_[byte] = static_cast<uint32_t>(at);
  }
}

bool PrefixTable::narrow(uint8_t byte, size_t depth, size_t* low, size_t* high) const noexcept {
  if (depth == 0) {
    *low = first_byte_[byte];
    *high = first_byte_[byte + 1u];
    return *low < *high;
  }
  // One that ends here comes before all others.
  const auto byte_of = [&](uint32_t place) -> int {
    const Vocabulary::Entry& entry = vocabulary_.entries_[place];
    return entry.size > depth ? static_cast<uint8_t>(vocabulary_.texts_[entry.begin + depth]) : -1;
  };
  const auto begin = order_.begin() + static_cast<std::ptrdiff_t>(*low);
  const auto end = order_.begin() + static_cast<std::ptrdiff_t>(*high);
  const auto first = std::lower_bound(begin, end, byte,
                                      [&](uint32_t e, int value) { return byte_of(e) < value; });
  const auto last = std::upper_bound(first, end, byte,
                                     [&](int value, uint32_t e) { return value < byte_of(e); });
  *low = static_cast<size_t>(first - order_.begin());
  *high = static_cast<size_t>(last - order_.begin());
  return first < last;
}

}  // namespace mmedge::runtime
