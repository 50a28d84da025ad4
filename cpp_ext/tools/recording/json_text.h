// Writes JSON as Python's json.dumps does, to the byte: digests of recordings and lines of results
// are of that text.
#ifndef MMEDGE_TOOLS_RECORDING_JSON_TEXT_H_
#define MMEDGE_TOOLS_RECORDING_JSON_TEXT_H_

#include <cstdint>
#include <string>
#include <string_view>

namespace mmedge::tools {

// A text of JSON that grows. Separators are ", " and ": ", and all is ASCII.
class JsonText {
 public:
  // Begins and ends an object or a list.
  JsonText& open(char bracket);
  JsonText& close(char bracket);
  // The key of the member whose value is next.
  JsonText& key(std::string_view name);

  JsonText& null();
  JsonText& boolean(bool value);
  JsonText& whole(int64_t value);
  JsonText& natural(uint64_t value);
  // The shortest digits that mean this number, as repr() lays them out; null where it is not finite.
  JsonText& number(double value);
  // Text in UTF-8; halves of surrogate pairs may be coded too. A byte that is no UTF-8 is written as
  // Python writes it in the name of a file, as U+DC00 and more.
  JsonText& string(std::string_view text);

  const std::string& text() const { return text_; }

 private:
  void separate();

  std::string text_;
  bool needs_comma_ = false;
};

}  // namespace mmedge::tools

#endif  // MMEDGE_TOOLS_RECORDING_JSON_TEXT_H_
