// Shows a test how signatures of bundles are read and verified, and what is refused.
//
// One command a line, words separated by tabs; bytes are hexadecimal. One line answers: "ok" and
// words, or "error" and a message. `fuzz signature SEED COUNT` changes manifest.sig and release
// statements, `fuzz public-key` PEM texts: fuzz_loop.h.
#include <cstdlib>
#include <iostream>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "bundle/archive.h"
#include "bundle/ed25519.h"
#include "bundle/manifest_bytes.h"
#include "bundle/public_key.h"
#include "bundle/release.h"
#include "bundle/signature.h"
#include "fuzz_loop.h"

using namespace mmedge::runtime;

namespace {

std::string from_hex(const std::string& text) {
  std::string data;
  for (size_t at = 0; at + 1 < text.size(); at += 2) {
    data += static_cast<char>(std::stoi(text.substr(at, 2), nullptr, 16));
  }
  return data;
}

std::string to_hex(const uint8_t* data, size_t size) {
  std::string text;
  char digits[3];
  for (size_t i = 0; i < size; ++i) {
    std::snprintf(digits, sizeof digits, "%02x", data[i]);
    text += digits;
  }
  return text;
}

Bytes bytes_of(const std::string& text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

std::string show(const Envelope& envelope) {
  std::string answer = to_hex(envelope.payload.data(), envelope.payload.size());
  for (const ReleaseSignature& signature : envelope.signatures) {
    if (signature.verified) abort();
    answer += "\t" + std::string(signature.key_id) + "\t" +
              to_hex(signature.bytes, sizeof signature.bytes);
  }
  return answer;
}

std::string show(const Release& release) {
  return std::string(release.manifest) + "\t" + std::to_string(release.version) + "\t" +
         std::to_string(release.signed_at) + "\t" + std::to_string(release.expires);
}

// Opens a bundle as far as its manifest's bytes: LIBRARY LOWEST NOW PATH KEY... A key has a letter
// before it, since it may be empty.
std::string check(const std::vector<std::string>& words) {
  SignaturePolicy policy;
  policy.library = words.at(1);
  policy.lowest_version = std::stoll(words.at(2));
  policy.now = std::stoll(words.at(3));
  const std::unique_ptr<Archive> archive = Archive::open(words.at(4));
  for (size_t i = 5; i < words.size(); ++i) policy.trusted_keys.push_back(from_hex(words[i].substr(1)));
  Signature signature;
  read_manifest_bytes(*archive, policy, &signature);
  if (signature.is_checked != (words.size() > 5)) abort();
  std::string answer = show(signature.release);
  for (const ReleaseSignature& each : signature.signatures) {
    answer += "\t" + std::string(each.key_id) + (each.verified ? "\tverified" : "\tnot");
  }
  return answer;
}

std::string answer(const std::vector<std::string>& words) {
  const std::string& command = words.at(0);
  if (command == "key") {
    const PublicKey key = read_public_key(from_hex(words.at(1)), "key");
    return to_hex(key.bytes, sizeof key.bytes) + "\t" + key.id;
  }
  if (command == "envelope") return show(read_envelope(bytes_of(from_hex(words.at(1))), "sig: "));
  if (command == "release") return show(read_release(bytes_of(from_hex(words.at(1))), "sig: "));
  if (command == "signed") {
    const std::string payload = from_hex(words.at(1));
    const std::vector<uint8_t> bytes = signed_bytes({payload.begin(), payload.end()});
    return to_hex(bytes.data(), bytes.size());
  }
  if (command == "verify") {  // LIBRARY KEY SIGNATURE MESSAGE
    const std::string key = from_hex(words.at(2)), signature = from_hex(words.at(3));
    const std::string message = words.size() > 4 ? from_hex(words[4]) : "";
    if (key.size() != 32 || signature.size() != 64) abort();
    const Ed25519 ed25519(words.at(1));
    return ed25519.verify(bytes_of(signature).data, bytes_of(message), bytes_of(key).data) ? "yes"
                                                                                           : "no";
  }
  if (command == "small") {
    return has_small_order(bytes_of(from_hex(words.at(1))).data) ? "yes" : "no";
  }
  if (command == "check") return check(words);
  abort();
}

std::string respond(const std::vector<std::string>& words) {
  const auto refusal = [](const char* kind, const Error& error) {
    std::string message = error.what();
    for (char& c : message) c = c == '\n' || c == '\t' ? ' ' : c;
    return std::string("error\t") + kind + "\t" + message;
  };
  try {
    return "ok\t" + answer(words);
  } catch (const Error& error) {
    switch (error.code()) {
      case Code::kSignature: return refusal("SignatureError", error);
      case Code::kBundle: return refusal("BundleError", error);
      case Code::kInput: return refusal("InputError", error);
      default: abort();
    }
  }
}

// Reads changed bytes. What is taken is the one form of its content, so that it is read again as the
// same.
int fuzz(FuzzLoop loop) {
  const bool is_key = loop.kind == "public-key";
  return loop.run([&](const std::string& data) {
    bool is_taken = false;
    const auto attempt = [&](auto read) {
      try {
        read();
        is_taken = true;
      } catch (const Error& error) {
        if (error.code() != Code::kSignature) abort();
      }
    };
    if (is_key) {
      attempt([&] {
        if (has_small_order(read_public_key(data, "key").bytes)) abort();
      });
    } else {
      attempt([&] {
        const Envelope envelope = read_envelope(bytes_of(data), "sig: ");
        if (envelope.signatures.empty() || envelope.signatures.size() > kMaxSignatures) abort();
      });
      attempt([&] { read_release(bytes_of(data), "sig: "); });
    }
    return is_taken;
  });
}

}  // namespace

int main(int count, char** words) {
  if (count > 1 && std::string(words[1]) == "fuzz") return fuzz(FuzzLoop(count - 2, words + 2));
  for (std::string line; std::getline(std::cin, line);) {
    std::vector<std::string> parts;
    std::stringstream stream(line);
    for (std::string part; std::getline(stream, part, '\t');) parts.push_back(part);
    if (parts.size() == 1) parts.push_back("");
    std::cout << respond(parts) << std::endl;
  }
}
