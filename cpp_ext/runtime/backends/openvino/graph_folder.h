// Files of a zip on the disk, for a library that opens them by themselves.
#ifndef MMEDGE_RUNTIME_BACKENDS_OPENVINO_GRAPH_FOLDER_H_
#define MMEDGE_RUNTIME_BACKENDS_OPENVINO_GRAPH_FOLDER_H_

#include <map>
#include <string>
#include <vector>

#include "../../tensor.h"

namespace mmedge::runtime::openvino {

// A private folder that holds a graph, and its weights beside it; removed with its last use.
class GraphFolder {
 public:
  // `name` is the graph's file; weights are by names relative to it. Throws Error(kBundle): the copy
  // does not fit on the disk.
  GraphFolder(const std::string& name, const Bytes& graph,
              const std::map<std::string, Bytes>& weights);
  ~GraphFolder();
  GraphFolder(const GraphFolder&) = delete;
  GraphFolder& operator=(const GraphFolder&) = delete;

  const std::string& path() const { return path_; }  // of the graph

 private:
  void remove() noexcept;
  void write(const std::string& name, const Bytes& bytes);

  std::string folder_, path_;
  std::vector<std::string> made_;  // in it, in order; a folder ends with a slash
};

}  // namespace mmedge::runtime::openvino

#endif  // MMEDGE_RUNTIME_BACKENDS_OPENVINO_GRAPH_FOLDER_H_
