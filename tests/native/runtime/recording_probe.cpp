// Shows how the tools of libmmedge read recordings.
//
// Each line on stdin is a path. The answer is a line of JSON: what the recording is and a digest of
// its samples, or {"error": ...}. `fuzz recording-mcap SEED COUNT SCRATCH` and `fuzz recording-folder
// ...` change recordings instead: fuzz_loop.h. A folder's files are framed as tests/fuzz/targets.py
// does.
#include <sys/stat.h>

#include <cstdio>
#include <fstream>
#include <iostream>
#include <string>
#include <vector>

#include "bundle/sha256.h"
#include "error.h"
#include "fuzz_loop.h"
#include "recording/json_text.h"
#include "recording/timeline.h"

namespace {

using mmedge::tools::JsonText;
using mmedge::tools::Recorded;

void add(mmedge::runtime::Sha256* hash, const std::string& text) {
  hash->update({reinterpret_cast<const uint8_t*>(text.data()), text.size()});
}

JsonText describe(const std::string& path) {
  JsonText text;
  try {
    const auto recording = mmedge::tools::open_recording(path);
    mmedge::runtime::Sha256 hash;
    const auto timeline =
        mmedge::tools::read_timeline(*recording, [&](const Recorded& sample) {
          JsonText head;
          head.open('[').string(recording->modalities[sample.modality]).number(sample.t);
          head.number(sample.arrival).boolean(sample.value.is_text);
          for (const auto& [name, view] : sample.value.tensors) {
            head.string(name).string(mmedge::runtime::dtype_name(view.dtype)).open('[');
            for (size_t axis = 0; axis < view.rank; ++axis) head.whole(view.shape[axis]);
            head.close(']');
          }
          add(&hash, head.close(']').text());
          for (const auto& each : sample.value.tensors) {
            hash.update({static_cast<const uint8_t*>(each.second.data), each.second.bytes()});
          }
        });
    text.open('{').key("name").string(recording->name).key("bundle").string(recording->bundle);
    text.key("modalities").open('[');
    for (const std::string& name : recording->modalities) text.string(name);
    text.close(']').key("missing").string(recording->missing);
    text.key("samples").whole(timeline.samples).key("seconds").number(timeline.seconds);
    text.key("gaps").open('[');
    for (const auto& gap : timeline.gaps) {
      text.open('[').number(gap.first).number(gap.second).close(']');
    }
    return text.close(']').key("sha256").string(hash.hexadecimal()).close('}');
  } catch (const mmedge::runtime::Error& error) {
    return text.open('{').key("error").string(error.what()).close('}');
  }
}

void write_file(const std::string& path, const char* data, size_t size) {
  std::ofstream(path, std::ios::binary).write(data, static_cast<std::streamsize>(size));
}

// Writes framed files into a folder. Returns their paths.
std::vector<std::string> unframe(const std::string& data, const std::string& folder) {
  std::vector<std::string> paths;
  for (size_t at = 0; at < data.size();) {
    const size_t length = static_cast<uint8_t>(data[at]);
    std::string name = data.substr(at + 1, length);
    at += 1 + length;
    size_t size = 0;
    for (size_t i = 0; i < 4 && at + i < data.size(); ++i) {
      size |= static_cast<size_t>(static_cast<uint8_t>(data[at + i])) << (8 * i);
    }
    at += 4;
    for (char& c : name) c = c == '/' || c == '\0' ? '_' : c;
    const size_t left = at < data.size() ? data.size() - at : 0;
    if (!name.empty() && name != "." && name != "..") {
      paths.push_back(folder + "/" + name);
      write_file(paths.back(), data.data() + std::min(at, data.size()), std::min(size, left));
    }
    at += size;
  }
  return paths;
}

int fuzz(mmedge::runtime::FuzzLoop loop) {
  const std::string scratch = loop.more.at(0);
  const auto is_taken = [&](const std::string& path) {
    return describe(path).text().rfind("{\"error\"", 0) != 0;
  };
  if (loop.kind == "recording-mcap") {
    return loop.run([&](const std::string& data) {
      write_file(scratch, data.data(), data.size());
      return is_taken(scratch);
    });
  }
  mkdir(scratch.c_str(), 0700);
  return loop.run([&](const std::string& data) {
    const std::vector<std::string> paths = unframe(data, scratch);
    const bool is_good = is_taken(scratch);
    for (const std::string& path : paths) std::remove(path.c_str());
    return is_good;
  });
}

}  // namespace

int main(int count, char** words) {
  if (count > 1 && std::string(words[1]) == "fuzz") {
    return fuzz(mmedge::runtime::FuzzLoop(count - 2, words + 2));
  }
  for (std::string path; std::getline(std::cin, path);) {
    std::puts(describe(path).text().c_str());
  }
  return 0;
}
