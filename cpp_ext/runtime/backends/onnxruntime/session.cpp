// Loads graphs, and checks what ONNX Runtime has made of them.
#include "session.h"

#ifdef __GLIBC__
#include <malloc.h>
#endif

#include <algorithm>
#include <utility>

#include "../cores.h"
#include "../dispatch.h"
#include "in_place_slot.h"
#include "placement.h"
#include "run_slot.h"

namespace mmedge::runtime::onnxruntime {
namespace {

// Bytes of weights in memory from which the allocator is asked to give back what is free.
[[maybe_unused]] constexpr size_t kTrimBytes = 4 << 20;

// Frees what ONNX Runtime has made.
template <class Function, class T>
class Owner {
 public:
  explicit Owner(const Library& library) : library_(library) {}
  ~Owner() {
    if (held != nullptr) library_.call<Function>(held);
  }
  Owner(const Owner&) = delete;
  Owner& operator=(const Owner&) = delete;

  T* held = nullptr;

 private:
  const Library& library_;
};

using OwnedOptions = Owner<ort::ReleaseSessionOptions, ort::SessionOptions>;
using OwnedType = Owner<ort::ReleaseTypeInfo, ort::TypeInfo>;
using OwnedCuda = Owner<ort::ReleaseCudaOptions, ort::CudaOptions>;

// An input or output as the graph has it.
struct GraphValue {
  std::string name;
  int type = 0;  // 0: not a tensor
  size_t rank = 0;
};

class OrtSession final : public Session {
 public:
  OrtSession(Library& library, const Kernels& kernels) : kernels_(kernels) {
    graph_.library = &library;
    graph_.kernels = &kernels_;
  }
  ~OrtSession() override {
    if (graph_.session != nullptr) graph_.library->call<ort::ReleaseSession>(graph_.session);
  }
  OrtSession(const OrtSession&) = delete;
  OrtSession& operator=(const OrtSession&) = delete;

  std::unique_ptr<RunSlot> make_slot() override {
    if (cache_) return std::make_unique<InPlaceSlot>(graph_, *cache_);
    return std::make_unique<OrtRunSlot>(graph_);
  }

  LoadedGraph& graph() { return graph_; }
  // Takes what the manifest says of the graph's inputs and outputs; throws Error(kBackend) where
  // the graph says otherwise.
  void take_specs(const StageSource& source);
  void set_attention(Attention attention) { attention_ = std::move(attention); }
  void limit_runs(double seconds) {
    watch_ = std::make_unique<RunWatch>(seconds);
    graph_.watch = watch_.get();
    graph_.run_timeout_s = seconds;
  }

 private:
  const Kernels kernels_;
  std::unique_ptr<RunWatch> watch_;
  LoadedGraph graph_;
  std::vector<TensorSpec> graph_inputs_;  // the stage's, and then what a cache in place takes
  std::optional<InPlaceCache> cache_;
};

std::vector<GraphValue> read_values(const LoadedGraph& graph, bool inputs) {
  const Library& library = *graph.library;
  ort::Allocator* allocator = nullptr;
  library.check(library.call<ort::GetAllocatorWithDefaultOptions>(&allocator));
  size_t count = 0;
  library.check(inputs ? library.call<ort::SessionGetInputCount>(graph.session, &count)
                       : library.call<ort::SessionGetOutputCount>(graph.session, &count));
  std::vector<GraphValue> values(count);
  for (size_t i = 0; i < count; ++i) {
    char* name = nullptr;
    library.check(
        inputs ? library.call<ort::SessionGetInputName>(graph.session, i, allocator, &name)
               : library.call<ort::SessionGetOutputName>(graph.session, i, allocator, &name));
    values[i].name = name;
    library.check(library.call<ort::AllocatorFree>(allocator, static_cast<void*>(name)));
    OwnedType type(library);
    library.check(inputs ? library.call<ort::SessionGetInputTypeInfo>(graph.session, i, &type.held)
                         : library.call<ort::SessionGetOutputTypeInfo>(graph.session, i,
                                                                       &type.held));
    const ort::TensorInfo* tensor = nullptr;  // the type's own
    library.check(library.call<ort::CastTypeInfoToTensorInfo>(
        static_cast<const ort::TypeInfo*>(type.held), &tensor));
    if (tensor == nullptr) continue;
    library.check(library.call<ort::GetTensorElementType>(tensor, &values[i].type));
    library.check(library.call<ort::GetDimensionsCount>(tensor, &values[i].rank));
  }
  return values;
}

std::string type_name(int type) {
  DType dtype;
  if (parse_element_type(type, &dtype)) return dtype_name(dtype);
  return type == 0 ? "no tensor" : "a tensor of ONNX's element type " + std::to_string(type);
}

std::string list(std::vector<std::string> names) {
  std::sort(names.begin(), names.end());
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "'" : ", '") + name + "'";
  return "[" + text + "]";
}

std::vector<TensorSpec> match(const std::vector<GraphValue>& values,
                              const std::vector<TensorSpec>& declared, const std::string& kind,
                              const std::string& stage) {
  std::vector<std::string> names, declared_names;
  for (const GraphValue& value : values) names.push_back(value.name);
  for (const TensorSpec& spec : declared) declared_names.push_back(spec.name);
  if (list(names) != list(declared_names)) {
    throw Error(Code::kBackend, "stage '" + stage + "': the graph's " + kind + "s are " +
                                    list(names) + ", the manifest declares " +
                                    list(declared_names) + "; export the bundle again");
  }
  std::vector<TensorSpec> specs;
  for (const GraphValue& value : values) {
    const auto spec = std::find_if(declared.begin(), declared.end(), [&](const TensorSpec& each) {
      return each.name == value.name;
    });
    if (value.type != element_type(spec->dtype) || value.rank != spec->shape.size()) {
      throw Error(Code::kBackend, "stage '" + stage + "': " + kind + " '" + value.name + "' is " +
                                      type_name(value.type) + " of rank " +
                                      std::to_string(value.rank) +
                                      " in the graph, the manifest declares " + spec->text() +
                                      "; export the bundle again");
    }
    specs.push_back(*spec);
  }
  return specs;
}

void OrtSession::take_specs(const StageSource& source) {
  const std::string& name = source.stage->name;
  graph_inputs_ = match(read_values(graph_, true), source.inputs, "input", name);
  outputs_ = match(read_values(graph_, false), source.stage->outputs, "output", name);
  // Runs name their inputs: any order will do.
  const auto of_cache = std::stable_partition(
      graph_inputs_.begin(), graph_inputs_.end(), [&](const TensorSpec& spec) {
        return source.cache_loop == nullptr ||
               (spec.name != kCacheLast && spec.name != kCacheTotal);
      });
  inputs_.assign(graph_inputs_.begin(), of_cache);
  if (source.cache_loop != nullptr) {
    cache_.emplace(*source.manifest, *source.cache_loop, *source.stage, graph_inputs_, outputs_);
  }
  graph_.inputs = &graph_inputs_;
  graph_.outputs = &outputs_;
  for (const TensorSpec& spec : graph_inputs_) graph_.input_names.push_back(spec.name.c_str());
  for (const TensorSpec& spec : outputs_) graph_.output_names.push_back(spec.name.c_str());
}

void set_options(const Library& library, ort::SessionOptions* settings, const StageSource& source,
                 const SessionOptions& options) {
  const auto entry = [&](const char* key, const char* value) {
    library.check(library.call<ort::AddSessionConfigEntry>(settings, key, value));
  };
  if (const auto threads = stage_threads(*source.stage, source.alone, options.threads)) {
    library.check(library.call<ort::SetIntraOpNumThreads>(settings, *threads));
  }
  if (!options.spin.value_or(source.alone)) {
    // Several sessions in one process: idle pools that spin take the cores from the working one.
    entry("session.force_spinning_stop", "1");
  }
  // Errors are raised, and one voice is enough.
  library.check(library.call<ort::SetSessionLogSeverityLevel>(settings, ort::kFatal));
  entry("session.record_ep_graph_assignment_info", "1");
  if (source.variant->target == "cuda") {
    OwnedCuda cuda(library);
    library.check(library.call<ort::CreateCudaOptions>(&cuda.held));
    library.check(library.call<ort::AppendCuda>(
        settings, static_cast<const ort::CudaOptions*>(cuda.held)));
  }
}

ort::Session* make_session(Library& library, const Kernels* kernels, const StageSource& source,
                           const SessionOptions& options) {
  OwnedOptions settings(library);
  library.check(library.call<ort::CreateSessionOptions>(&settings.held));
  set_options(library, settings.held, source, options);
  if (kernels != nullptr) {
    library.check(kernels->register_operators(settings.held, library.base()));
  }
  const ort::Env* env = library.env();
  const ort::SessionOptions* held = settings.held;
  ort::Session* session = nullptr;
  if (!source.path.empty()) {
    library.check(library.call<ort::CreateSession>(env, source.path.c_str(), held, &session));
    return session;
  }
  std::vector<const char*> names;
  std::vector<char*> data;
  std::vector<size_t> bytes;
  [[maybe_unused]] size_t total = 0;
  for (const auto& [name, file] : source.weights) {
    total += file.size;
    names.push_back(name.c_str());
    data.push_back(reinterpret_cast<char*>(const_cast<uint8_t*>(file.data)));
    bytes.push_back(file.size);
  }
  if (!names.empty()) {
    library.check(library.call<ort::AddExternalInitializersFromFilesInMemory>(
        settings.held, static_cast<const char* const*>(names.data()),
        static_cast<char* const*>(data.data()), static_cast<const size_t*>(bytes.data()),
        names.size()));
  }
  library.check(library.call<ort::CreateSessionFromArray>(
      env, static_cast<const void*>(source.graph.data), source.graph.size, held, &session));
#ifdef __GLIBC__
  // It copied the weights and let go of those that it packed anew, half of which the allocator may
  // still hold.
  if (total >= kTrimBytes) malloc_trim(0);
#endif
  return session;
}

// The kernels for the functions of a graph; null, and why not.
const Kernels* choose_kernels(const Kernels& kernels, const std::string& target,
                              const SessionOptions& options, std::string* reason) {
  if (options.kernels == false) {
    *reason = "kernels are turned off";
    return nullptr;
  }
  if (target != "cpu") {
    *reason = "the kernel for " + target + " is not among ONNX Runtime's operators";
    return nullptr;
  }
  if (!kernels.present()) {
    *reason = kernels.reason;
    return nullptr;
  }
  if (!options.kernels) {
    const KernelChoice choice = choose_kernel(std::string("cpu-") + kernels.isa());
    if (!choice.kernel) {
      *reason = choice.reason;
      return nullptr;
    }
  }
  return &kernels;
}

std::string first_line(const std::string& text) { return text.substr(0, text.find('\n')); }

void check_provider(const Library& library, const StageSource& source) {
  const std::string& target = source.variant->target;
  if (provider_name(target) == nullptr) {
    throw Error(Code::kBackend, source.where() +
                                    ": ONNX Runtime runs variants for cpu and cuda, not for " +
                                    target + "; export the bundle again");
  }
  const std::vector<std::string> providers = library.providers();
  if (std::find(providers.begin(), providers.end(), provider_name(target)) == providers.end()) {
    std::string names;
    for (const std::string& name : providers) names += (names.empty() ? "" : ", ") + name;
    throw Error(Code::kBackend, source.where() + ": " + provider_name(target) +
                                    " is not in this ONNX Runtime (" + library.version() +
                                    " has " + names + "); install one that has it");
  }
}

}  // namespace

std::unique_ptr<Session> open_stage(Library& library, const Kernels& kernels,
                                    const StageSource& source, const SessionOptions& options) {
  check_provider(library, source);
  const std::string where = source.where();
  auto session = std::make_unique<OrtSession>(library, kernels);
  LoadedGraph& graph = session->graph();
  graph.where = where;
  std::string reason;
  const Kernels* chosen = nullptr;
  if (source.functions > 0) {
    chosen = choose_kernels(kernels, source.variant->target, options, &reason);
  }
  if (chosen != nullptr) {
    try {
      graph.session = make_session(library, chosen, source, options);
    } catch (const Error& error) {  // the body may be what this graph needs
      reason = "ONNX Runtime refused the kernel: " + first_line(error.what());
    }
  }
  if (graph.session == nullptr) {
    try {
      graph.session = make_session(library, nullptr, source, options);
    } catch (const Error& error) {
      throw Error(Code::kBackend, where + ": ONNX Runtime " + library.version() +
                                      " refused the graph: " + error.what());
    }
  }
  const int64_t kernel_nodes =
      check_placement(library, graph.session, source.variant->target, where);
  if (source.functions > 0) {
    if (kernel_nodes > 0) {
      session->set_attention({kernel_nodes, kernels.isa(), ""});
      graph.unproven = kernel_nodes;
    } else {
      if (reason.empty()) reason = "ONNX Runtime took the body in place of the kernel";
      session->set_attention({source.functions, "", reason});
    }
  }
  session->take_specs(source);
  if (options.run_timeout_s) session->limit_runs(*options.run_timeout_s);
  return session;
}

namespace {

struct Context {
  std::string location;
  Kernels kernels;
};

std::map<std::string, std::string> missing(void* context) {
  std::map<std::string, std::string> reasons;
  const std::string& location = static_cast<Context*>(context)->location;
  try {
    const std::vector<std::string> providers = Library::load(location).providers();
    if (std::find(providers.begin(), providers.end(), provider_name("cuda")) == providers.end()) {
      reasons["cuda"] = "ONNX Runtime here has no CUDA provider";
    }
  } catch (const Error& error) {
    reasons["ort"] = reasons["cuda"] = error.what();
  }
  return reasons;
}

}  // namespace

Backend make_backend(std::string location, Kernels kernels) {
  Backend backend;
  backend.name = "ort";
  backend.limits_runs = true;
  backend.context = std::make_shared<Context>(Context{std::move(location), std::move(kernels)});
  backend.missing = missing;
  backend.version = [](void* context) -> std::string {
    try {
      return Library::load(static_cast<Context*>(context)->location).version();
    } catch (const Error&) {  // `missing` says why
      return "";
    }
  };
  backend.targets = [](void* context) {
    const auto reasons = missing(context);
    std::vector<std::string> targets;
    if (reasons.count("ort") == 0) targets.emplace_back("cpu");
    if (reasons.count("cuda") == 0) targets.emplace_back("cuda");
    return targets;
  };
  backend.open_stage = [](void* context, const StageSource& source,
                          const SessionOptions& options) {
    const auto& held = *static_cast<Context*>(context);
    Library* library = nullptr;
    try {
      library = &Library::load(held.location);
    } catch (const Error& error) {
      throw Error(Code::kBackend, source.where() + ": " + error.what());
    }
    return onnxruntime::open_stage(*library, held.kernels, source, options);
  };
  return backend;
}

}  // namespace mmedge::runtime::onnxruntime
