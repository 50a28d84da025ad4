// Lengths and padding of the token inputs.
#include "text/text_encoder.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "error.h"
#include "schema/tokenizer_rules.h"
#include "schema/utf8.h"

namespace mmedge::runtime {
namespace {

// Bytes of a text that a message shows.
constexpr int kShown = 77;

// One element of a dtype that is 1, in `bytes`.
void write_one(DType dtype, uint8_t* bytes) noexcept {
  std::memset(bytes, 0, 8);
  const float f32 = 1;
  const double f64 = 1;
  switch (dtype) {
    case DType::kFloat16: bytes[1] = 0x3c; break;
    case DType::kFloat32: std::memcpy(bytes, &f32, sizeof f32); break;
    case DType::kFloat64: std::memcpy(bytes, &f64, sizeof f64); break;
    default: bytes[0] = 1;
  }
}

// Fills elements with one of them.
void fill(uint8_t* to, size_t count, const void* element, size_t size) noexcept {
  for (size_t i = 0; i < count; ++i) std::memcpy(to + i * size, element, size);
}

// How much of a text a message shows, whole characters alone.
int shown(std::string_view text) noexcept {
  if (text.size() <= kShown) return static_cast<int>(text.size());
  int size = kShown;
  while (size > 0 && (static_cast<uint8_t>(text[static_cast<size_t>(size)]) & 0xc0) == 0x80) --size;
  return size;
}

}  // namespace

TextEncoder::TextEncoder(std::shared_ptr<const TextTokenizer> tokenizer, const Modality& modality,
                         const Inputs& inputs)
    : tokenizer_(std::move(tokenizer)),
      file_(modality.tokenizer->file),
      ids_name_(modality.tokenizer->ids),
      mask_name_(modality.tokenizer->mask.value_or("")) {
  for (size_t place = 0; place < inputs.specs().size(); ++place) {
    const TensorSpec& spec = inputs.specs()[place];
    if (spec.name == mask_name_) mask_dtype_ = spec.dtype;
    if (spec.name != ids_name_) continue;
    ids_dtype_ = spec.dtype;
    const Axis& axis = spec.shape.back();
    if (!axis.is_dynamic()) {
      fixed_ = axis.size;
      continue;
    }
    const Dimension limits = inputs.limits(axis.dimension);
    least_ = limits.min;
    most_ = limits.max.value_or(-1);
    multiple_ = limits.multiple;
  }
  const TextPadding& padding = tokenizer_->padding();
  least_ = std::max(least_, padding.least);
  const int64_t common = std::gcd(padding.multiple, multiple_);
  has_overflow_ = __builtin_mul_overflow(padding.multiple / common, multiple_, &multiple_);
  const auto& cut = tokenizer_->cut();
  if (cut && cut->length <= tokenizer_->special_count()) {
    throw Error(Code::kBundle,
                file_ + ": it cuts texts to " + std::to_string(cut->length) + " tokens, of which " +
                    std::to_string(tokenizer_->special_count()) +
                    " are special ones; save the tokenizer with a larger max_length");
  }
}

int64_t TextEncoder::padded(int64_t tokens) const noexcept {
  if (fixed_ >= 0) return fixed_;
  int64_t length = std::max(tokens, least_), rounded = 0;
  if (length == 0) return 0;
  if (has_overflow_ || __builtin_add_overflow(length, multiple_ - 1, &rounded)) return -1;
  return rounded / multiple_ * multiple_;
}

void TextEncoder::reserve(size_t characters, Work* work) const {
  tokenizer_->reserve_text(characters, &work->tokenizer);
  int64_t length = padded(static_cast<int64_t>(work->tokenizer.ids.room()));
  // A longer one is refused.
  if (fixed_ < 0 && most_ >= 0 && (length < 0 || length > most_)) length = most_;
  if (length < 0 || length > (int64_t{1} << 40)) {
    throw Error(Code::kBundle, "input '" + ids_name_ + "': a text is padded to more tokens than "
                               "fit; save the tokenizer with a smaller pad_to_multiple_of");
  }
  work->length = std::max(work->length, static_cast<size_t>(length));
  work->ids.resize(work->length * item_size(ids_dtype_));
  if (!mask_name_.empty()) work->mask.resize(work->length * item_size(mask_dtype_));
}

Code TextEncoder::fail(TextFault fault, std::string_view text, Work* work) const noexcept {
  if (fault == TextFault::kFull) {
    return work->error.set(Code::kNotWarm,
                           "a text of %zu characters needs more memory than was set aside for %zu; "
                           "call mmedge_tokenizer_reserve() with more characters",
                           count_characters(text), work->tokenizer.characters);
  }
  const char* why = fault == TextFault::kStride
                        ? "its stride is not below the length that it cuts texts to, less special "
                          "tokens"
                    : fault == TextFault::kTable
                        ? "its table of replacements leads out of itself"
                        : "it has no token for what is unknown";
  return work->error.set(Code::kInput, "the bundle's tokenizer %.120s fails on the text \"%.*s\": %s",
                         file_.c_str(), shown(text), text.data(), why);
}

// The limits of a text, as it is given and once it is normalized.
Code TextEncoder::check(std::string_view text, Work* work) const noexcept {
  CallError& error = work->error;
  if (const size_t good = utf8_length(text); good != text.size()) {
    return error.set(Code::kInput,
                     "a text that is no UTF-8 from byte %zu on; decode its bytes, and replace what "
                     "is none",
                     good);
  }
  const size_t characters = count_characters(text);
  if (characters > kMaxTextCharacters) {
    return error.set(Code::kInput, "a text of %zu characters; expected at most %zu, shorten it",
                     characters, kMaxTextCharacters);
  }
  if (characters > work->tokenizer.characters) return fail(TextFault::kFull, text, work);
  size_t size = 0;
  const TextFault fault = tokenizer_->normalized_size(text, &work->tokenizer, &size);
  if (fault != TextFault::kNone) return fail(fault, text, work);
  if (size > kMaxTextCharacters) {
    return error.set(Code::kInput,
                     "a text of %zu characters becomes %zu when it is normalized; expected at most "
                     "%zu, shorten it",
                     characters, size, kMaxTextCharacters);
  }
  return Code::kOk;
}

Code TextEncoder::encode(std::string_view text, Work* work, size_t* count,
                         bool* is_cut) const noexcept {
  *count = 0;
  *is_cut = false;
  if (const Code code = check(text, work); code != Code::kOk) return code;
  const TextFault fault = tokenizer_->encode(text, &work->tokenizer, is_cut);
  if (fault != TextFault::kNone) return fail(fault, text, work);
  const IdBuffer& ids = work->tokenizer.ids;
  const auto tokens = static_cast<int64_t>(ids.size());
  CallError& error = work->error;
  if (fixed_ >= 0 && tokens > fixed_) {
    return error.set(Code::kInput,
                     "text of %lld tokens does not fit input '%.120s', which takes %lld; shorten it "
                     "(nothing is cut off unless the tokenizer says so): \"%.*s\"",
                     static_cast<long long>(tokens), ids_name_.c_str(),
                     static_cast<long long>(fixed_), shown(text), text.data());
  }
  const int64_t length = padded(tokens);
  if (length < 0 || (fixed_ < 0 && most_ >= 0 && length > most_)) {
    return error.set(Code::kInput,
                     "text of %lld tokens does not fit input '%.120s', which takes up to %lld with "
                     "padding; shorten it: \"%.*s\"",
                     static_cast<long long>(tokens), ids_name_.c_str(), static_cast<long long>(most_),
                     shown(text), text.data());
  }
  if (tokens == 0 && length > 0) {
    return error.set(Code::kInput,
                     "the text \"%.*s\" has no tokens, so that input '%.120s' would be padding "
                     "alone, which gives NaN in many networks; leave the modality out if it is "
                     "optional, or pass the ids that the network was trained on for no text",
                     shown(text), text.data(), ids_name_.c_str());
  }
  if (static_cast<size_t>(length) > work->length) return fail(TextFault::kFull, text, work);
  const size_t size = item_size(ids_dtype_);
  const uint64_t most = (uint64_t{1} << (8 * size - 1)) - 1;
  const TextPadding& padding = tokenizer_->padding();
  fill(work->ids.data(), static_cast<size_t>(length), &padding.id, size);
  const auto start = static_cast<size_t>(padding.is_left ? length - tokens : 0);
  for (size_t i = 0; i < ids.size(); ++i) {
    const uint64_t id = ids.data()[i];
    if (id > most) {
      return error.set(Code::kInput, "input '%.120s': token id %llu does not fit %s",
                       ids_name_.c_str(), static_cast<unsigned long long>(id),
                       dtype_name(ids_dtype_));
    }
    std::memcpy(work->ids.data() + (start + i) * size, &id, size);
  }
  const auto give = [&](const std::string& name, DType dtype, uint8_t* data) {
    NamedTensor& tensor = work->tensors[(*count)++];
    tensor.name = name.c_str();
    tensor.view.dtype = dtype;
    tensor.view.rank = 2;
    tensor.view.shape[0] = 1;
    tensor.view.shape[1] = length;
    tensor.view.data = data;
    tensor.bytes = static_cast<size_t>(length) * item_size(dtype);
  };
  give(ids_name_, ids_dtype_, work->ids.data());
  if (!mask_name_.empty()) {
    uint8_t one[8];
    write_one(mask_dtype_, one);
    const size_t each = item_size(mask_dtype_);
    std::memset(work->mask.data(), 0, static_cast<size_t>(length) * each);
    fill(work->mask.data() + start * each, ids.size(), one, each);
    give(mask_name_, mask_dtype_, work->mask.data());
  }
  return Code::kOk;
}

}  // namespace mmedge::runtime
