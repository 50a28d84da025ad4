// Decomposition, order of marks, composition.
#include "text/normal_forms.h"

#include <algorithm>

namespace mmedge::runtime {
namespace {

#include "text/unicode_tables.inc"

// Hangul syllables are made by arithmetic.
constexpr uint32_t kSyllables = 0xac00, kLeading = 0x1100, kVowels = 0x1161, kTrailing = 0x11a7;
constexpr uint32_t kLeadingCount = 19, kVowelCount = 21, kTrailingCount = 28;
constexpr uint32_t kSyllableCount = kLeadingCount * kVowelCount * kTrailingCount;

// Characters that a composed one is made of at most.
constexpr uint32_t kLongestComposed = 4;

// A character in the lower 24 bits, its combining class above.
constexpr uint32_t kCharacter = 0xffffff;

}  // namespace

NormalForm::NormalForm(bool is_compatible, bool is_composed)
    : is_composed_(is_composed),
      entries_(read_entries(is_compatible)),
      classes_(CodeMap::read_ranges(kCombiningClasses, sizeof kCombiningClasses)) {
  if (is_composed) read_pairs();
}

std::vector<NormalForm::Entry> NormalForm::read_entries(bool is_compatible) {
  std::vector<Entry> entries;
  uint32_t at = 0;
  for (const uint8_t* data = kDecompositions; data < kDecompositions + sizeof kDecompositions;) {
    // A run of neighbors of one kind and length.
    at += read_number(&data);
    uint32_t left = read_number(&data);
    const uint8_t head = *data++;
    for (;; ++at) {
      const Entry entry{at, static_cast<uint32_t>(head / 2), data};
      for (uint32_t i = 0; i < entry.count; ++i) read_number(&data);
      if (head % 2 == 0 || is_compatible) {
        // A compatible decomposition follows the canonical one of the same character.
        if (!entries.empty() && entries.back().character == at) entries.pop_back();
        entries.push_back(entry);
      }
      if (--left == 0) break;
    }
  }
  return entries;
}

const NormalForm::Entry* NormalForm::find(const std::vector<Entry>& entries,
                                          uint32_t character) noexcept {
  const auto entry =
      std::lower_bound(entries.begin(), entries.end(), character,
                       [](const Entry& each, uint32_t c) { return each.character < c; });
  return entry != entries.end() && entry->character == character ? &*entry : nullptr;
}

void NormalForm::read_pairs() {
  const std::vector<Entry> canonical = read_entries(false);
  std::vector<const Entry*> composed;
  uint32_t at = 0;
  for (const uint8_t* data = kComposed; data < kComposed + sizeof kComposed;) {
    at += read_number(&data);
    for (uint32_t left = read_number(&data); left > 0; --left) {
      composed.push_back(find(canonical, at++));
    }
  }
  const auto add = [&](const Entry* entry) {
    const uint8_t* data = entry->data;
    uint32_t first = read_number(&data);
    for (uint32_t i = 2; i < entry->count; ++i) first = compose(first, read_number(&data));
    const Pair pair{uint64_t{first} << 32 | read_number(&data), entry->character};
    const auto place = std::lower_bound(
        pairs_.begin(), pairs_.end(), pair.parts,
        [](const Pair& each, uint64_t parts) { return each.parts < parts; });
    pairs_.insert(place, pair);
  };
  // Shorter ones first: all but the last of a longer one are composed by them.
  for (uint32_t count = 2; count <= kLongestComposed; ++count) {
    for (const Entry* entry : composed) {
      if (entry->count == count) add(entry);
    }
  }
}

uint32_t NormalForm::compose(uint32_t first, uint32_t second) const noexcept {
  if (first - kLeading < kLeadingCount && second - kVowels < kVowelCount) {
    return kSyllables + ((first - kLeading) * kVowelCount + second - kVowels) * kTrailingCount;
  }
  if (first - kSyllables < kSyllableCount && (first - kSyllables) % kTrailingCount == 0 &&
      second - kTrailing - 1 < kTrailingCount - 1) {
    return first + second - kTrailing;
  }
  const uint64_t parts = uint64_t{first} << 32 | second;
  const auto pair =
      std::lower_bound(pairs_.begin(), pairs_.end(), parts,
                       [](const Pair& each, uint64_t value) { return each.parts < value; });
  return pair != pairs_.end() && pair->parts == parts ? pair->composed : 0;
}

size_t NormalForm::compose_all(uint32_t* characters, size_t count, size_t* first) const noexcept {
  size_t size = 0, starter = count, firsts = 0;
  for (size_t at = 0; at < count; ++at) {
    const uint32_t number = characters[at] >> 24;
    if (starter < count) {
      // Nothing of its class or a higher one may stand between.
      const uint32_t before = characters[size - 1] >> 24;
      if (size - 1 == starter || (before != 0 && before < number)) {
        const uint32_t both = compose(characters[starter], characters[at] & kCharacter);
        if (both != 0) {
          characters[starter] = both;
          continue;
        }
      }
    }
    if (number == 0) starter = size;
    firsts += at < *first;
    characters[size++] = characters[at];
  }
  *first = firsts;
  return size;
}

void NormalForm::apply(TextView view, std::vector<uint32_t>* work, TextBuffer* out) const noexcept {
  uint32_t* characters = work->data();
  size_t count = 0, first = 0;
  const auto add = [&](uint32_t c) {
    if (count < work->size()) characters[count] = c | (c < 0x300 ? 0u : classes_(c)) << 24;
    ++count;
  };
  for (size_t at = 0; at < view.text.size();) {
    const bool is_first = at < view.first;
    const uint32_t c = read_character(view.text, &at);
    if (c < 0xa0) {
      add(c);
    } else if (c - kSyllables < kSyllableCount) {
      const uint32_t place = c - kSyllables, trailing = place % kTrailingCount;
      add(kLeading + place / kTrailingCount / kVowelCount);
      add(kVowels + place / kTrailingCount % kVowelCount);
      if (trailing > 0) add(kTrailing + trailing);
    } else if (const Entry* entry = find(entries_, c); entry != nullptr) {
      const uint8_t* data = entry->data;
      for (uint32_t i = 0; i < entry->count; ++i) add(read_number(&data));
    } else {
      add(c);
    }
    if (is_first) first = count;
  }
  if (count > work->size()) {
    out->fill();
    return;
  }
  for (size_t at = 1; at < count; ++at) {
    const uint32_t c = characters[at];
    if (c >> 24 == 0) continue;
    size_t to = at;
    for (; to > 0 && characters[to - 1] >> 24 > c >> 24; --to) characters[to] = characters[to - 1];
    characters[to] = c;
  }
  if (is_composed_) count = compose_all(characters, count, &first);
  for (size_t at = 0; at < count; ++at) {
    out->put(characters[at] & kCharacter);
    out->mark_first(at < first);
  }
}

}  // namespace mmedge::runtime
