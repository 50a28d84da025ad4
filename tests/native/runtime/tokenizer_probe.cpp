// Tokenizers on many texts: what each part makes of them, and ids and texts of the whole.
#include "text/text_tokenizer.h"

#include <memory>

#include "allocation_guard.h"
#include "case_reader.h"
#include "error.h"
#include "execution/inputs.h"
#include "schema/tokenizer_rules.h"
#include "text/text_encoder.h"
#include "text/text_stream.h"

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
  std::shared_ptr<TextTokenizer> tokenizer;
  std::unique_ptr<Normalizer> normalizer;
  std::unique_ptr<PreTokenizer> pre_tokenizer;
  TextTokenizer::Work work;
};

// TOKENS... : the pieces of a row, and what is not complete at its end or comes with the last token.
void answer_stream(CaseReader* cases, const Opened& opened) {
  const bool is_ended = cases->whole() != 0;
  const std::vector<int64_t> ids = cases->wholes();
  TextStream stream(opened.tokenizer, 4096);
  for (size_t i = 0; i < ids.size(); ++i) {
    std::string_view piece;
    {
      const AllocationGuard guard;
      stream.add(ids[i], !is_ended && i + 1 == ids.size(), &piece);
    }
    std::printf(" ");
    write_hex(piece);
  }
  std::string_view rest;
  stream.end(&rest);
  std::printf(" ");
  write_hex(rest);
  std::printf("\n");
}

// IDS_DTYPE MASK_DTYPE|none SIZE | MIN MAX MULTIPLE (SIZE -1, MAX -1: none) TEXT: ids and mask.
void answer_encoder(CaseReader* cases, const Opened& opened) {
  Manifest manifest;
  Modality modality;
  modality.name = "text";
  modality.tokenizer = Tokenizer{"t.json", "ids", std::nullopt};
  TensorSpec ids{"ids", DType::kInt64, {{1, ""}, {0, "n"}}}, mask = ids;
  mask.name = "mask";
  parse_dtype(cases->word(), &ids.dtype);
  const bool has_mask = parse_dtype(cases->word(), &mask.dtype);
  const int64_t size = cases->whole();
  Dimension limits;
  limits.min = cases->whole();
  const int64_t most = cases->whole();
  if (most >= 0) limits.max = most;
  limits.multiple = cases->whole();
  if (size >= 0) ids.shape[1] = mask.shape[1] = {size, ""};
  else manifest.dimensions["n"] = limits;
  Stage stage;
  stage.name = "net";
  stage.inputs = {ids};
  modality.inputs = {"ids"};
  if (has_mask) {
    stage.inputs.push_back(mask);
    modality.inputs.push_back("mask");
    modality.tokenizer->mask = "mask";
  }
  manifest.stages = {stage};
  manifest.modalities = {modality};
  const std::string text = text_of(cases);
  const Inputs inputs(manifest, nullptr, false);
  try {
    const TextEncoder encoder(opened.tokenizer, manifest.modalities[0], inputs);
    TextEncoder::Work work;
    encoder.reserve(256, &work);
    size_t count = 0;
    bool is_cut = false;
    Code code;
    {
      const AllocationGuard guard;
      code = encoder.encode(text, &work, &count, &is_cut);
    }
    if (code != Code::kOk) {
      std::printf("%d %s\n", static_cast<int>(code), work.error.text);
      return;
    }
    std::printf("%s", is_cut ? "cut" : "");
    for (size_t i = 0; i < count; ++i) {
      const NamedTensor& tensor = work.tensors[i];
      std::printf(" %s %lld ", tensor.name, static_cast<long long>(tensor.view.shape[1]));
      write_hex({static_cast<const char*>(tensor.view.data), tensor.bytes});
    }
    std::printf("\n");
  } catch (const Error& error) {
    std::printf("refused %s\n", error.what());
  }
}

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
      opened->tokenizer = std::make_shared<TextTokenizer>(bytes, "t.json");
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
  } else if (what == "stream") {
    answer_stream(cases, *opened);
  } else if (what == "encoder") {
    answer_encoder(cases, *opened);
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
