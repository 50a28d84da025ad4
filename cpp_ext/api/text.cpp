// The functions of mmedge/text.h.
#include "mmedge/text.h"

#include <algorithm>
#include <memory>
#include <string>

#include "handles.h"
#include "text/text_encoder.h"
#include "text/text_stream.h"

struct mmedge_tokenizer {
  std::shared_ptr<const rt::Network> network;  // names of inputs are the manifest's
  std::shared_ptr<const rt::TextTokenizer> tokenizer;
  std::shared_ptr<const rt::TextEncoder> encoder;  // null: of a loop's tokens
  rt::TextEncoder::Work work;
};

struct mmedge_text_stream {
  rt::TextStream stream;
};

namespace {

using namespace mmedge::api;

// What memory is set aside for.
constexpr size_t kCharacters = 1024, kTokens = 1024;

// The modality that takes a text under a name. Throws Error(kInput): there is none.
const rt::Modality& find_modality(const rt::Manifest& manifest, const std::string& name) {
  std::string takers;
  for (const rt::Modality& modality : manifest.modalities) {
    if (!modality.tokenizer) continue;
    if (name == modality.name || name == modality.tokenizer->ids) return modality;
    takers += (takers.empty() ? "" : ", ") + modality.name;
  }
  throw rt::Error(rt::Code::kInput,
                  "input '" + name + "' takes no text; " +
                      (takers.empty() ? "this bundle has no tokenizer" : "these do: " + takers));
}

const std::string& loop_file(const rt::Manifest& manifest) {
  const auto* loop = std::get_if<rt::GenerateLoop>(&manifest.loop);
  if (loop == nullptr || !loop->tokenizer) {
    throw rt::Error(rt::Code::kInput,
                    "this bundle makes no text of tokens; pass the name of what takes a text");
  }
  return *loop->tokenizer;
}

void reserve(mmedge_tokenizer* handle, size_t characters, size_t tokens) {
  if (handle->encoder) handle->encoder->reserve(characters, &handle->work);
  handle->tokenizer->reserve_tokens(tokens, &handle->work.tokenizer);
}

mmedge_status not_warm(size_t tokens) noexcept {
  return mmedge::fail(MMEDGE_NOT_WARM,
                      "the text of %zu tokens needs more memory than was set aside; call "
                      "mmedge_tokenizer_reserve() with more tokens, before a stream is made",
                      tokens);
}

}  // namespace

extern "C" {

mmedge_status mmedge_tokenizer_open(const mmedge_pipeline* pipeline, const char* name,
                                    mmedge_tokenizer** tokenizer) {
  if (tokenizer == nullptr) return missing("tokenizer");
  *tokenizer = nullptr;
  if (pipeline == nullptr) return missing("pipeline");
  return guard([&] {
    auto handle = std::make_unique<mmedge_tokenizer>();
    handle->network = pipeline->network;
    const rt::Network& network = *handle->network;
    const rt::Manifest& manifest = network.manifest();
    const rt::Modality* modality = name != nullptr ? &find_modality(manifest, name) : nullptr;
    const std::string& file = modality != nullptr ? modality->tokenizer->file : loop_file(manifest);
    rt::Bundle& bundle = network.bundle();
    handle->tokenizer = std::make_shared<rt::TextTokenizer>(bundle.archive().read(file),
                                                            bundle.path() + ": " + file);
    if (modality != nullptr) {
      handle->encoder =
          std::make_shared<rt::TextEncoder>(handle->tokenizer, *modality, network.inputs());
    }
    size_t tokens = kTokens;
    if (const auto* loop = std::get_if<rt::GenerateLoop>(&manifest.loop)) {
      tokens = static_cast<size_t>(std::max<int64_t>(1, loop->limit));
    }
    reserve(handle.get(), kCharacters, tokens);
    *tokenizer = handle.release();
  });
}

mmedge_status mmedge_tokenizer_clone(const mmedge_tokenizer* tokenizer, mmedge_tokenizer** clone) {
  if (clone == nullptr) return missing("clone");
  *clone = nullptr;
  if (tokenizer == nullptr) return missing("tokenizer");
  return guard([&] {
    auto handle = std::make_unique<mmedge_tokenizer>();
    handle->network = tokenizer->network;
    handle->tokenizer = tokenizer->tokenizer;
    handle->encoder = tokenizer->encoder;
    const rt::TextTokenizer::Work& work = tokenizer->work.tokenizer;
    reserve(handle.get(), work.characters, work.tokens);
    *clone = handle.release();
  });
}

void mmedge_tokenizer_close(mmedge_tokenizer* tokenizer) { delete tokenizer; }

mmedge_status mmedge_tokenizer_reserve(mmedge_tokenizer* tokenizer, int64_t characters,
                                       int64_t tokens) {
  if (tokenizer == nullptr) return missing("tokenizer");
  constexpr int64_t kMost = int64_t{1} << 24;
  if (characters < 0 || tokens < 0 || tokens > kMost) {
    return mmedge::fail(MMEDGE_INVALID, "expected from 0 characters and 0 to %lld tokens",
                        static_cast<long long>(kMost));
  }
  return guard([&] {
    reserve(tokenizer, static_cast<size_t>(characters), static_cast<size_t>(tokens));
  });
}

mmedge_status mmedge_tokenizer_encode(mmedge_tokenizer* tokenizer, const char* text, size_t bytes,
                                      mmedge_tensor* tensors, int32_t* count, int32_t* is_cut) {
  if (tokenizer == nullptr) return missing("tokenizer");
  if (text == nullptr && bytes > 0) return missing("text");
  if (tensors == nullptr || count == nullptr) return missing("tensors or count");
  *count = 0;
  if (!tokenizer->encoder) {
    return mmedge::fail(MMEDGE_INPUT_ERROR,
                        "this tokenizer is that of a loop's tokens; open the one of what takes a "
                        "text by its name");
  }
  size_t made = 0;
  bool has_cut = false;
  rt::TextEncoder::Work& work = tokenizer->work;
  const rt::Code code = tokenizer->encoder->encode(
      text != nullptr ? std::string_view(text, bytes) : std::string_view(), &work, &made, &has_cut);
  if (code != rt::Code::kOk) return mmedge::fail(to_status(code), "%s", work.error.text);
  for (size_t i = 0; i < made; ++i) {
    const rt::NamedTensor& from = work.tensors[i];
    mmedge_tensor& to = tensors[i];
    to.name = from.name;
    to.data = nullptr;
    give_tensor(from.view, &to);
  }
  *count = static_cast<int32_t>(made);
  if (is_cut != nullptr) *is_cut = has_cut;
  return MMEDGE_OK;
}

mmedge_status mmedge_tokenizer_decode(mmedge_tokenizer* tokenizer, const int64_t* tokens,
                                      int64_t count, const char** text, size_t* bytes) {
  if (tokenizer == nullptr) return missing("tokenizer");
  if (count < 0 || (tokens == nullptr && count > 0)) return missing("tokens");
  if (text == nullptr || bytes == nullptr) return missing("text or bytes");
  *text = "";
  *bytes = 0;
  std::string_view made;
  const auto size = static_cast<size_t>(count);
  const rt::TextFault fault =
      tokenizer->tokenizer->decode(tokens, size, &tokenizer->work.tokenizer, &made);
  if (fault != rt::TextFault::kNone) return not_warm(size);
  *text = made.data();
  *bytes = made.size();
  return MMEDGE_OK;
}

mmedge_status mmedge_text_stream_create(const mmedge_tokenizer* tokenizer,
                                        mmedge_text_stream** stream) {
  if (stream == nullptr) return missing("stream");
  *stream = nullptr;
  if (tokenizer == nullptr) return missing("tokenizer");
  return guard([&] {
    *stream = new mmedge_text_stream{
        rt::TextStream(tokenizer->tokenizer, tokenizer->work.tokenizer.tokens)};
  });
}

void mmedge_text_stream_close(mmedge_text_stream* stream) { delete stream; }

void mmedge_text_stream_reset(mmedge_text_stream* stream) {
  if (stream != nullptr) stream->stream.reset();
}

mmedge_status mmedge_text_stream_add(mmedge_text_stream* stream, int64_t token, int32_t is_last,
                                     const char** text, size_t* bytes) {
  if (stream == nullptr) return missing("stream");
  if (text == nullptr || bytes == nullptr) return missing("text or bytes");
  std::string_view piece;
  const rt::TextFault fault = stream->stream.add(token, is_last != 0, &piece);
  *text = piece.data();
  *bytes = piece.size();
  return fault == rt::TextFault::kNone ? MMEDGE_OK : not_warm(stream->stream.size());
}

mmedge_status mmedge_text_stream_end(mmedge_text_stream* stream, const char** text, size_t* bytes) {
  if (stream == nullptr) return missing("stream");
  if (text == nullptr || bytes == nullptr) return missing("text or bytes");
  std::string_view piece;
  const rt::TextFault fault = stream->stream.end(&piece);
  *text = piece.data();
  *bytes = piece.size();
  return fault == rt::TextFault::kNone ? MMEDGE_OK : not_warm(stream->stream.size());
}

}  // extern "C"
