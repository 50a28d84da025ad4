// Shows a test what is read of safetensors files and golden samples.
//
// One command a line, words separated by tabs; one line answers: "ok" and words, or "error" and a
// message. `fuzz samples SEED COUNT MANIFEST` changes files: fuzz_loop.h.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iostream>
#include <iterator>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "bundle/safetensors.h"
#include "bundle/samples.h"
#include "bundle/sha256.h"
#include "error.h"
#include "fuzz_loop.h"
#include "schema/manifest.h"

using namespace mmedge::runtime;

namespace {

std::string contents(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

// A copy of exactly its size, so that a read past its end is noticed, that begins `shift` bytes
// behind a multiple of 16.
struct Copy {
  explicit Copy(const std::string& text, size_t shift = 0)
      : memory(new uint8_t[text.size() + shift]), bytes{memory.get() + shift, text.size()} {
    std::memcpy(memory.get() + shift, text.data(), text.size());
  }
  std::unique_ptr<uint8_t[]> memory;
  Bytes bytes;
};

std::string hexadecimal(const std::string& text) {
  static const char* const kDigits = "0123456789abcdef";
  std::string result;
  for (unsigned char c : text) {
    result += kDigits[c >> 4];
    result += kDigits[c & 15];
  }
  return result;
}

std::string line(const TensorMap& tensors, const std::string& prefix = "") {
  std::string result;
  for (const auto& [name, tensor] : tensors) {
    const Bytes bytes{static_cast<const uint8_t*>(tensor.data), tensor.bytes()};
    result += (result.empty() ? "" : "\t") + hexadecimal(prefix + name) + "=" +
              dtype_name(tensor.dtype);
    for (size_t axis = 0; axis < tensor.rank; ++axis) {
      result += "," + std::to_string(tensor.shape[axis]);
    }
    result += "=" + sha256_hexadecimal(bytes);
  }
  return result;
}

std::string line(const Samples& samples) {
  std::string result;
  const auto add = [&result](const TensorMap& tensors, const std::string& prefix) {
    for (const auto& [name, tensor] : tensors) {
      if (reinterpret_cast<uintptr_t>(tensor.data) % kTensorAlignment != 0) abort();
    }
    const std::string more = line(tensors, prefix);
    result += (result.empty() || more.empty() ? "" : "\t") + more;
  };
  for (size_t i = 0; i < samples.golden.size(); ++i) {
    const std::string number = std::to_string(i);
    add(samples.golden[i].inputs, number + ".in.");
    add(samples.golden[i].outputs, number + ".out.");
    add(samples.golden[i].step, number + ".step.");
    add(samples.golden[i].loop, number + ".loop.");
  }
  add(samples.absent, "absent.");
  add(samples.states, "state.");
  add(samples.unconditional, "unconditional.");
  return result;
}

Manifest manifest_at(const std::string& path) {
  const Copy text(contents(path));
  return manifest_from_json(text.bytes, "manifest");
}

std::string answer(const std::vector<std::string>& words) {
  const std::string& command = words.at(0);
  const Copy data(contents(words.at(1)));
  if (command == "strict") return line(read_tensors(data.bytes, "source"));
  if (command == "library") return line(read_sample_tensors(data.bytes, 100000, "source"));
  if (command == "samples") {  // FILE MANIFEST, at two places in memory
    const Manifest manifest = manifest_at(words.at(2));
    const Copy shifted(contents(words.at(1)), 5);
    const Samples samples = read_samples(data.bytes, manifest, "source");
    const std::string result = line(samples);
    if (line(read_samples(shifted.bytes, manifest, "source")) != result) abort();
    return result;
  }
  abort();
}

std::string respond(const std::vector<std::string>& words) {
  try {
    return "ok\t" + answer(words);
  } catch (const Error& error) {
    if (error.code() != Code::kBundle) abort();
    std::string message = error.what();
    for (char& c : message) c = c == '\n' ? ' ' : c;
    return "error\t" + message;
  }
}

// The header ends where it did before.
void mend(std::string* data) {
  const size_t brace = data->find("}}");
  if (data->size() < 8 || brace == std::string::npos || brace <= 6) return;
  const size_t size = (brace + 2 - 8 + 7) / 8 * 8;
  for (int i = 0; i < 8; ++i) (*data)[i] = static_cast<char>(size >> (8 * i));
}

// Reads changed files by the three readers; the first further word is the manifest's path.
int fuzz(FuzzLoop loop) {
  const Manifest manifest = manifest_at(loop.more.at(0));
  const auto is_taken = [&](const std::string& text) {
    const Copy data(text);
    bool taken = false;
    for (int reader = 0; reader < 3; ++reader) {
      try {
        if (reader == 0) line(read_tensors(data.bytes, ""));
        if (reader == 1) line(read_sample_tensors(data.bytes, 100000, ""));
        if (reader == 2) line(read_samples(data.bytes, manifest, ""));
        taken = true;
      } catch (const Error&) {
      }
    }
    return taken;
  };
  return loop.run(is_taken, mend);
}

}  // namespace

int main(int count, char** words) {
  if (count > 1 && std::string(words[1]) == "fuzz") return fuzz(FuzzLoop(count - 2, words + 2));
  for (std::string input; std::getline(std::cin, input);) {
    std::vector<std::string> parts;
    std::stringstream stream(input);
    for (std::string part; std::getline(stream, part, '\t');) parts.push_back(part);
    std::cout << respond(parts) << std::endl;
  }
}
