// Shows a test what is read of safetensors files and golden samples.
//
// One command a line, words separated by tabs; one line answers: "ok" and words, or "error" and a
// message. `fuzz` changes a file that it is given.
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iostream>
#include <iterator>
#include <memory>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "bundle/safetensors.h"
#include "bundle/samples.h"
#include "bundle/sha256.h"
#include "error.h"
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

// Changes bytes of the header, mostly: pieces of it move, numbers and words are exchanged.
void mutate(std::string* data, std::mt19937* random) {
  static const char* const kWords[] = {"0",   "1",     "-0",   "9223372036854775808", "null", "[",
                                       "]",   "{",     "}",    "\"",                  ",",    "\\u",
                                       "F64", "\"U8\"", "NaN", "1e400",               ":",    "\xff"};
  const auto below = [random](size_t n) { return n == 0 ? 0 : (*random)() % n; };
  for (size_t k = 1 + below(3); k > 0; --k) {
    const size_t at = below(below(4) == 0 ? data->size() : std::min<size_t>(data->size(), 600));
    const size_t length = std::min<size_t>(data->size() - at, 1 + below(40));
    switch (below(6)) {
      case 0:
        if (!data->empty()) (*data)[at] = static_cast<char>(1u << below(8) ^ (*data)[at]);
        break;
      case 1:
        data->erase(at, length);
        break;
      case 2:
        data->insert(at, data->substr(below(data->size()), length));
        break;
      case 3:
        data->insert(at, kWords[below(sizeof(kWords) / sizeof(*kWords))]);
        break;
      case 4: {
        const std::string word = kWords[below(sizeof(kWords) / sizeof(*kWords))];
        data->replace(at, std::min(word.size(), data->size() - at), word);
        break;
      }
      default:
        data->resize(data->size() - std::min(data->size(), below(30)));
    }
    if (below(2) == 0 && data->size() >= 8) {  // the header ends where it did before
      const size_t brace = data->find("}}");
      if (brace != std::string::npos && brace > 6) {
        const size_t size = (brace + 2 - 8 + 7) / 8 * 8;
        for (int i = 0; i < 8; ++i) (*data)[i] = static_cast<char>(size >> (8 * i));
      }
    }
  }
}

// fuzz SEED COUNT MANIFEST FILE: reads changed files; counts what was taken.
int fuzz(char** words) {
  std::mt19937 random(static_cast<unsigned>(atoi(words[0])));
  const int rounds = atoi(words[1]);
  const Manifest manifest = manifest_at(words[2]);
  const std::string seed = contents(words[3]);
  int taken[3] = {};
  for (int round = 0; round < rounds; ++round) {
    std::string text = seed;
    mutate(&text, &random);
    const Copy data(text);
    alarm(10);  // a round that hangs ends the program
    for (int reader = 0; reader < 3; ++reader) {
      try {
        if (reader == 0) line(read_tensors(data.bytes, ""));
        if (reader == 1) line(read_sample_tensors(data.bytes, 100000, ""));
        if (reader == 2) line(read_samples(data.bytes, manifest, ""));
        ++taken[reader];
      } catch (const Error&) {
      }
    }
  }
  std::cout << rounds << " files, taken " << taken[0] << " " << taken[1] << " " << taken[2] << "\n";
  return 0;
}

}  // namespace

int main(int count, char** words) {
  if (count == 6 && std::string(words[1]) == "fuzz") return fuzz(words + 2);
  for (std::string input; std::getline(std::cin, input);) {
    std::vector<std::string> parts;
    std::stringstream stream(input);
    for (std::string part; std::getline(stream, part, '\t');) parts.push_back(part);
    std::cout << respond(parts) << std::endl;
  }
}
