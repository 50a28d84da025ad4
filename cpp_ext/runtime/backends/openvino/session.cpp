// Opens stages in OpenVINO.
#include "session.h"

#include <algorithm>
#include <map>
#include <optional>
#include <utility>

#include "../cores.h"
#include "graph_folder.h"
#include "onnx_form.h"
#include "run_slot.h"

namespace mmedge::runtime::openvino {
namespace {

// A graph's file. Core.read_model chooses a reader by what the file looks like, and by its name first:
// a bundle's graphs end with ".onnx"; see onnx_form.h for the rest.
Owner<Model> read_model(Library& library, const std::string& path) {
  Owner<Model> model(library.api().model_free);
  library.check(library.api().core_read_model(library.core(), path.c_str(), nullptr, model.out()));
  return model;
}

// Of inputs that have other shapes yet: its C functions take no axes at all for any axis.
void fix_shapes(const Library& library, const Model* model, const Ports& ports,
                const InputShapes& shapes) {
  std::vector<std::vector<Dimension>> sizes;
  std::vector<PartialShape> fixed;
  std::vector<size_t> places;
  for (size_t i = 0; i < shapes.size(); ++i) {
    if (!ports.all[i].dynamic && ports.all[i].sizes == shapes[i]) continue;
    std::vector<Dimension>& each = sizes.emplace_back();
    for (const int64_t size : shapes[i]) each.push_back({size, size});
    const auto rank = static_cast<int64_t>(shapes[i].size());
    fixed.push_back({{rank, rank}, each.data()});
    places.push_back(i);
  }
  library.check(library.api().model_reshape_by_port_indexes(model, places.data(), fixed.data(),
                                                            places.size()));
}

// The sets of shapes in which golden samples enter a stage, the most frequent first.
std::vector<InputShapes> most_frequent(const std::vector<InputShapes>& samples) {
  std::vector<std::pair<InputShapes, size_t>> counts;
  for (const InputShapes& shapes : samples) {
    const auto known = std::find_if(counts.begin(), counts.end(),
                                    [&](const auto& each) { return each.first == shapes; });
    if (known == counts.end()) {
      counts.emplace_back(shapes, 1);
    } else {
      ++known->second;
    }
  }
  std::stable_sort(counts.begin(), counts.end(),
                   [](const auto& a, const auto& b) { return a.second > b.second; });
  std::vector<InputShapes> sets;
  for (size_t i = 0; i < std::min(counts.size(), kSpecialised); ++i) {
    sets.push_back(std::move(counts[i].first));
  }
  return sets;
}

}  // namespace

class OpenVinoSession final : public Session {
 public:
  OpenVinoSession(Library& library, const StageSource& source, int threads)
      : forms_(library, source.where(), threads) {
    if (source.functions > 0) {
      attention_ = Attention{source.functions, "", "OpenVINO has no such operator"};
    }
  }

  // `samples`: by the source's inputs, in its order. Throws Error(kBackend).
  void open(const StageSource& source, const std::vector<InputShapes>& samples) {
    Library& library = forms_.library_;
    std::optional<GraphFolder> copied;
    const bool as_it_is = begins_as_onnx(source.graph);
    if (source.path.empty() || !as_it_is) {
      const std::string& file = source.variant->files.at(source.stage->name);
      const std::string ordered = as_it_is ? "" : reorder_fields(source.graph);
      const Bytes bytes{reinterpret_cast<const uint8_t*>(ordered.data()), ordered.size()};
      copied.emplace(file.substr(file.rfind('/') + 1), as_it_is ? source.graph : bytes,
                     source.weights);
    }
    const std::string& path = copied ? copied->path() : source.path;
    forms_.model_ = read_model(library, path);
    const Ports taken = read_ports(library, forms_.model_.get(), true, source.inputs);
    const Ports given = read_ports(library, forms_.model_.get(), false, source.stage->outputs);
    inputs_ = match_ports(taken, source.inputs, "input", source.stage->name);
    outputs_ = match_ports(given, source.stage->outputs, "output", source.stage->name);
    forms_.inputs_ = &inputs_;
    forms_.outputs_ = &outputs_;
    const bool dynamic = std::any_of(taken.all.begin(), taken.all.end(),
                                     [](const PortInfo& port) { return port.dynamic; });
    if (dynamic) {
      for (InputShapes& shapes : most_frequent(in_order(source.inputs, samples))) {
        const Owner<Model> fixed = read_model(library, path);
        fix_shapes(library, fixed.get(), taken, shapes);
        forms_.special_.push_back(std::make_unique<Compiled>(
            library, compile(library, fixed.get(), forms_.threads_), shapes, inputs_, outputs_));
      }
    }
    if (forms_.special_.empty()) forms_.make_general();
  }

  std::unique_ptr<RunSlot> make_slot() override {
    try {
      return std::make_unique<OpenVinoSlot>(forms_, inputs_, outputs_);
    } catch (const Error& error) {
      throw Error(Code::kBackend, forms_.where() + ": OpenVINO failed: " + error.what());
    }
  }

 private:
  // Shapes by the source's inputs in the model's order.
  std::vector<InputShapes> in_order(const std::vector<TensorSpec>& declared,
                                    const std::vector<InputShapes>& samples) const {
    std::vector<InputShapes> ordered;
    for (const InputShapes& sample : samples) {
      InputShapes& shapes = ordered.emplace_back(sample.size());
      for (size_t i = 0; i < sample.size(); ++i) {
        shapes[static_cast<size_t>(input_index(declared[i].name))] = sample[i];
      }
    }
    return ordered;
  }

  Forms forms_;
};

const Compiled& Forms::make_general() {
  const std::lock_guard<std::mutex> held(lock_);
  if (owned_general_ == nullptr) {
    owned_general_ =
        std::make_unique<Compiled>(library_, compile(library_, model_.get(), threads_),
                                   InputShapes(), *inputs_, *outputs_);
    general_.store(owned_general_.get(), std::memory_order_release);
  }
  return *owned_general_;
}

namespace {

std::unique_ptr<Session> open_stage(void* context, const StageSource& source,
                                    const SessionOptions& options) {
  const std::string where = source.where();
  Library* library = nullptr;
  try {
    library = &Library::load(*static_cast<std::string*>(context));
  } catch (const Error& error) {
    throw Error(Code::kBackend, where + ": " + error.what());
  }
  if (source.variant->target != "cpu") {
    throw Error(Code::kBackend, where + ": OpenVINO runs variants for cpu, not for " +
                                    source.variant->target + "; export the bundle again");
  }
  if (options.kernels == true && source.functions > 0) {
    throw Error(Code::kBackend,
                where + ": mmedge's kernels do not run in OpenVINO; load with backend='ort'");
  }
  const int threads = stage_threads(*source.stage, source.alone, options.threads)
                          .value_or(usable_cores());
  // A bundle's own errors are not OpenVINO's.
  const auto samples = source.golden_shapes ? source.golden_shapes() : std::vector<InputShapes>();
  auto session = std::make_unique<OpenVinoSession>(*library, source, threads);
  try {
    session->open(source, samples);
  } catch (const Error& error) {
    const std::string message = error.what();
    if (error.code() != Code::kBackend || message.compare(0, 7, "stage '") == 0) throw;
    throw Error(Code::kBackend, where + ": OpenVINO refused the graph: " + message);
  }
  return session;
}

std::map<std::string, std::string> missing(void* context) {
  try {
    Library::load(*static_cast<std::string*>(context));
  } catch (const Error& error) {
    return {{"openvino", error.what()}};
  }
  return {};
}

}  // namespace

Backend make_backend(std::string location) {
  Backend backend;
  backend.name = "openvino";
  backend.context = std::make_shared<std::string>(std::move(location));
  backend.missing = missing;
  backend.version = [](void* context) -> std::string {
    try {
      return Library::load(*static_cast<std::string*>(context)).version();
    } catch (const Error&) {  // `missing` says why
      return "";
    }
  };
  backend.targets = [](void* context) {
    return missing(context).empty() ? std::vector<std::string>{"cpu"} : std::vector<std::string>();
  };
  backend.open_stage = open_stage;
  return backend;
}

}  // namespace mmedge::runtime::openvino
