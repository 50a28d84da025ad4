// Shows the checks of ONNX graphs to tests in Python, and mutates graphs without end.
//
//   graphs_probe check NAME [FILE=SIZE...] < cases   each case: its size in 8 bytes, and its bytes
//   graphs_probe bundle FOLDER < description         lines: dimension NAME MIN; stage NAME GRAPH
//                                                    [DIMENSION]; variant BACKEND STAGE FILE;
//                                                    file PATH
//   graphs_probe table                               the allowed operators
//   graphs_probe time FILE COUNT                     milliseconds of a check
//   graphs_probe fuzz graph SEED COUNT < cases       checks the cases and changes of them: fuzz_loop.h
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iostream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "bundle/onnx_file.h"
#include "bundle/operators.h"
#include "error.h"
#include "fuzz_loop.h"

using namespace mmedge::runtime;
using nlohmann::json;
using Sizes = std::map<std::string, uint64_t>;

namespace {

json describe(const GraphFile& graph) {
  json spans = json::array(), external = json::array();
  for (const ExternalSpan& span : graph.spans) spans.push_back({span.file, span.begin, span.end});
  for (const ExternalTensor& tensor : graph.external) {
    const ExternalSpan& span = tensor.span;
    external.push_back({tensor.name, tensor.location, span.file, span.begin, span.end});
  }
  return {{"weights", graph.weights},
          {"functions", graph.functions},
          {"needs_elements", graph.needs_elements},
          {"spans", spans},
          {"external", external}};
}

Bytes bytes_of(const std::string& text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

// Of its own size on the heap, so that a sanitizer sees a byte past the end.
json check(const std::string& data, const std::string& name, const Sizes& sizes) {
  const std::vector<uint8_t> exact(data.begin(), data.end());
  try {
    return describe(check_graph({exact.data(), exact.size()}, name, sizes, "x"));
  } catch (const Error& error) {
    if (error.code() != Code::kBundle) std::abort();
    return {{"fault", error.what()}};
  }
}

std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

std::vector<std::string> read_cases() {
  std::vector<std::string> cases;
  for (uint64_t size = 0; std::cin.read(reinterpret_cast<char*>(&size), 8);) {
    std::string data(size, '\0');
    std::cin.read(data.data(), static_cast<std::streamsize>(size));
    cases.push_back(std::move(data));
  }
  return cases;
}

json check_bundle(const std::string& folder) {
  Manifest manifest;
  Sizes sizes;
  std::string line;
  while (std::getline(std::cin, line)) {
    std::istringstream words(line);
    std::string kind, name, second, third;
    words >> kind >> name >> second >> third;
    if (kind == "dimension") manifest.dimensions[name].min = std::atoll(second.c_str());
    if (kind == "file") {
      manifest.files[name] = "";
      sizes[name] = read_file(folder + "/" + name).size();
    }
    if (kind == "stage") {
      Stage stage;
      stage.name = name;
      stage.graph = second;
      TensorSpec spec;
      if (!third.empty()) spec.shape.push_back({0, third});
      stage.inputs.push_back(spec);
      manifest.stages.push_back(stage);
    }
    if (kind == "variant") {
      Variant variant;
      variant.backend = name;
      variant.files[second] = third;
      manifest.variants.push_back(variant);
    }
  }
  std::string data;
  const auto read = [&](const std::string& file) {
    data = read_file(folder + "/" + file);
    return bytes_of(data);
  };
  try {
    json graphs = json::object();
    for (const auto& [file, graph] : check_graphs(manifest, sizes, read, "bundle")) {
      graphs[file] = describe(graph);
    }
    return graphs;
  } catch (const Error& error) {
    return {{"fault", error.what()}};
  }
}

int fuzz(FuzzLoop loop) {
  const Sizes sizes = {{"onnx/net.onnx", 1000}, {"onnx/net.onnx.data", 424}, {"manifest.json", 9}};
  return loop.run(
      [&](const std::string& data) { return !check(data, "onnx/net.onnx", sizes).contains("fault"); });
}

int time_check(const std::string& path, int count) {
  const std::string data = read_file(path);
  double best = 1e9;
  for (int i = 0; i < count; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    check_graph(bytes_of(data), "onnx/net.onnx", {}, "x");
    const std::chrono::duration<double, std::milli> time = std::chrono::steady_clock::now() - begin;
    best = std::min(best, time.count());
  }
  std::printf("%.3f\n", best);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  std::ios::sync_with_stdio(false);
  const std::vector<std::string> words(argv + 1, argv + argc);
  const std::string mode = words.empty() ? "" : words[0];
  if (mode == "table") {
    std::fputs(onnx::operator_table_text().c_str(), stdout);
    return 0;
  }
  if (mode == "time") return time_check(words.at(1), std::stoi(words.at(2)));
  if (mode == "fuzz") return fuzz(FuzzLoop(argc - 2, argv + 2));
  if (mode == "bundle") {
    std::cout << check_bundle(words.at(1)).dump() << "\n";
    return 0;
  }
  if (mode != "check") return 2;
  Sizes sizes;
  for (size_t i = 2; i < words.size(); ++i) {
    const size_t at = words[i].rfind('=');
    sizes[words[i].substr(0, at)] = std::stoull(words[i].substr(at + 1));
  }
  for (const std::string& data : read_cases()) {
    std::cout << check(data, words.at(1), sizes).dump() << "\n";
  }
  return 0;
}
