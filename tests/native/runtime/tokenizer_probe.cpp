// Tokenizers on many texts: what each part makes of them, and ids and texts of the whole.
#include "text/text_tokenizer.h"

#include <memory>

#include "allocation_guard.h"
#include "case_reader.h"
#include "error.h"
#include "schema/tokenizer_rules.h"

using namespace mmedge::runtime;

namespace {

constexpr const char* kFaults[] = {"", "full", "table", "unknown", "stride"};

void write_hex(std::string_view text) {
  for (const char c : text) std::printf("%02x", static_cast<uint8_t>(c));
}

std::string text_of(CaseReader* cases) {
  const Tensor bytes = cases->tensor();
  return std::string(bytes.data.begin(), bytes.data.end());
}

class HexSink final : public WordSink {
 public:
  TextFault take(std::string_view word) noexcept override {
    std::printf(" ");
    write_hex(word);
    return TextFault::kNone;
  }
};

struct Opened {
  std::unique_ptr<TextTokenizer> tokenizer;
  std::unique_ptr<Normalizer> normalizer;
  std::unique_ptr<PreTokenizer> pre_tokenizer;
  TextTokenizer::Work work;
};

// Each line of the answer is one case's.
void answer(CaseReader* cases, Opened* opened) {
  const std::string what = cases->word();
  TextTokenizer::Work& work = opened->work;
  if (what == "open") {
    *opened = Opened();
    const std::string file = text_of(cases);
    const Bytes bytes{reinterpret_cast<const uint8_t*>(file.data()), file.size()};
    try {
      check_tokenizer(bytes, "t.json");
      opened->tokenizer = std::make_unique<TextTokenizer>(bytes, "t.json");
      const JsonDocument document(bytes);
      opened->normalizer = std::make_unique<Normalizer>(document.root().find("normalizer"));
      opened->pre_tokenizer = std::make_unique<PreTokenizer>(document.root().find("pre_tokenizer"));
      opened->tokenizer->reserve_text(kMaxTextCharacters, &opened->work);
      opened->tokenizer->reserve_tokens(4096, &opened->work);
      std::printf("open\n");
    } catch (const Error& error) {
      *opened = Opened();
      std::printf("refused %s\n", error.what());
    }
  } else if (what == "encode") {
    const std::string text = text_of(cases);
    bool is_cut = false;
    TextFault fault;
    {
      const AllocationGuard guard;
      fault = opened->tokenizer->encode(text, &work, &is_cut);
    }
    std::printf("%s%s", kFaults[static_cast<int>(fault)], is_cut ? "cut" : "");
    for (size_t i = 0; fault == TextFault::kNone && i < work.ids.size(); ++i) {
      std::printf(" %u", work.ids.data()[i]);
    }
    std::printf("\n");
  } else if (what == "decode") {
    const std::vector<int64_t> ids = cases->wholes();
    std::string_view text;
    TextFault fault;
    {
      const AllocationGuard guard;
      fault = opened->tokenizer->decode(ids.data(), ids.size(), &work, &text);
    }
    if (fault == TextFault::kNone) write_hex(text);
    std::printf("%s\n", kFaults[static_cast<int>(fault)]);
  } else if (what == "normalize") {
    const std::string text = text_of(cases);
    TextView out;
    const TextFault fault = opened->normalizer->apply({text, 1}, &work.normalizer, &out);
    if (fault == TextFault::kNone) write_hex(out.text);
    std::printf("%s\n", kFaults[static_cast<int>(fault)]);
  } else if (what == "words") {
    const std::string text = text_of(cases);
    HexSink sink;
    size_t first = 0;
    if (!text.empty()) read_character(text, &first);
    opened->pre_tokenizer->apply({text, first}, &work.pre_tokenizer, &sink);
    std::printf("\n");
  } else {
    std::exit(2);
  }
}

}  // namespace

int main() {
  CaseReader cases;
  Opened opened;
  while (!cases.is_done()) answer(&cases, &opened);
}
