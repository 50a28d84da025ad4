// Shows a test the files of bundles: lists, reads, digests, and what is refused.
//
// One command a line, words separated by tabs; one line answers: "ok" and words, or "error" and a
// message. `fuzz zip SEED COUNT SCRATCH` changes zips: fuzz_loop.h.
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
#include "fuzz_loop.h"

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
  const std::vector<uint8_t> manifest = read_manifest_bytes(archive);
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

// Opens a changed zip, which lies at the path that is the first further word.
int fuzz(FuzzLoop loop) {
  return loop.run([&](const std::string& data) {
    std::ofstream(loop.more.at(0), std::ios::binary) << data;
    bool taken = false;  // as an archive: its manifest is looked at after that
    try {
      const std::unique_ptr<Archive> archive = Archive::open(loop.more[0]);
      list(*archive);
      taken = true;
      check(*archive);
    } catch (const Error&) {
    } catch (const Json::exception&) {
    }
    return taken;
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
