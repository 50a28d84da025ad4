// The one exception of the runtime: what a bundle, an input or a backend did wrong, in words.
//
// Work that may fail (opening, loading, warming up) throws it; the C API turns it into a status and
// a message. What runs after that throws nothing: it returns a Code.
#ifndef MMEDGE_RUNTIME_ERROR_H_
#define MMEDGE_RUNTIME_ERROR_H_

#include <cstdarg>
#include <stdexcept>
#include <string>

namespace mmedge::runtime {

// Kinds of errors, those of mmedge/errors.py.
enum class Code {
  kOk = 0,
  kBundle,     // a bundle is malformed, altered, incomplete or from another schema
  kInput,      // a value does not fit what the bundle declares
  kNoVariant,  // no variant of a bundle can run here
  kBackend,    // a backend could not be loaded or run
  kAccuracy,   // outputs left their limit
  kNotWarm,    // a call needs more memory than was set aside
  kTooSmall,   // a caller's buffer is too small
  kSignature,  // a bundle's signature is not as the caller wants it, or cannot be verified
};

class Error : public std::runtime_error {
 public:
  Error(Code code, const std::string& message) : std::runtime_error(message), code_(code) {}
  Code code() const noexcept { return code_; }

 private:
  Code code_;
};

// A message as printf makes it, of any length. Parts of a message that are joined by `+` take three
// times as many bytes of the library.
std::string message_text(const char* format, va_list arguments);

}  // namespace mmedge::runtime

#endif  // MMEDGE_RUNTIME_ERROR_H_
