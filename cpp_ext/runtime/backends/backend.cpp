// Lists of backends, and what all of them share.
#include "backend.h"

#include <algorithm>
#include <cmath>

namespace mmedge::runtime {

void check_options(const SessionOptions& options) {
  if (options.threads && *options.threads < 1) {
    throw Error(Code::kInput, "threads must be a whole number from 1, or none; got " +
                                  std::to_string(*options.threads));
  }
  const double seconds = options.run_timeout_s.value_or(1);
  if (!(seconds > 0 && std::isfinite(seconds))) {
    throw Error(Code::kInput, "run_timeout_s must be seconds above 0, or none; got " +
                                  std::to_string(seconds));
  }
}

std::string Attention::text() const {
  const std::string by =
      kernel.empty() ? "standard operators: " + reason : "kernel (" + kernel + ")";
  return std::to_string(nodes) + (nodes == 1 ? " node by " : " nodes by ") + by;
}

std::string StageSource::where() const {
  return "stage '" + stage->name + "', variant " + variant->id();
}

const GenerateLoop* in_place_loop(const Manifest& manifest, const Stage& stage,
                                  const Variant& variant) {
  const auto* loop = std::get_if<GenerateLoop>(&manifest.loop);
  return variant.in_place && loop != nullptr && loop->stage == stage.name ? loop : nullptr;
}

std::vector<TensorSpec> graph_inputs(const Manifest& manifest, const Stage& stage,
                                     const Variant& variant) {
  std::vector<TensorSpec> inputs = stage.inputs;
  const GenerateLoop* loop = in_place_loop(manifest, stage, variant);
  if (loop == nullptr) return inputs;
  TensorSpec last{"cache.last", DType::kInt32, {}};
  for (const TensorSpec& spec : stage.inputs) {
    if (spec.name == loop->token && !spec.shape.empty()) last.shape = {spec.shape[0]};
  }
  inputs.push_back(last);
  inputs.push_back({"cache.total", DType::kInt32, {}});
  return inputs;
}

namespace {

std::string names(const std::vector<Backend>& backends, bool that_limit_runs) {
  std::vector<std::string> names;
  for (const Backend& each : backends) {
    if (each.limits_runs || !that_limit_runs) names.push_back(each.name);
  }
  std::sort(names.begin(), names.end());
  std::string list;
  for (const std::string& name : names) list += (list.empty() ? "" : ", ") + name;
  return list.empty() ? "none" : list;
}

}  // namespace

void Backends::add(Backend backend) {
  if (backend.name.empty() || backend.version == nullptr || backend.missing == nullptr ||
      backend.targets == nullptr || backend.open_stage == nullptr) {
    throw Error(Code::kInput, "backend '" + backend.name +
                                  "': a backend has a name and all four functions; set them");
  }
  for (Backend& each : backends_) {
    if (each.name == backend.name) {
      each = std::move(backend);
      return;
    }
  }
  backends_.push_back(std::move(backend));
}

const Backend* Backends::find(const std::string& name) const noexcept {
  for (const Backend& backend : backends_) {
    if (backend.name == name) return &backend;
  }
  return nullptr;
}

std::unique_ptr<Session> Backends::open_stage(const StageSource& source,
                                              const SessionOptions& options) const {
  check_options(options);
  const Backend* backend = find(source.variant->backend);
  if (backend == nullptr) {
    throw Error(Code::kBackend, "variant " + source.variant->id() + ": backend '" +
                                    source.variant->backend + "' is not known; there is " +
                                    names(backends_, false));
  }
  if (options.run_timeout_s && !backend->limits_runs) {
    throw Error(Code::kBackend, "variant " + source.variant->id() +
                                    ": its backend does not end runs at run_timeout_s, as does " +
                                    names(backends_, true) + "; load with that, or leave it out");
  }
  return backend->open_stage(backend->context.get(), source, options);
}

}  // namespace mmedge::runtime
