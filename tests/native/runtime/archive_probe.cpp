// Shows a test the files of bundles: lists, reads, digests, and what is refused.
//
// One command a line, words separated by tabs; one line answers: "ok" and words, or "error" and a
// message. `fuzz` changes the zips that it is given.
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <iterator>
#include <memory>
#include <nlohmann/json.hpp>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "bundle/archive.h"
#include "bundle/crc32.h"
#include "bundle/digests.h"
#include "bundle/manifest_bytes.h"
#include "bundle/paths.h"
#include "bundle/sha256.h"

using namespace mmedge::runtime;
using Json = nlohmann::json;

namespace {

std::unique_ptr<Archive> opened;

std::string contents(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

Bytes bytes_of(const std::string& text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

// Every file: its name, size and digest, which are the same however it is read.
std::string list(Archive& archive) {
  std::string answer = archive.zipped() ? "zip" : "directory";
  for (const auto& [name, size] : archive.sizes()) {
    const Bytes bytes = archive.read(name);
    const std::string digest = archive.digest(name);
    if (bytes.size != size || sha256_hexadecimal(bytes) != digest) abort();
    if (!archive.zipped() && sha256_hexadecimal(bytes_of(contents(archive.file(name)))) != digest) {
      abort();
    }
    answer += "\t" + name + "=" + std::to_string(size) + "=" + digest;
  }
  archive.check_unchanged();
  return answer;
}

// What opening a bundle checks before it reads its manifest's fields, and all digests.
std::string check(Archive& archive) {
  const Bytes manifest = read_manifest_bytes(archive);
  const Json tree = Json::parse(manifest.begin(), manifest.end());
  const auto files = tree.at("files").get<std::map<std::string, std::string>>();
  check_listing(archive, files);
  check_digests(archive, files);
  return "checked";
}

// The digest of a file by every implementation, in parts of all lengths.
std::string hash(const std::string& path) {
  const std::string data = contents(path);
  std::string answer;
  for (ShaInstructions each :
       {ShaInstructions::kPortable, ShaInstructions::kX86, ShaInstructions::kArm}) {
    if (!has_instructions(each)) continue;
    std::mt19937 random(1);
    Sha256 whole(each), parts(each);
    whole.update(bytes_of(data));
    for (size_t at = 0; at < data.size();) {
      const size_t size = std::min<size_t>(data.size() - at, random() % 200);
      parts.update(bytes_of(data).part(at, size));
      at += size;
    }
    const std::string digest = whole.hexadecimal();
    if (parts.hexadecimal() != digest) abort();
    answer += (answer.empty() ? "" : "\t") + digest;
  }
  return answer;
}

std::string answer(const std::vector<std::string>& words) {
  const std::string& command = words.at(0);
  if (command == "open") {
    opened.reset();
    opened = Archive::open(words.at(1));
    return opened->path();
  }
  if (command == "list") return list(*Archive::open(words.at(1)));
  if (command == "check") return check(*Archive::open(words.at(1)));
  if (command == "hash") return hash(words.at(1));
  if (command == "crc") return std::to_string(crc32(bytes_of(contents(words.at(1)))));
  if (command == "fault") return path_fault(words.at(1));
  if (command == "read") return sha256_hexadecimal(opened->read(words.at(1)));
  if (command == "digest") return opened->digest(words.at(1));
  if (command == "file") return opened->file(words.at(1));
  if (command == "unchanged") {
    opened->check_unchanged();
    return "";
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

// Changes `data` in a few places: bytes, numbers of records, pieces that move.
void mutate(std::string* data, std::mt19937* random) {
  const auto below = [random](size_t n) { return n == 0 ? 0 : (*random)() % n; };
  for (size_t k = 1 + below(3); k > 0; --k) {
    const size_t at = below(data->size());
    const size_t length = std::min<size_t>(data->size() - at, 1 + below(64));
    switch (below(6)) {
      case 0:
        if (!data->empty()) (*data)[at] = static_cast<char>(1u << below(8) ^ (*data)[at]);
        break;
      case 1:
        data->erase(at, length);
        break;
      case 2:
        data->insert(below(data->size()), data->substr(at, length));
        break;
      case 3:
        data->replace(at, length, data->substr(below(data->size()), length));
        break;
      case 4: {  // a number of up to 8 bytes becomes another one
        const uint64_t values[] = {0, 1, 0xFFFF, 0xFFFFFFFF, ~uint64_t{0}, (*random)()};
        const uint64_t value = values[below(6)];
        for (size_t i = 0; i < 8 && at + i < data->size() && i < (2u << below(3)); ++i) {
          (*data)[at + i] = static_cast<char>(value >> (8 * i));
        }
        break;
      }
      default:
        data->resize(data->size() - std::min(data->size(), below(30)));
    }
  }
}

// fuzz SEED COUNT SCRATCH FILE...: opens changed zips; counts those that were taken.
int fuzz(int count, char** words) {
  std::mt19937 random(static_cast<unsigned>(atoi(words[0])));
  const std::string scratch = words[2];
  std::vector<std::string> seeds;
  for (int i = 3; i < count; ++i) seeds.push_back(contents(words[i]));
  const int rounds = atoi(words[1]);
  int taken = 0;
  for (int round = 0; round < rounds; ++round) {
    std::string data = seeds[random() % seeds.size()];
    mutate(&data, &random);
    std::ofstream(scratch, std::ios::binary) << data;
    alarm(10);  // a round that hangs ends the program
    try {
      const std::unique_ptr<Archive> archive = Archive::open(scratch);
      list(*archive);
      ++taken;
      check(*archive);
    } catch (const Error&) {
    } catch (const Json::exception&) {
    }
  }
  std::cout << rounds << " zips, " << taken << " taken\n";
  return 0;
}

}  // namespace

int main(int count, char** words) {
  if (count > 4 && std::string(words[1]) == "fuzz") return fuzz(count - 2, words + 2);
  for (std::string line; std::getline(std::cin, line);) {
    std::vector<std::string> parts;
    std::stringstream stream(line);
    for (std::string part; std::getline(stream, part, '\t');) parts.push_back(part);
    if (parts.size() == 1) parts.push_back("");
    std::cout << respond(parts) << std::endl;
  }
}
